"""Exchange between the trunk and its side branch, before and after a range of blocks.

Source: ViT-Adapter (Chen et al. 2023), sections 3.3 and 3.4, without its windows.

B images, N tokens of the trunk, M cells of the side branch (three levels), C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from svit_det.adapter.deform_attn import DeformableAttention, cell_centres
from svit_det.adapter.sampling import Grid

NUM_LEVELS = 3
"""Levels of the side branch, at half, one and two times the trunk's stride."""
EPS = 1e-6


@dataclass(frozen=True)
class Geometry:
    """The grids of trunk and side branch, and where their cells lie on each other. Strides are in
    patches."""

    trunk: Grid
    levels: tuple[Grid, ...]
    to_levels: Tensor
    """(N, 3, 2) places of the trunk's tokens on the levels."""
    to_trunk: Tensor
    """(M, 1, 2) places of the levels' cells on the trunk's grid."""

    @classmethod
    def of(cls, trunk: Grid, levels: Sequence[Grid], device: torch.device) -> Geometry:
        """The geometry of these grids."""
        strided = list(zip(levels, (0.5, 1.0, 2.0), strict=True))
        to_levels = cell_centres(trunk, 1.0, strided, device)
        to_trunk = [cell_centres(grid, stride, [(trunk, 1.0)], device) for grid, stride in strided]
        return cls(trunk, tuple(levels), to_levels, torch.cat(to_trunk))

    @property
    def sizes(self) -> list[int]:
        """Cells of each level, summing to M."""
        return [height * width for height, width in self.levels]


class Injector(nn.Module):
    """Trunk tokens attend to the side branch. `gamma` starts at 0: a trained ViT is unchanged."""

    def __init__(self, embed_dim: int, *, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.feat_norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.attn = DeformableAttention(
            embed_dim, num_heads=num_heads, num_points=num_points, num_levels=NUM_LEVELS
        )
        self.gamma = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, patches: Tensor, prior: Tensor, geometry: Geometry) -> Tensor:
        """patches (B, N, C), prior (B, M, C) -> new patches (B, N, C)."""
        looked_up = self.attn(
            self.query_norm(patches), geometry.to_levels, self.feat_norm(prior), geometry.levels
        )
        return torch.addcmul(patches, self.gamma, looked_up)


class Extractor(nn.Module):
    """The side branch attends to the trunk's tokens, then runs its own small feed-forward."""

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        num_points: int,
        ffn_ratio: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.feat_norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.attn = DeformableAttention(
            embed_dim, num_heads=num_heads, num_points=num_points, num_levels=1
        )
        self.ffn_norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.ffn = ConvFFN(embed_dim, int(embed_dim * ffn_ratio))
        self.drop_path = StochasticDepth(drop_path_rate, mode="row")

    def forward(self, prior: Tensor, patches: Tensor, geometry: Geometry) -> Tensor:
        """prior (B, M, C), patches (B, N, C) -> new prior (B, M, C)."""
        prior = prior + self.attn(
            self.query_norm(prior), geometry.to_trunk, self.feat_norm(patches), [geometry.trunk]
        )
        return prior + self.drop_path(self.ffn(self.ffn_norm(prior), geometry))


class ConvFFN(nn.Module):
    """An MLP with a depth-wise 3 x 3 convolution between its layers, level by level."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        # The weights get the layout of the input, channels last. The gradient has this layout too,
        # and DDP would copy between two layouts.
        self.dwconv = dwconv.to(memory_format=torch.channels_last)
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, cells: Tensor, geometry: Geometry) -> Tensor:
        """(B, M, C) -> (B, M, C)."""
        hidden = self.fc1(cells).split(geometry.sizes, dim=1)
        mixed = [
            self.dwconv(level.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
            for level, grid in zip(hidden, geometry.levels, strict=True)
        ]
        return self.fc2(F.gelu(torch.cat(mixed, dim=1)))
