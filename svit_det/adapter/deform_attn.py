"""Multi-scale deformable attention in plain PyTorch.

Source: Deformable DETR (Zhu et al. 2021), eq. 3; its compiled kernel computes the same sums.

B images, Q queries, S value cells of all levels together, L levels, P points, h heads, C channels,
d = C / h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.adapter.sampling import Grid, sample_deformable
from svit_det.errors import InputError


def cell_centres(
    grid: Grid,
    stride: float,
    over: Sequence[tuple[Grid, float]],
    device: torch.device | str = "cpu",
) -> Tensor:
    """(H * W, L, 2): (x, y) of the centres of `grid`'s cells on each level, in shares of its size.

    `over` holds (grid, stride) of the levels. If a stride does not divide the sides, a coarse level
    sticks out of the picture; the same place then has another share on each level.
    """
    rows = (torch.arange(grid[0], device=device) + 0.5) * stride
    columns = (torch.arange(grid[1], device=device) + 0.5) * stride
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    x, y = x.flatten(), y.flatten()
    places = [
        torch.stack([x / (width * step), y / (height * step)], dim=-1)
        for (height, width), step in over
    ]
    return torch.stack(places, dim=1)


class DeformableAttention(nn.Module):
    """Each query looks at a few learned places around its reference point on every level."""

    def __init__(self, embed_dim: int, *, num_heads: int, num_points: int, num_levels: int) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise InputError(
                f"{embed_dim} channels do not divide into {num_heads} heads.", setting="num_heads"
            )
        if num_points < 1:
            raise InputError(f"{num_points} must be at least 1.", setting="num_points")
        self.num_heads = num_heads
        self.shape = (num_heads, num_levels, num_points)
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with equal weights, and points that go away from the reference.

        Each head has a direction of its own.
        """
        heads, levels, points = self.shape
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1).view(1, 1, points, 1)
        with torch.no_grad():
            bias = (directions.view(heads, 1, 1, 2) * steps).expand(-1, levels, -1, -1)
            self.sampling_offsets.bias.copy_(bias.flatten())
        for zero in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(zero)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, queries: Tensor, reference: Tensor, values: Tensor, grids: Sequence[Grid]
    ) -> Tensor:
        """queries (B, Q, C), reference (Q, L, 2), values (B, S, C) of `grids` -> (B, Q, C).

        `reference` has the form of `cell_centres`; offsets are in cells of each level. The sampling
        runs in float32 under autocast too, as in the original's kernel.
        """
        heads, levels, points = self.shape
        offsets, weights = self._ask(queries)
        offsets = offsets.float().unflatten(-1, (heads, levels, points, 2))
        sides = [side for height, width in grids for side in (width, height)]
        if torch.compiler.is_compiling():
            # Tensors are made one by one, so that a graph may leave the sizes open.
            sizes = torch.stack([offsets.new_full((), side) for side in sides]).view(-1, 2)
        else:
            sizes = offsets.new_tensor(sides).view(-1, 2)
        locations = reference[:, None, :, None] + offsets / sizes[:, None]
        weights = weights.float().unflatten(-1, (heads, levels * points))
        weights = weights.softmax(dim=-1).unflatten(-1, (levels, points))
        projected = self.value_proj(values).unflatten(-1, (heads, -1))
        sampled = sample_deformable(projected, grids, locations, weights)
        return self.output_proj(sampled.to(self.output_proj.weight.dtype))

    def _ask(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, C) -> offsets and unnormalised weights, by one product instead of two narrow ones.

        A narrow product leaves a processor half idle.
        """
        both = (self.sampling_offsets, self.attention_weights)
        weight = torch.cat([layer.weight for layer in both])
        bias = torch.cat([layer.bias for layer in both])
        asked = F.linear(queries, weight, bias)
        offsets, weights = asked.split([layer.out_features for layer in both], dim=-1)
        return offsets, weights
