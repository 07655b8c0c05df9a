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
    """The largest over the maps, or over what was found; inf where shapes differ, and where the
    file gives no number."""
    alike: float
    """Share of all decisions, of every block about every token, that are the model's."""
    counts: tuple[int, ...]
    """Tokens that each block kept of the last picture, by the exported file."""
    finite: bool = True
    """The file gives numbers."""

    @property
    def same_kept(self) -> bool:
        """Every block kept the same tokens."""
        return self.alike == 1

    def __str__(self) -> str:
        kept = "the same tokens kept"
        if not self.same_kept:
            kept = f"OTHER TOKENS KEPT, {self.alike:.1%} of the decisions alike"
        if not self.finite:
            return f"{kept}, NO NUMBERS"
        if self.difference == float("inf"):
            return f"{kept}, another number of detections"
        return f"{kept}, largest difference {self.difference:.1e}"


@torch.no_grad()
def compare(graph: nn.Module, run: Run, images: Iterable[Tensor]) -> Parity:
    """The exported file `run` against the module it was made of, eager, over some pictures."""
    at = graph.outputs.index(KEEP_MAPS)
    difference, alike, finite, kept = 0.0, [], True, np.zeros((1, 0, 1, 1))
    for image in images:
        wanted = [each.numpy() for each in graph(image)]
        found = run(image)
        kept, wanted_kept = found.pop(at), wanted.pop(at)
        same = kept.shape == wanted_kept.shape
        alike.append(float((kept == wanted_kept).mean()) if same else 0.0)
        for one, other in zip(found, wanted, strict=True):
            finite &= bool(np.isfinite(one).all())
            if one.shape != other.shape or not finite:
                difference = float("inf")
            elif one.size:
                apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
                difference = max(difference, float(apart.max()))
    counts = tuple(kept[0].sum(axis=(1, 2)).tolist())
    return Parity(difference, sum(alike) / len(alike), counts, finite)


def check_refused(run: Run, images: Tensor, *, file: str, what: str) -> None:
    """Raise InputError unless a file refuses these pictures, which it was not made for."""
    try:
        run(images)
    except Exception:  # each runtime has its own
        return
    raise InputError(f"{file}: took {what} than its own without a word.")
