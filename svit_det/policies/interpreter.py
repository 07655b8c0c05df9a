"""Interpreter: IA-RED2's agent, and what it takes to train one by reward.

B images, N patch tokens, K of them kept, C channels, h heads, d = C / h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.base import TaskLosses
from svit_det.policies.gating import exact, logistic_noise
from svit_det.policies.scheduled import Survivors
from svit_det.tokens import PassRecord


class Interpreter(nn.Module):
    """Attention scores of the class token's query, each through a sigmoid, mean over heads.

    A norm without weights, then projections to the query and the keys. There is no value: nothing
    is mixed. The biases start in such a way that the probability of keep is near `start`
    everywhere.
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
        # The product of the biases over all d channels is the score that `start` is the sigmoid of.
        score = math.log(start / (1 - start)) / math.sqrt(embed_dim // num_heads)
        nn.init.constant_(self.query.bias, math.sqrt(abs(score)))
        nn.init.constant_(self.key.bias, math.copysign(math.sqrt(abs(score)), score))

    def forward(self, class_token: Tensor, patches: Tensor) -> Tensor:
        """(B, C), (B, N, C) -> (B, N) probability of keep, in float32.

        p_j = mean over heads of sigmoid(q . k_j / sqrt(d)).
        """
        with exact(patches):
            query = self.query(F.layer_norm(class_token.float(), class_token.shape[-1:]))
            key = self.key(F.layer_norm(patches.float(), patches.shape[-1:]))
            return self._scores(query, key).sigmoid().mean(dim=1)

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


@dataclass(frozen=True)
class Kept(Survivors):
    """What IA-RED2 remembers."""

    log_prob: Tensor | None = None
    """(B,) log probability of an image's draws, their mean in each group that draws, and the sum
    over those groups. None: nothing was drawn."""


def draw(margin: Tensor, among: Tensor, before: Tensor | None) -> Kept:
    """Bernoulli draws by the log odds `margin` (B, N), of the tokens `among` (B, N) bool."""
    keep = margin.detach() + logistic_noise(margin) > 0
    log_prob = F.logsigmoid(torch.where(keep, margin, -margin))
    log_prob = (log_prob * among).sum(dim=1) / among.sum(dim=1).clamp(min=1)
    return Kept(keep & among, log_prob=log_prob if before is None else before + log_prob)


def reward(record: PassRecord, task: TaskLosses, weight: float) -> Tensor:
    """(B,): minus the task's losses, plus `weight` times 1 - (K / N)^2 for what was not run.

    K / N is the mean over all blocks. Where the task can tell images apart, so does the reward.
    """
    share = record.counts().float().mean(dim=1) / record.grid.num_tokens
    named = torch.stack([loss.detach().float() for loss in task.named.values()]).sum()
    lost = named if task.per_image is None else task.per_image.detach().float()
    return weight * (1 - share.square()) - lost


def curriculum(step: int, steps: int, num_groups: int) -> tuple[int, bool]:
    """The group whose part of the training this step lies in, and whether its agent learns now.

    It does in the first third of the part; then the trunk does.
    """
    position = min(step, steps - 1) * num_groups
    group, inside = divmod(position, steps)
    return group, 3 * inside < steps
