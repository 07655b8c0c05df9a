"""Files of weights: nothing in one is executed, and one is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from svit_det.errors import InputError
from svit_det.files import write_whole
from svit_det.weights.foreign import check_file, refusal
from svit_det.weights.forms import in_one_form

DESCRIPTION = "svit_det"
"""Where a file says what its weights are: a top-level key of a .pth, in the head of a .safetensors.

What stands there is a dict of plain values that JSON knows.
"""


def read_checkpoint(filename: str) -> dict[str, Any]:
    """A file of weights, which are a dict of tensors under "model"; nothing in it is executed.

    mmdetection's files, which say "state_dict", and bare dicts of tensors are brought to that form
    (see `forms`), and names lose the prefix that training in several processes gives them. What the
    file says of itself comes under `DESCRIPTION`, where it says anything.
    Raises InputError for a file that holds anything else.
    """
    check_file(filename)
    try:
        if filename.endswith(".safetensors"):
            loaded = _read_safetensors(filename)
        else:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
    # Whatever a broken or foreign file makes the two readers raise, also inside a tar or a zip.
    except Exception as error:
        raise refusal(filename, error) from error
    checkpoint = in_one_form(loaded, source=filename)
    weights = checkpoint["model"]
    if not isinstance(checkpoint.get(DESCRIPTION, {}), dict):
        raise InputError(f"{filename}: holds no values by name under '{DESCRIPTION}'.")
    checkpoint["model"] = _without_prefix(weights, source=filename)
    return checkpoint


def read_description(filename: str) -> dict[str, Any]:
    """What a file of weights says of itself; nothing where it says nothing. Raises InputError.

    Of a .safetensors only the head is read.
    """
    if not filename.endswith(".safetensors"):
        return read_checkpoint(filename).get(DESCRIPTION, {})
    try:
        said = _head_of_safetensors(filename).get(DESCRIPTION, {})
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{filename}: not a file of plain weights ({error}).") from error
    if not isinstance(said, dict):
        raise InputError(f"{filename}: holds no values by name under '{DESCRIPTION}'.")
    return said


def write_weights(
    weights: Mapping[str, Tensor], to: Path, *, description: Mapping[str, Any] | None = None
) -> None:
    """Tensors by name as `.safetensors`, or as a `.pth` that holds them under "model".

    `description`: plain values that say what they are; `read_checkpoint` gives them back.
    Raises InputError where the file cannot be written; then nothing of it is left.
    """
    if to.suffix != ".safetensors":
        said = {} if description is None else {DESCRIPTION: dict(description)}
        write_checkpoint({"model": dict(weights), **said}, to)
        return
    head = None
    if description is not None:
        head = {DESCRIPTION: json.dumps(dict(description), allow_nan=False)}
    with write_whole(to) as partial:
        try:
            save_file(dict(weights), partial, metadata=head)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def write_checkpoint(content: Mapping[str, Any], to: Path) -> None:
    """A `.pth` of tensors and plain values, whole or not at all; raises as `write_weights` does."""
    with write_whole(to) as partial, open(partial, "wb") as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:
            # torch complains of an archive cut short; why it was cut stands behind that.
            behind = error.__context__
            raise behind if isinstance(behind, OSError) else OSError(str(error)) from error


def _read_safetensors(filename: str) -> dict[str, Any]:
    return {"model": load_file(filename), **_head_of_safetensors(filename)}


def _head_of_safetensors(filename: str) -> dict[str, Any]:
    with safe_open(filename, framework="pt") as file:
        head = file.metadata() or {}
    return {DESCRIPTION: json.loads(head[DESCRIPTION])} if DESCRIPTION in head else {}


def _without_prefix(weights: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """detectron2 takes DDP's prefix off only where all names have it."""
    bare = {name.removeprefix("module."): value for name, value in weights.items()}
    if len(bare) < len(weights):
        twice = next(name for name in weights if f"module.{name}" in weights)
        raise InputError(f"{source}: holds both {twice} and module.{twice}; remove one of them.")
    return bare
