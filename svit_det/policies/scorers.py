"""Networks that score each token by its own features and by the mean of all tokens that are left.

B images, T tokens, C channels, h heads, d = C / h.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from svit_det.policies.gating import exact


class ScorePredictor(nn.Module):
    """Scores half of a token's features beside the mean of the other half over all tokens left.

    Source: DynamicViT, section 3.2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(width // 2, 1)
        self.norm = nn.LayerNorm(width)
        self.fc_in = nn.Linear(width, 2 * half)
        self.fc1 = nn.Linear(2 * half, half)
        self.fc2 = nn.Linear(half, max(half // 2, 1))
        self.fc3 = nn.Linear(self.fc2.out_features, 2)
        _init_linear(self)

    def forward(self, tokens: Tensor, left: Tensor) -> Tensor:
        """(B, T, ..., width) tokens, (B, T) `left` -> (B, T, ...) margin of keep.

        `left` says which tokens are left: a mask, or its straight-through twin, which then gets a
        gradient. The margin is the log probability of keep (column 0) minus that of drop.
        """
        with exact(tokens):
            tokens = tokens.to(self.fc1.weight.dtype)
            local, pooled = F.gelu(self.fc_in(self.norm(tokens))).chunk(2, dim=-1)
            weight = left.to(tokens.dtype).view(*left.shape, *(1,) * (tokens.dim() - 2))
            # An image with no token left has no mean, and no decision to make.
            mean = (pooled * weight).sum(dim=1, keepdim=True)
            mean = mean / weight.sum(dim=1, keepdim=True).clamp(min=1)
            own, shared = self.fc1.weight.chunk(2, dim=1)
            # The pooled half is the same for all tokens, so that one product serves them all.
            hidden = F.linear(local, own) + F.linear(mean, shared, self.fc1.bias)
            logits = self.fc3(F.gelu(self.fc2(F.gelu(hidden)))).float()
        return logits[..., 0] - logits[..., 1]

    def macs(self, num_tokens: int) -> int:
        """Multiply-adds for one image of `num_tokens` tokens."""
        half = self.fc1.weight.numel() // 2
        by_token = sum(part.weight.numel() for part in (self.fc_in, self.fc2, self.fc3)) + half
        return num_tokens * by_token + half


class TokenSelector(nn.Module):
    """The mean of the heads' margins; a small network weighs the heads (SPViT, section 4.2).

    The released code lists one scorer h times, so that all heads share its weights. With
    `shared_heads` False each head has its own scorer.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, shared_heads: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        count = 1 if shared_heads else num_heads
        self.heads = nn.ModuleList(ScorePredictor(embed_dim // num_heads) for _ in range(count))
        self.fc1 = nn.Linear(num_heads, max(num_heads // 2, 1))
        self.fc2 = nn.Linear(self.fc1.out_features, num_heads)
        _init_linear(self)

    def forward(self, tokens: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C), `left` (B, T) -> margin of keep (B, T), probability of keep (B, T).

        The margin is the weighted mean of the heads' log odds, the probability is the weighted mean
        of the heads' probabilities.
        """
        slices = tokens.unflatten(-1, (self.num_heads, -1))
        if len(self.heads) == 1:
            margins = self.heads[0](slices, left)
        else:
            each = zip(self.heads, slices.unbind(2), strict=True)
            margins = torch.stack([head(own, left) for head, own in each], dim=-1)
        with exact(tokens):
            means = slices.to(self.fc1.weight.dtype).mean(dim=-1)
            say = self.fc2(F.gelu(self.fc1(means))).float().sigmoid()
        say = say / say.sum(dim=-1, keepdim=True)
        return (say * margins).sum(dim=-1), (say * margins.sigmoid()).sum(dim=-1)

    def macs(self, num_tokens: int) -> int:
        """Multiply-adds for one image of `num_tokens` tokens."""
        heads = [cast(ScorePredictor, head).macs(num_tokens) for head in self.heads]
        weighing = num_tokens * (self.fc1.weight.numel() + self.fc2.weight.numel())
        return sum(heads) * self.num_heads // len(heads) + weighing


def _init_linear(network: nn.Module) -> None:
    """DeiT's initialisation, as in the released code of both papers."""
    for part in network.modules():
        if isinstance(part, nn.Linear):
            trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
