"""Whether stored weights fit a model, judged by names and shapes alone.

A module is loaded whole or not at all. A module without any stored weight (a fresh head, new gates)
starts as initialised; a module with some but not all of its weights is a mismatch, and so is a
stored weight that fits nowhere. Heads that count classes may start fresh where the number of
classes differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CLASS_TOKEN = ".trunk.cls_token"

Shapes = Mapping[str, tuple[int, ...]]

# Names in detectron2: the predictors of Fast R-CNN, Cascade and the mask head; RetinaNet's head.
_SCORES = re.compile(r"roi_heads\.box_predictor(\.\d+)?\.cls_score\.(weight|bias)")
_PER_CLASS = re.compile(
    r"roi_heads\.(box_predictor(\.\d+)?\.bbox_pred|mask_head\.predictor)\.(weight|bias)"
)
_RETINA_SCORES = re.compile(r"head\.cls_score\.(weight|bias)")
_RETINA_BOXES = "head.bbox_pred.bias"


@dataclass(frozen=True)
class OtherClasses:
    """Stored weights of a model that differs only in its number of classes."""

    names: list[str]
    """The weights that do not fit for this reason alone, in the model's order."""
    given: int
    """Classes of the stored weights."""
    wanted: int
    """Classes of the model."""


def other_classes(model: Shapes, given: Shapes) -> OtherClasses | None:
    """The weights that do not fit because the stored weights are for another number of classes.

    None where the number is the same or not known. The result names only weights whose first
    dimension counts classes, and whose other dimensions agree. All other differences are left to
    `architecture_mismatch`.
    """
    changed = [
        name
        for name, shape in model.items()
        if name in given and given[name] != shape and given[name][1:] == shape[1:] and shape
    ]
    counts = _counts(changed, model, given)
    if counts is None:
        return None
    stored, wanted = counts
    names = []
    for name in changed:
        old, new = given[name][0], model[name][0]
        if _SCORES.fullmatch(name):
            fits = (old - 1, new - 1) == counts  # one score more is for the background
        elif _PER_CLASS.fullmatch(name) or _RETINA_SCORES.fullmatch(name):
            fits = old * wanted == new * stored
        else:
            fits = False
        if fits:
            names.append(name)
    return OtherClasses(names, stored, wanted)


def _counts(changed: Iterable[str], model: Shapes, given: Shapes) -> tuple[int, int] | None:
    """How many classes the stored weights and the model have, where the numbers differ."""
    for name in changed:
        old, new = given[name][0], model[name][0]
        if _SCORES.fullmatch(name):
            return (old - 1, new - 1) if min(old, new) > 1 else None
        if _RETINA_SCORES.fullmatch(name):
            # A score for each class and anchor, and four coordinates for each anchor.
            coordinates = model.get(_RETINA_BOXES, ())
            anchors = coordinates[0] // 4 if coordinates else 0
            if anchors and old % anchors == new % anchors == 0 and min(old, new) > 0:
                return old // anchors, new // anchors
    return None


def architecture_mismatch(model: Shapes, given: Shapes) -> list[str]:
    """Why stored weights do not fit a model; empty where they fit. Both are shapes by name."""
    problems = []
    shapes = [n for n in model if n in given and model[n] != given[n]]
    if shapes:
        first = shapes[0]
        problems.append(f"{some(shapes)} differ in shape ({given[first]} for {model[first]})")
    unexpected = [n for n in given if n not in model and ".policy." not in n]
    if unexpected:
        problems.append(f"{some(unexpected)} are not in the model")
    modules = {_module(name) for name in given}
    missing = [n for n in model if n not in given and _module(n) in modules]
    if missing:
        problems.append(f"{some(missing)} are not in the file")
    if not any(name in given for name in model):
        problems.append("nothing in the file is in the model")
    return problems


def _module(name: str) -> str:
    """The part of the model that is loaded whole or not at all."""
    if name.startswith(("pixel_mean", "pixel_std")) or name.endswith(CLASS_TOKEN):
        return name  # a dense model has no class token
    if ".policy." in name:
        return "policy"
    if ".trunk." in name:
        return "trunk"  # a pretrained ViT comes without the parts beside the trunk
    return ".".join(name.split(".")[:2])


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
