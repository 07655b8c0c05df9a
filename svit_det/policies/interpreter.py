"""Interpreter and Agents: IA-RED2's agent, and one of them for each of its groups of blocks.

Source: the model file of IA-RED2's released interpretation tool; see `ia_red2.py`.

B images, N patch tokens, C channels, h heads, d = C / h.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.gating import exact, log_odds
from svit_det.policies.keep_schedule import KeepSchedule

MOST_AT_START = 0.95
"""The highest probability of keep that an agent starts with, where its share is 1."""


class Interpreter(nn.Module):
    """Attention scores of the class token's query, each through a sigmoid, mean over heads.

    The tokens go through a norm without weights, then through projections to the query and the
    keys. There are no values. The biases start at numbers that make the probability of keep near
    `start` for every token.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, start: float = 0.5) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise InputError(
                f"{num_heads} does not divide the trunk's {embed_dim} channels; choose a number "
                "that does.",
                setting="agent_heads",
            )
        self.num_heads = num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        # The biases' product, summed over all d channels and scaled, is the log odds of `start`.
        score = log_odds(start) / math.sqrt(embed_dim // num_heads)
        nn.init.constant_(self.query.bias, math.sqrt(abs(score)))
        nn.init.constant_(self.key.bias, math.copysign(math.sqrt(abs(score)), score))

    def forward(self, class_token: Tensor, patches: Tensor) -> Tensor:
        """(B, C), (B, N, C) -> (B, N) probability of keep, in float32.

        p_j = mean over heads of sigmoid(q . k_j / sqrt(d)).
        """
        with exact(patches):
            class_token, patches = (
                each.to(self.key.weight.dtype) for each in (class_token, patches)
            )
            query = self.query(F.layer_norm(class_token, class_token.shape[-1:]))
            key = self.key(F.layer_norm(patches, patches.shape[-1:]))
            return self._scores(query, key).float().sigmoid().mean(dim=1)

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, C), (B, N, C) -> (B, h, N) q . k_j / sqrt(d)."""
        query, key = (each.unflatten(-1, (self.num_heads, -1)) for each in (query, key))
        # (B, h, N, d) @ (B, h, d, 1)
        scores = (key.transpose(1, 2) @ query.unsqueeze(-1)).squeeze(-1)
        return scores / math.sqrt(query.shape[-1])

    def macs(self, num_tokens: int) -> int:
        """Multiply-adds for one image of `num_tokens` tokens."""
        channels = self.query.in_features
        return self.query.weight.numel() + num_tokens * (self.key.weight.numel() + channels)


class Agents(nn.ModuleDict):
    """One agent for each group of blocks, named by the block that the group begins with.

    An agent's probability of keep starts near the group's share of the tokens that are left. Each
    outcome of its decision has at least the probability `least_chance`.
    """

    def __init__(
        self, schedule: KeepSchedule, embed_dim: int, num_heads: int, least_chance: float
    ) -> None:
        super().__init__()
        self.least_chance = least_chance
        left = (1.0, *schedule.shares)
        for layer, share, before in zip(schedule.layers, schedule.shares, left):
            start = min(share / before, MOST_AT_START)
            self[str(layer)] = Interpreter(embed_dim, num_heads, start=start)

    def margin(self, layer: int, class_token: Tensor, patches: Tensor) -> Tensor:
        """(B, C), (B, N, C) -> (B, N) log odds of the bounded probability of keep."""
        chance = self._agent(layer)(class_token, patches)
        return torch.logit(self.least_chance + (1 - 2 * self.least_chance) * chance)

    def macs(self, layer: int, num_tokens: int) -> int:
        """Multiply-adds of one group's agent, for one image of `num_tokens` tokens."""
        return self._agent(layer).macs(num_tokens)

    def _agent(self, layer: int) -> Interpreter:
        return cast(Interpreter, self[str(layer)])
