"""The layouts of the SViT supplementary's tables 1 and 2, for any classifiers.

Table 1 compares one pruned model with its dense model: top-1, arithmetic, images per second. Table
2 compares any number of methods: epochs, arithmetic, top-1 and the distance to the dense model's
top-1. "GFLOPs" are giga multiply-adds, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from svit_det.classification.evaluation import Evaluation
from svit_det.config.declared import node_of

DISTILLED, SCRATCH = "‡", "*"
"""Marks of the supplementary: additional knowledge distillation, training from scratch."""


@dataclass(frozen=True)
class Row:
    """One classifier and its results."""

    name: str
    found: Evaluation
    epochs: int | None
    """Epochs of its training; None: unknown."""
    distilled: bool = False
    from_scratch: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The row as a dict, for JSON."""
        return asdict(self)


def row_of(name: str, cfg: Any, found: Evaluation) -> Row:
    """The row of a model that was trained with this config."""
    policy = cfg.MODEL.TOKEN_POLICY
    own = getattr(policy, node_of(policy.NAME).rpartition(".")[2], None)
    distils = getattr(own, "DISTILL_WEIGHT", 0) > 0 or cfg.SOLVER.LOGIT_DISTILL_WEIGHT > 0
    return Row(name, found, cfg.SOLVER.EPOCHS, distils, not cfg.MODEL.WEIGHTS)


def table_1(rows: Sequence[Row]) -> str:
    """Accuracy, arithmetic and speed; the first row is the dense model."""
    lines = [
        [row.name, _number(row.found.top1, 1), _number(row.found.gmacs, 2), _speed(row, rows[0])]
        for row in rows
    ]
    headers = ["Model", "Top-1 Accuracy", "GFLOPs", "images/s"]
    return tabulate(lines, headers=headers, disable_numparse=True)


def table_2(rows: Sequence[Row]) -> str:
    """Methods side by side; the first row is the dense model to which the others are compared."""
    dense = rows[0].found.top1
    lines = []
    for row in rows:
        name = f"{row.name} {DISTILLED}" if row.distilled else row.name
        epochs = "-" if row is rows[0] or row.epochs is None else str(row.epochs)
        if row.from_scratch and row is not rows[0]:
            epochs += f" {SCRATCH}"
        top1 = _number(row.found.top1, 1)
        if row is not rows[0]:
            top1 += f" ({row.found.top1 - dense:+.1f})"
        lines.append([name, epochs, _number(row.found.gmacs, 2), top1])
    headers = ["Model", "epochs", "GFLOPs", "Top-1 Acc(%)"]
    marks = f"{SCRATCH} training from scratch. {DISTILLED} additional knowledge distillation."
    return f"{tabulate(lines, headers=headers, disable_numparse=True)}\n{marks}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _speed(row: Row, dense: Row) -> str:
    speed = row.found.images_per_second
    if row is dense:
        return f"{speed:.0f}"
    return f"{speed:.0f} ({100 * (speed / dense.found.images_per_second - 1):+.0f} %)"
