"""Loading weights without running anything from the file, and without half-loaded models."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import load_file
from torch import Tensor

from svit_det.errors import InputError

logger = logging.getLogger(__name__)

CLASS_TOKEN = ".trunk.cls_token"


class TokenCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer for `.pth` and `.safetensors`.

    A file is data: pickles that would run code are refused, and so is detectron2's suffix matching
    of names, which puts DeiT's final norm into a gate. A module is loaded whole or not at all:
    one without any stored weight (a fresh head, new gates) starts as initialised and is named; one
    with some but not all is an error, and so is a stored weight that fits nowhere.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As detectron2's. Raises InputError, naming the file and the keys."""
        if "matching_heuristics" in path:
            raise InputError(
                f"MODEL.WEIGHTS {path}: matching_heuristics would load weights into gates they do "
                "not belong to; convert the file instead."
            )
        if path and "://" not in path and not Path(path).is_file():
            raise InputError(f"MODEL.WEIGHTS {path}: no such file.")
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # detectron2 clears it only where all went well

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        # detectron2 takes DDP's prefix off only where all names have it.
        weights = {n.removeprefix("module."): value for n, value in checkpoint["model"].items()}
        checkpoint["model"] = weights
        shapes = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in weights.items()}
        problems = architecture_mismatch(shapes, given)
        if problems:
            raise InputError(
                f"{self._path}: these weights are of another architecture: {'; '.join(problems)}."
            )
        for name in shapes:
            if name.endswith(CLASS_TOKEN) and name not in weights:
                logger.info("%s has no class token: %s starts at random.", self._path, name)
        return super()._load_model(checkpoint)


def read_checkpoint(filename: str) -> dict[str, Any]:
    """A file of weights, which are a dict of tensors under "model"; nothing in it is executed.

    mmdetection's files, which say "state_dict", and bare dicts of tensors are brought to that form.
    Raises InputError for a file that holds anything else.
    """
    try:
        if filename.endswith(".safetensors"):
            loaded = load_file(filename)
        else:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
    # Whatever a broken or foreign file makes the two readers raise, also inside a tar or a zip.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{filename}: not a file of plain weights ({reason.rstrip('.')}); it was not "
            "executed. Give a .safetensors file or a .pth that holds tensors only."
        ) from error
    checkpoint = loaded if isinstance(loaded, dict) and "model" in loaded else {"model": loaded}
    if isinstance(loaded, dict) and "state_dict" in loaded:
        checkpoint = {"model": loaded["state_dict"]}
    weights = checkpoint["model"]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise InputError(f"{filename}: holds no tensors by name, itself or under 'model'.")
    return checkpoint


def architecture_mismatch(
    model: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]
) -> list[str]:
    """Why stored weights do not fit a model, both as shapes by name; empty where they do."""
    problems = []
    shapes = [n for n in model if n in given and model[n] != given[n]]
    if shapes:
        first = shapes[0]
        problems.append(f"{_some(shapes)} differ in shape ({given[first]} for {model[first]})")
    unexpected = [n for n in given if n not in model and ".policy." not in n]
    if unexpected:
        problems.append(f"{_some(unexpected)} are not in the model")
    modules = {_module(name) for name in given}
    missing = [n for n in model if n not in given and _module(n) in modules]
    if missing:
        problems.append(f"{_some(missing)} are not in the file")
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
        return "trunk"  # a pretrained ViT comes without what stands beside it
    return ".".join(name.split(".")[:2])


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
