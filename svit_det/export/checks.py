"""Checks that an exported file computes the same as the model, on pictures not used in tracing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.export.backbone import KEEP_MAPS
from svit_det.export.running import Run


@dataclass(frozen=True)
class Apart:
    """How far one output of an exported file is from the model's."""

    most: float = 0.0
    """The largest difference of any number; inf where shapes differ, and where the file gives
    numbers that are not finite."""
    scale: float = 1.0
    """The size of the model's largest number, or 1 where that is smaller."""
    compared: bool = True
    """The output held a number in at least one picture; else nothing is known about it."""

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest number."""
        return self.most / self.scale

    def and_of(self, found: np.ndarray, wanted: np.ndarray) -> Apart:
        """The same over one more picture."""
        if found.shape != wanted.shape or not np.isfinite(found).all():
            return Apart(np.inf, self.scale)
        if not found.size:
            return self
        wanted = wanted.astype(np.float64)
        most, scale = np.abs(found - wanted).max(), np.abs(wanted).max()
        return Apart(max(self.most, float(most)), max(self.scale, float(scale)))


@dataclass(frozen=True)
class Parity:
    """The differences between an exported file and the model."""

    apart: Mapping[str, Apart]
    """By output: the maps, or the numbers of the detections."""
    alike: float
    """Share of all decisions (of every block about every token) that agree with the model."""
    counts: tuple[int, ...]
    """Tokens that each block of the exported file kept of the last picture."""
    finite: bool = True
    """All numbers of the file are finite."""

    @property
    def difference(self) -> float:
        """The largest difference of all outputs."""
        return max((each.most for each in self.apart.values()), default=0.0)

    @property
    def not_compared(self) -> tuple[str, ...]:
        """The outputs that were empty in every picture: nothing was found in any of them."""
        return tuple(name for name, each in self.apart.items() if not each.compared)

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
        if self.not_compared:
            names = ", ".join(self.not_compared)
            return f"{kept}, but nothing was found in any picture: {names} NOT COMPARED"
        return f"{kept}, largest difference {self.difference:.1e}"


@torch.no_grad()
def compare(graph: nn.Module, run: Run, images: Iterable[Tensor]) -> Parity:
    """Compare the exported file `run` with its module `graph`, run eagerly, on some pictures."""
    apart = {name: Apart(compared=False) for name in graph.outputs if name != KEEP_MAPS}
    alike, finite, kept = [], True, np.zeros((1, 0, 1, 1))
    for image in images:
        wanted = dict(zip(graph.outputs, [each.numpy() for each in graph(image)], strict=True))
        found = dict(zip(graph.outputs, run(image), strict=True))
        kept, wanted_kept = found[KEEP_MAPS], wanted[KEEP_MAPS]
        same = kept.shape == wanted_kept.shape
        alike.append(float((kept == wanted_kept).mean()) if same else 0.0)
        for name, so_far in apart.items():
            finite &= bool(np.isfinite(found[name]).all())
            apart[name] = so_far.and_of(found[name], wanted[name])
    counts = tuple(kept[0].sum(axis=(1, 2)).tolist())
    return Parity(apart, sum(alike) / len(alike), counts, finite)


def check_refused(run: Run, images: Tensor, *, file: str, what: str) -> None:
    """Raise InputError unless a file refuses these pictures, for which it was not made."""
    try:
        run(images)
    except Exception:  # each runtime has exceptions of its own
        return
    raise InputError(f"{file}: took {what} than its own without a word.")
