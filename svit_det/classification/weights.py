"""Weights of a classifier: loading whole parts only, and writing with a description."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svit_det import __version__
from svit_det.classification.model import TokenClassifier
from svit_det.errors import InputError, printable, refuse_url
from svit_det.shipped import find_weights
from svit_det.training.distillation import dense_teacher
from svit_det.training.finite import check_finite, not_finite, some_of
from svit_det.weights.files import DESCRIPTION, read_checkpoint, write_checkpoint, write_weights
from svit_det.weights.kinds import check_kinds

logger = logging.getLogger(__name__)

POLICY = "trunk.policy."
HEADS = ("head.", "class_head.", "class_norm.")


def describe(cfg: Any, classes: Iterable[str] | None = None) -> dict[str, Any]:
    """The description of weights in their file: plain values."""
    said = {"version": __version__, "config": cfg.dump(), "policy": cfg.MODEL.TOKEN_POLICY.NAME}
    return said if classes is None else {**said, "classes": list(classes)}


def load_weights(model: TokenClassifier, path: str, *, for_training: bool) -> None:
    """Load a file of this project, or a file that convert_weights wrote, into `model`.

    `path` may name shipped weights, such as "digits/dense".

    For training, a policy that the file lacks and heads for another number of classes start as
    initialised; otherwise such a file is refused. A policy in the file that the model lacks is left
    out. Raises InputError that names the file and the weight that does not fit, is not finite, or
    is of another kind.
    """
    refuse_url(path, name="MODEL.WEIGHTS")
    path = find_weights(path)
    if not os.path.isfile(path):
        raise InputError(f"MODEL.WEIGHTS {printable(path)}: no such file.")
    given = read_checkpoint(path)["model"]
    ours = model.state_dict()
    check_finite(given, source=path, model=ours)
    check_kinds(ours, given, source=path)
    fresh = _fresh(model, given, ours, path, for_training=for_training)
    left = [name for name in given if name not in ours and name.startswith(POLICY)]
    wanted = {name: value for name, value in given.items() if name not in (*left, *fresh)}
    _check(wanted, {name: ours[name] for name in ours if name not in fresh}, path)
    model.load_state_dict(wanted, strict=False)
    for what, names in (("starts as initialised", fresh), ("is left out", left)):
        if names:
            logger.info("%s: %s and %d more %s.", path, printable(names[0]), len(names) - 1, what)


def _fresh(
    model: TokenClassifier,
    given: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    path: str,
    *,
    for_training: bool,
) -> list[str]:
    """The names of the model's weights that the file lacks and may lack."""
    policy = [name for name in ours if name.startswith(POLICY)]
    fresh = [] if any(name in given for name in policy) else policy
    learned = [name for name, _ in model.named_parameters() if name in fresh]
    if learned and not for_training:
        raise InputError(
            f"{path}: no weights of {type(model.trunk.policy).__name__} in it, which would decide "
            "at random; train it first."
        )
    for head in HEADS:
        names = [name for name in ours if name.startswith(head)]
        missing = [name for name in names if name not in given]
        other = [name for name in names if name in given and _of_other_classes(given, ours, name)]
        if (missing or other) and not for_training:
            told = f"another number of classes than {model.num_classes}" if other else "no head"
            raise InputError(
                f"{path}: {told}; set the MODEL.NUM_CLASSES and MODEL.READS that it was trained "
                "with."
            )
        fresh += [*missing, *other]
    return fresh


def _of_other_classes(given: Mapping[str, Tensor], ours: Mapping[str, Tensor], name: str) -> bool:
    one, two = given[name].shape, ours[name].shape
    return one != two and one[1:] == two[1:]


def _check(given: Mapping[str, Tensor], ours: Mapping[str, Tensor], path: str) -> None:
    """Raise InputError that names the first weight that is unknown, of wrong shape or missing."""
    known = set(ours) | {f"{head}{end}" for head in HEADS for end in _ENDS}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{path}: {name} is not in the model; is it a classifier's file?")
        if name in ours and value.shape != ours[name].shape:
            raise InputError(
                f"{path}: {name} is {tuple(value.shape)}, and {tuple(ours[name].shape)} in the "
                "model; these weights are of another width or depth."
            )
    missing = [name for name in ours if name not in given]
    if missing:
        raise InputError(f"{path}: {missing[0]} is not in the file, which is not whole.")


_ENDS = ("weight", "bias")


def load_whole(model: TokenClassifier, given: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights that must be the model's own, all of them. Raises InputError."""
    ours = model.state_dict()
    check_finite(given, source=source, model=ours)
    check_kinds(ours, given, source=source)
    _check(given, ours, source)
    model.load_state_dict(dict(given))


def load_teacher(model: TokenClassifier, path: str) -> TokenClassifier:
    """A frozen copy of `model` under the policy Dense, with the weights of the file `path`.

    Raises InputError for an empty or missing `path`, and for weights of another width, depth or
    number of classes.
    """
    if not path:
        raise InputError(
            "SOLVER.TEACHER and MODEL.WEIGHTS are empty, and something learns from a teacher: name "
            "the weights of a dense model."
        )
    teacher = dense_teacher(model)
    assert isinstance(teacher, TokenClassifier)
    try:
        load_weights(teacher, path, for_training=False)
    except InputError as error:
        raise InputError(f"The teacher does not fit the model it teaches. {error}") from error
    return teacher


def save_weights(
    model: TokenClassifier, path: Path, cfg: Any, classes: Iterable[str] | None = None
) -> None:
    """Write the weights with their description, whole or not at all. Raises InputError.

    Numbers that are not finite are refused; an older file at `path` then stays.
    """
    weights = model.state_dict()
    _check_written(weights, path)
    write_checkpoint({"model": weights, DESCRIPTION: describe(cfg, classes)}, path)


def export_weights(model: TokenClassifier, path: Path, cfg: Any, classes: Iterable[str]) -> None:
    """Write the weights as `save_weights` does; real numbers in half precision, to save space."""
    weights = {
        name: value.cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
    _check_written(weights, path)
    write_weights(weights, path, description=describe(cfg, classes))


def _check_written(weights: Mapping[str, Tensor], path: Path) -> None:
    bad = not_finite(weights)
    if bad:
        raise InputError(
            f"{path}: not written, because numbers are not finite in {some_of(bad)}; train anew "
            "with a lower SOLVER.BASE_LR."
        )
