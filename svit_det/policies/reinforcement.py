"""Reinforcement: how IA-RED2's agents learn by reward, one group of blocks after another.

Source: Pan et al., "IA-RED2: Interpretability-Aware Redundancy Reduction for Vision Transformers",
NeurIPS 2021, section 3. `ia_red2.py` lists the departures from the paper.

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
"""The parts of the network that stand still while an agent learns."""


@dataclass(frozen=True)
class Kept(Survivors):
    """IA-RED2's notes."""

    log_prob: Tensor | None = None
    """(B,) log probability of an image's draws: the mean over the draws of each group, summed over
    the groups that draw. None: nothing was drawn."""


def draw(margin: Tensor, among: Tensor, before: Tensor | None) -> Kept:
    """Draw each of the tokens `among` (B, N) bool by the log odds `margin` (B, N)."""
    keep = margin.detach() + logistic_noise(margin) > 0
    log_prob = F.logsigmoid(torch.where(keep, margin, -margin))
    log_prob = (log_prob * among).sum(dim=1) / among.sum(dim=1).clamp(min=1)
    return Kept(keep & among, log_prob=log_prob if before is None else before + log_prob)


def reward(record: PassRecord, task: TaskLosses, weight: float) -> Tensor:
    """(B,): minus the task's losses, plus `weight` times 1 - (K / N)^2 for the saved computation.

    K / N is the mean over all blocks. Each image has its own loss where the task reports one.
    """
    share = record.counts().float().mean(dim=1) / record.grid.num_tokens
    named = torch.stack([loss.detach().float() for loss in task.named.values()]).sum()
    lost = named if task.per_image is None else task.per_image.detach().float()
    return weight * (1 - share.square()) - lost


def curriculum(step: int, steps: int, num_groups: int) -> tuple[int, bool]:
    """The group whose part of the training this step lies in, and whether its agent learns now.

    In the first third of the part the agent learns; then the trunk learns.
    """
    position = min(step, steps - 1) * num_groups
    group, inside = divmod(position, steps)
    return group, 3 * inside < steps


@dataclass(frozen=True)
class Reinforcement:
    """An agent's draws are rewarded for a low loss and few tokens (REINFORCE, self-critical).

    The loss takes the advantage: the reward of the draws less the reward of the decision of
    inference. Training has one part for each group; groups whose part is yet to come drop nothing.
    In the first third of a part the group's agent learns and the trunk stands still. Afterwards
    the trunk learns under the decisions of inference, and all agents stand still. If the number of
    steps is unknown, all agents draw and learn at the same time.
    """

    layers: tuple[int, ...]
    """The blocks that the groups begin with."""
    weight: float
    """Weight of the cost in the reward."""

    def part(self, step: int, steps: int | None) -> tuple[int, Collection[int]]:
        """The number of groups that decide at this step, and the groups that draw.

        If the number of `steps` is unknown, all groups decide and draw.
        """
        num_groups = len(self.layers)
        if steps is None:
            return num_groups, range(num_groups)
        group, learns = curriculum(step, steps, num_groups)
        return group + 1, (group,) if learns else ()

    def frozen(self, step: int, steps: int | None) -> Collection[str]:
        """The trunk and the other agents while an agent learns; afterwards every agent."""
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
        """(B,) the reward of the draws less the reward of the decision of inference."""
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
