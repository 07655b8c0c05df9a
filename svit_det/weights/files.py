"""Files of weights: nothing in a file is executed, and a file is written whole or not at all."""

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
from svit_det.weights.content import check_description, check_size
from svit_det.weights.foreign import check_file, refusal
from svit_det.weights.forms import in_one_form

DESCRIPTION = "svit_det"
"""The key under which a file describes its weights: at the top level of a .pth, in the head of a
.safetensors. The description is a dict of plain values that JSON knows.
"""


def read_checkpoint(filename: str) -> dict[str, Any]:
    """The content of a file of weights, with the tensors by name under "model".

    Nothing in the file is executed. The files of mmdetection, which say "state_dict", and bare
    dicts of tensors are brought to this form (see `forms`). Names lose the prefix that training in
    several processes gives them. The file's description, where there is one, is found under
    `DESCRIPTION`. Raises InputError for a file that holds anything else.
    """
    check_file(filename)
    try:
        if filename.endswith(".safetensors"):
            loaded = _read_safetensors(filename)
        else:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
    # A broken or foreign file may make the two readers raise anything, also inside a tar or a zip.
    except Exception as error:
        raise refusal(filename, error) from error
    check_size(loaded, source=filename)
    checkpoint = in_one_form(loaded, source=filename)
    weights = checkpoint["model"]
    if DESCRIPTION in checkpoint:
        _check_said(checkpoint[DESCRIPTION], filename)
    checkpoint["model"] = _without_prefix(weights, source=filename)
    return checkpoint


def read_description(filename: str) -> dict[str, Any]:
    """The description of a file of weights; empty where there is none. Raises InputError.

    Only the head of a .safetensors file is read.
    """
    if not filename.endswith(".safetensors"):
        return read_checkpoint(filename).get(DESCRIPTION, {})
    check_file(filename)
    try:
        said = _head_of_safetensors(filename).get(DESCRIPTION, {})
    # As in `read_checkpoint`: a head may also be nested deeper than Python's reader can follow.
    except Exception as error:
        raise refusal(filename, error) from error
    _check_said(said, filename)
    return dict(said)


def write_weights(
    weights: Mapping[str, Tensor], to: Path, *, description: Mapping[str, Any] | None = None
) -> None:
    """Write tensors by name as `.safetensors`, or as a `.pth` that holds them under "model".

    `description`: plain values that say what the weights are; `read_checkpoint` returns it.
    Raises InputError where the file cannot be written; no part of the file is left then.
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
            save_file(_apart(weights), partial, metadata=head)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def write_checkpoint(content: Mapping[str, Any], to: Path) -> None:
    """Write a `.pth` of tensors and plain values; errors and leftovers as in `write_weights`."""
    with write_whole(to) as partial:
        save(dict(content), partial)


def save(content: Any, to: Path) -> None:
    """`torch.save`, but a disk that is full raises OSError."""
    with open(to, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch only says that the archive is cut short; the reason is the error behind this.
            behind = error.__context__
            raise behind if isinstance(behind, OSError) else OSError(str(error)) from error


def _read_safetensors(filename: str) -> dict[str, Any]:
    return {"model": load_file(filename), **_head_of_safetensors(filename)}


def _head_of_safetensors(filename: str) -> dict[str, Any]:
    with safe_open(filename, framework="pt") as file:
        head = file.metadata() or {}
    return {DESCRIPTION: json.loads(head[DESCRIPTION])} if DESCRIPTION in head else {}


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, none of which shares its memory with another: safetensors refuses such ones."""
    seen: set[int] = set()
    apart = {}
    for name, value in weights.items():
        place = value.untyped_storage().data_ptr()
        apart[name] = (value.clone() if place in seen else value).contiguous()
        seen.add(place)
    return apart


def _check_said(said: Any, filename: str) -> None:
    if not isinstance(said, dict):
        raise InputError(f"{filename}: holds no values by name under '{DESCRIPTION}'.")
    check_description(said, source=filename)


def _without_prefix(weights: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Names without DDP's prefix. detectron2 removes the prefix only where all names have it."""
    bare = {name.removeprefix("module."): value for name, value in weights.items()}
    if len(bare) < len(weights):
        twice = next(name for name in weights if f"module.{name}" in weights)
        raise InputError(f"{source}: holds both {twice} and module.{twice}; remove one of them.")
    return bare
