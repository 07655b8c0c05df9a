"""Weights on disk: a file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from svit_det.errors import InputError


def write_weights(weights: Mapping[str, Tensor], to: Path) -> None:
    """Tensors by name as `.safetensors`, or as a `.pth` that holds them under "model".

    Raises InputError where the file cannot be written; then nothing of it is left.
    """
    partial = to.with_name(to.name + ".partial")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.suffix == ".safetensors":
            save_file(dict(weights), partial)
            partial.chmod(0o644)  # safetensors makes files that only their owner may read
        else:
            torch.save({"model": dict(weights)}, partial)
        os.replace(partial, to)
    except (OSError, SafetensorError) as error:
        if partial.is_file():
            partial.unlink()
        raise InputError(f"{to}: cannot be written ({error}).") from error
