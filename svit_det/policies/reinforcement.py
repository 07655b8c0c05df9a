"""Reinforcement: how IA-RED2's agents learn by reward, one group of blocks after another.

Source: Pan et al., "IA-RED2: Interpretability-Aware Redundancy Reduction for Vision Transformers",
NeurIPS 2021, section 3. The departures from it are listed in `ia_red2.py`.

B images, N patch tokens, K of them kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.base import TaskLosses
from svit_det.policies.gating import logistic_noise
from svit_det.policies.scheduled import BACKBONE, Survivors
from svit_det.tokens import PassRecord

TRUNK = (*BACKBONE, "trunk.cls_token")
"""What stands still while an agent learns."""


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


@dataclass(frozen=True)
class Reinforcement:
    """An agent's draws are rewarded for a low loss and few tokens (REINFORCE, self-critical).

    What counts is the reward over what the decision of inference gets. Training has one part for
    each group; groups whose part is yet to come change nothing. In the first third of a part the
    group's agent learns and the trunk stands still; afterwards the trunk learns under the decisions
    of inference and the agents stand still. Without a number of steps all agents draw and learn at
    once.
    """

    layers: tuple[int, ...]
    """The blocks that the groups begin with."""
    weight: float
    """Of the cost in the reward."""

    def part(self, step: int, steps: int | None) -> tuple[int, Collection[int]]:
        """The number of groups that decide at this step, and the ones of them that draw.

        Without the number of `steps` all decide and draw.
        """
        num_groups = len(self.layers)
        if steps is None:
            return num_groups, range(num_groups)
        group, learns = curriculum(step, steps, num_groups)
        return group + 1, (group,) if learns else ()

    def frozen(self, step: int, steps: int | None) -> Collection[str]:
        """The trunk and the other agents while an agent learns, then every agent."""
        if steps is None:
            return ()
        group, learns = curriculum(step, steps, len(self.layers))
        if not learns:
            return ("trunk.policy",)
        learning = self.layers[group]
        others = [f"trunk.policy.agents.{layer}" for layer in self.layers if layer != learning]
        return (*TRUNK, *others)

    def loss(self, record: PassRecord, task: TaskLosses, log_prob: Tensor) -> Tensor:
        """Minus the advantage times the (B,) log probability of the draws, mean over images."""
        return -(self.advantage(record, task) * log_prob).mean()

    def advantage(self, record: PassRecord, task: TaskLosses) -> Tensor:
        """(B,) the reward of the draws less that of the decision of inference."""
        greedy = task.greedy
        if greedy is None or greedy.record is None:
            raise InputError(
                "IARED2 learns by reward over a second pass that decides as at inference, and got "
                'none; train with TokenRCNN or TokenRetinaNet, or choose "straight_through".',
                setting="method",
            )
        return reward(record, task, self.weight) - reward(greedy.record, greedy, self.weight)

    @torch.no_grad()
    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """Rewards, the advantage and the shares that are left in each group."""
        greedy = task.greedy
        numbers: dict[str, Tensor | float] = {}
        passes = {"": (record, task)}
        if greedy is not None and greedy.record is not None:
            passes["_greedy"] = (greedy.record, greedy)
            numbers["advantage"] = self.advantage(record, task).mean()
        for name, (done, said) in passes.items():
            numbers[f"reward{name}"] = reward(done, said, self.weight).mean()
            shares = done.kept_shares()
            for group, layer in enumerate(self.layers):
                numbers[f"kept{name}_group_{group}"] = shares[layer]
        return numbers
