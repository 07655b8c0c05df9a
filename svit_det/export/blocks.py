"""The block stack alone as a graph: from embedded tokens to the tokens of the map."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from svit_det.export.backbone import KEEP_MAPS
from svit_det.tokens import TokenState
from svit_det.vit import TokenTrunk


class BlocksGraph(nn.Module):
    """All blocks of a trunk, for tokens of the shape and the grid of `state`."""

    def __init__(self, trunk: TokenTrunk, state: TokenState) -> None:
        super().__init__()
        self.trunk = trunk
        self._state = state

    @property
    def outputs(self) -> list[str]:
        """The names of `forward`'s outputs, in their order."""
        return ["tokens", KEEP_MAPS]

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(1, S, C) the buffer before block 0 -> patch tokens (1, N, C), keep maps (1, L, H, W)."""
        done = self.trunk.run(replace(self._state, tokens=tokens), 0, self.trunk.depth)
        keep = torch.stack([block.selection.keep for block in done.history], dim=1)
        return done.patches, keep.unflatten(2, done.grid.shape)
