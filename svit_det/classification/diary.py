"""The reports of a running training: tensorboard, the log, results.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from svit_det.classification.evaluation import Evaluation
from svit_det.classification.processes import Processes
from svit_det.results import write_json
from svit_det.tokens import PassRecord

logger = logging.getLogger(__name__)

EVERY = 20
"""Number of steps between two entries."""


class Diary:
    """Writes the reports, in the first process alone."""

    def __init__(self, folder: Path, where: Processes, *, first_step: int = 0) -> None:
        """first_step: tensorboard forgets this step and later ones of an earlier training here."""
        self.folder = folder
        self._board = SummaryWriter(str(folder), purge_step=first_step) if where.is_first else None

    def __enter__(self) -> Diary:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._board is not None:
            self._board.close()

    def flush(self) -> None:
        """Write what was reported: call this before a checkpoint, which begins where this ends."""
        if self._board is not None:
            self._board.flush()

    def is_due(self, number: int, steps_per_epoch: int) -> bool:
        """Whether step `number` of an epoch is reported: each EVERY-th step, and the last one."""
        return number % EVERY == 0 or number == steps_per_epoch - 1

    def trained(
        self,
        step: int,
        losses: Mapping[str, Tensor],
        record: PassRecord,
        told: Mapping[str, Tensor | float],
        rate: float,
    ) -> None:
        """Report a step: losses, rate, the policy's numbers, and the kept shares of blocks.

        Blocks that are known to keep every token are left out.
        """
        board = self._board
        if board is None:
            return
        for name, value in losses.items():
            board.add_scalar(f"train/{name}", float(value), step)
        board.add_scalar("train/learning_rate", rate, step)
        for name, number in told.items():
            board.add_scalar(f"token_policy/{name}", float(number), step)
        for layer, share in enumerate(record.kept_shares().tolist()):
            if not record.blocks[layer].everyone:
                board.add_scalar(f"token_usage/block_{layer:02d}", share, step)

    def evaluated(self, found: Evaluation, epoch: int, step: int) -> None:
        """Report an evaluation after `epoch` epochs; results.json holds the last evaluation."""
        board = self._board
        if board is None:
            return
        for name in ("top1", "top5", "gmacs", "images_per_second"):
            board.add_scalar(f"val/{name}", getattr(found, name), step)
        write_json(self.folder / "results.json", {"epoch": epoch, **found.as_dict()})
        logger.info(
            "epoch %d: top-1 %.2f %%, top-5 %.2f %%, %.3f of %.3f G multiply-adds",
            *(epoch, found.top1, found.top5, found.gmacs, found.dense_gmacs),
        )
