"""Checks that an exported file computes the same as the model, on pictures not used in tracing."""

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
    """The differences between an exported file and the model."""

    difference: float
    """The largest difference over the maps, or over the detections; inf where shapes differ, and
    where the file gives numbers that are not finite."""
    alike: float
    """Share of all decisions (of every block about every token) that agree with the model."""
    counts: tuple[int, ...]
    """Tokens that each block of the exported file kept of the last picture."""
    finite: bool = True
    """All numbers of the file are finite."""

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
    """Compare the exported file `run` with its module `graph`, run eagerly, on some pictures."""
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
    """Raise InputError unless a file refuses these pictures, for which it was not made."""
    try:
        run(images)
    except Exception:  # each runtime has exceptions of its own
        return
    raise InputError(f"{file}: took {what} than its own without a word.")
