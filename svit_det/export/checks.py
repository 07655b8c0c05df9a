"""Whether an exported file computes what the model computes, on pictures it was not traced with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.export.backbone import KEEP_MAPS
from svit_det.export.running import Run


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the model."""

    difference: float
    """The largest over the maps, or over what was found; inf where shapes differ."""
    same_kept: bool
    """Every block kept the same tokens."""
    counts: tuple[int, ...]
    """Tokens that each block kept of the last picture, by the exported file."""

    def __str__(self) -> str:
        kept = "the same tokens kept" if self.same_kept else "OTHER TOKENS KEPT"
        return f"{kept}, largest difference {self.difference:.1e}"


@torch.no_grad()
def compare(graph: nn.Module, run: Run, images: Iterable[Tensor]) -> Parity:
    """The exported file `run` against the module it was made of, eager, over some pictures."""
    at = graph.outputs.index(KEEP_MAPS)
    difference, same, kept = 0.0, True, np.zeros((1, 0, 1, 1))
    for image in images:
        wanted = [each.numpy() for each in graph(image)]
        found = run(image)
        kept, wanted_kept = found.pop(at), wanted.pop(at)
        same &= kept.shape == wanted_kept.shape and bool((kept == wanted_kept).all())
        for one, other in zip(found, wanted, strict=True):
            if one.shape != other.shape:
                difference = float("inf")
            elif one.size:
                apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
                difference = max(difference, float(apart.max()))
    return Parity(difference, same, tuple(kept[0].sum(axis=(1, 2)).tolist()))


def check_other_size(run: Run, image: Tensor, *, file: str) -> None:
    """Raise InputError unless a file of fixed size refuses this picture, of another one."""
    try:
        run(image)
    except Exception:  # each runtime has its own
        return
    raise InputError(f"{file}: took a picture of another size than its own without a word.")
