"""Pieces of a learned decision: the gate's network, the straight-through sample, the losses.

B images, N patch tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.policies.base import Mean, of_this_process
from svit_det.tokens import PassRecord, Selection


def exact(tokens: Tensor) -> AbstractContextManager[None]:
    """Inside the with-block autocast is off: margins may lie closer than half precision can tell.

    Otherwise training in half precision would decide otherwise than inference. A model whose own
    weights are in half precision stays so: tokens are brought to the dtype of the weights.
    """
    return torch.autocast(tokens.device.type, enabled=False)


class TokenGate(nn.Module):
    """LayerNorm, C -> C/4, GELU, C/4 -> 2 (SViT, section 3; gate of the released code).

    Keeps PyTorch's own Linear initialisation, as the original does, so that the keep probability
    starts near one half everywhere.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        hidden = max(embed_dim // 4, 1)
        self.norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N) margin: log probability of keep (column 0) minus that of skip.

        The difference of two log-softmax values is the difference of the logits.
        """
        with exact(tokens):
            logits = self.fc2(F.gelu(self.fc1(self.norm(tokens.to(self.fc1.weight.dtype))))).float()
        return logits[..., 0] - logits[..., 1]

    def macs(self, num_tokens: int) -> int:
        """Multiply-adds for `num_tokens` tokens."""
        return num_tokens * (self.fc1.weight.numel() + self.fc2.weight.numel())


def log_odds(share: float) -> float:
    """The log odds of a share in (0, 1): sigmoid(log odds) is the share."""
    return math.log(share / (1 - share))


def logistic_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The difference of two Gumbel draws. A choice between two options depends on nothing else."""
    uniform = torch.rand(like.shape, device=like.device, dtype=like.dtype, generator=generator)
    return torch.logit(uniform, eps=torch.finfo(like.dtype).tiny)


def straight_through(
    margin: Tensor, noise: Tensor, *, temperature: float = 1.0, above: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Hard two-way Gumbel-softmax: (keep (B, N) bool, gate (B, N)).

    `gate` is exactly 0 or 1 in value, so that a skipped token stays bit-identical, and has the
    gradient of the soft choice. A token is kept where the soft probability of keep exceeds `above`.
    """
    perturbed = margin + noise
    soft = torch.sigmoid(perturbed / temperature)
    # At one half the sum is compared with 0: it may be too small for the sigmoid to tell.
    keep = perturbed > 0 if above == 0.5 else soft > above
    return keep, keep.to(soft.dtype) + (soft - soft.detach())


def drop_by_chance(margin: Tensor, left: Selection) -> tuple[Tensor, Tensor]:
    """A draw of training among the tokens `left`: (keep (B, N) bool, cumulative gate (B, N)).

    The margins (B, N) of all other tokens are -inf, so that these tokens lose every draw.
    """
    keep, gate = straight_through(margin, logistic_noise(margin))
    return keep, gate if left.gate is None else gate * left.gate


def gates_of(record: PassRecord, layers: Sequence[int]) -> list[Tensor]:
    """The (B, N) gates of the blocks `layers` in a training pass; blocks without a gate are left
    out."""
    gates = [record.blocks[layer].selection.gate for layer in layers]
    return [gate for gate in gates if gate is not None]


def keep_ratio_loss(
    gates: Sequence[Tensor],
    targets: Sequence[float],
    *,
    per_image: bool = False,
    mean: Mean = of_this_process,
) -> Tensor:
    """Mean over the gates of (kept share - target)^2; `gates` are (B, N) each.

    The kept share is the mean over the batches of all processes, and is taken before squaring, so
    that images may differ (SViT, eq. 5). `per_image` squares the difference of each image: the
    fixed-rate ablation.
    """
    shares = torch.stack([gate.mean(dim=1) for gate in gates])
    if not per_image:
        shares = mean(shares.mean(dim=1, keepdim=True))
    goals = shares.new_tensor(targets).unsqueeze(1)
    return (shares - goals).square().mean()


def token_distillation(
    student: PassRecord, teacher: PassRecord, keep: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the two passes' last patch tokens (DynamicViT, section 3.4).

    `keep` (B, N) bool limits the mean to some tokens; DynamicViT takes the tokens that its last
    stage keeps. An image without such a token adds nothing.
    """
    difference = (student.tokens - teacher.tokens.to(student.tokens.dtype)).square().mean(dim=-1)
    if keep is None:
        return difference.mean()
    return (difference * keep).sum() / keep.sum().clamp(min=1)
