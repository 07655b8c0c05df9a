"""IA-RED2: at the start of each group of blocks an agent drops the least informative tokens.

Source: Pan et al., "IA-RED2: Interpretability-Aware Redundancy Reduction for Vision Transformers",
NeurIPS 2021, section 3, and the model file of its released interpretation tool.

This is a re-creation, not a reproduction. No training code was released. The learning rates, the
batch size, the weights of the penalties, and the agent of the paper's own experiments are unknown.

B images, N patch tokens, K of them kept.

Departures from the paper and the tool, for dense maps:

- The class token starts at random, because a dense model has none.
- A patch token that is dropped keeps its last value in the map. The tool zeroes it.
- A dropped token is no key, and no row at inference. The tool masks it and computes it.
- The agent projects to queries and keys alone. The tool projects to values too and ignores them.
- The method `straight_through` is new. It learns by gradient and a ratio loss, as SViT does. Its
  draws are hardly bounded: bounds of .2 and .8 would put a share above .8 out of reach.
- The reward takes minus the task's losses where the paper gives 1 for a correct prediction.
  detectron2 reports losses per batch, so that all images of a batch share this part of the reward;
  the part for the cost belongs to each image.
- The kept share in the reward is the mean over all blocks, so that an earlier group counts for
  more. The tool weighs its groups' benefits alike, by 1, 2/3 and 1/3.
- An image's log probability is the mean over its draws, not the sum, so that images of all sizes
  weigh the same.
- In a group's part of the training only this group's agent draws; earlier agents decide as at
  inference.
- An agent's probabilities start near its share of the tokens that are left, not near one half:
  three halvings would leave a dense model an eighth of its tokens.
- Pyramid, side branch and heads learn all the time, also while the trunk stands still.
- The default shares spend as many multiply-adds as SViT's, with groups that begin at block 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from svit_det.policies.base import (
    BlockView,
    Mean,
    TaskLosses,
    TrunkShape,
    in_the_graph,
    of_this_process,
)
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import drop_by_chance, gates_of, keep_ratio_loss
from svit_det.policies.ia_red2_config import IARED2Config
from svit_det.policies.interpreter import Agents
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.reinforcement import Kept, Reinforcement, draw
from svit_det.policies.scheduled import survivors
from svit_det.policies.thresholded import ThresholdedPolicy, choices_of
from svit_det.tokens import PassRecord, Selection, TokenState

LAYERS = (0, 4, 8)
KEEP_RATIOS = (0.81, 0.656, 0.531)
"""A rate of .81, three times over."""


@POLICY_REGISTRY.register()
class IARED2(ThresholdedPolicy):
    """Groups begin at the schedule's blocks; a token that an agent drops is gone for good.

    The policy's own schedule: groups from blocks 0, 4 and 8, with shares of .81, .656 and .531.
    Methods:

    - `straight_through`: each decision is a draw in training, with a gradient, and a loss holds the
      kept shares to the schedule's shares. All agents and the trunk learn together.
    - `reinforce`: the tokens are really dropped in training too. An agent's draws are rewarded for
      a low loss and few tokens, less the reward of the decision of inference (self-critical);
      agents and trunk learn in turns, as `Reinforcement` says. The schedule's shares are no
      targets.

    A token's margin is the log odds of its (bounded) probability p of being kept. Inference in mode
    `released` keeps a token with a margin above 0, that is p > .5. In mode `threshold` the margin
    must exceed a threshold that training tracks, so that the mean usage is the usage of the
    training; under `reinforce` it is the training's usage of p > .5. `test_keep_ratio` moves the
    thresholds to another mean share.
    """

    needs_class_token = True
    Config = IARED2Config
    Notes = Kept
    num_active: Tensor
    _drawing: Collection[int]

    def __init__(self, *, config: IARED2Config, shape: TrunkShape) -> None:
        schedule = config.schedule(shape.depth, layers=LAYERS, shares=KEEP_RATIOS, falling="IARED2")
        super().__init__(schedule=schedule)
        self.mode = config.mode
        self.loss_weight = config.loss_weight
        self.agent_rate = config.agent_rate
        self.reinforcement = None
        if config.method == "reinforce":
            self.reinforcement = Reinforcement(schedule.layers, config.reward_weight)
        self.agents = Agents(schedule, shape.embed_dim, config.agent_heads, config.least_chance)
        self.budget = KeepBudget(schedule.shares, nested=True)
        self.register_buffer("num_active", torch.tensor(len(schedule.layers)))
        self.register_load_state_dict_post_hook(_take_up_the_groups)
        self.set_step(0)
        self.set_keep_ratio(config.test_keep_ratio)

    # ------------------------------------------------------------------ deciding

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens that are left; where a group begins, its agent drops some of them first."""
        notes: Kept | None = self.recall(state)
        left = survivors(view, state, notes)
        if view.layer not in self._trained:
            return state, left
        group = self._trained.layers.index(view.layer)
        if group >= self._active or (self.keep_ratio == 1 and not self.training):
            return state, left
        # A reward trains the agents alone; a straight-through gradient trains the trunk too.
        tokens = state.tokens if self.reinforcement is None else state.tokens.detach()
        margin = self.agents.margin(view.layer, tokens[:, 0], tokens[:, state.num_extra :])
        among, log_prob = left.keep, None if notes is None else notes.log_prob
        if not self.training or group not in self._drawing:
            keep = self.above_threshold(view.layer, margin.masked_fill(~among, -torch.inf))
            kept = Kept(keep, log_prob=log_prob)
        elif self.reinforcement is not None:
            kept = draw(margin, among, log_prob)
        else:
            keep, gate = drop_by_chance(margin.masked_fill(~among, -torch.inf), left)
            kept = Kept(keep, gate=gate)
        margin = margin.masked_fill(~among, -torch.inf)
        macs = self.agents.macs(view.layer, state.num_patches)
        chosen = Selection(kept.keep, gate=kept.gate, score=margin, macs=macs)
        return self.remember(state, kept), chosen

    # ------------------------------------------------------------------ training

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_keep_ratio` over all groups, or `loss_interpreter` where agents learn by reward."""
        if self.reinforcement is None:
            gates = gates_of(record, self._trained.layers)
            loss = keep_ratio_loss(gates, self._trained.shares, mean=task.mean)
            return {"loss_keep_ratio": self.loss_weight * loss}
        loss = in_the_graph(self.agents.parameters())
        notes: Kept | None = record.notes.get(type(self).__name__)
        if notes is not None and notes.log_prob is not None:
            loss = loss + self.reinforcement.loss(record, task, notes.log_prob)
        return {"loss_interpreter": loss}

    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """Where agents learn by reward: the number of deciding groups, rewards, the advantage and
        the share that is left in each group."""
        if self.reinforcement is None:
            return {}
        return {"groups": self._active, **self.reinforcement.metrics(record, task)}

    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Track the margins and the kept shares.

        Where agents learn by reward, the kept shares are those of p > .5, not those of the draws.
        """
        margins, keeps = choices_of(record, self._trained.layers)
        if self.reinforcement is not None:
            keeps = [margin > 0 for margin in margins]
        self.budget.track(margins, keeps, mean)

    def set_step(self, step: int, steps: int | None = None) -> None:
        """Say which groups decide and which agents draw. The number of groups is saved."""
        num_groups = len(self._trained.layers)
        self._active, self._drawing = num_groups, range(num_groups)
        if self.reinforcement is not None:
            self._active, self._drawing = self.reinforcement.part(step, steps)
        self.num_active.fill_(self._active)
        self.needs_greedy_pass = self.reinforcement is not None and len(self._drawing) > 0

    def rate_factors(self) -> Mapping[str, float]:
        """The learning-rate factor of the agents."""
        return {} if self.agent_rate == 1 else {"trunk.policy": self.agent_rate}

    def frozen(self, step: int, steps: int | None = None) -> Collection[str]:
        """By reward: the trunk and the other agents while an agent learns, then all agents."""
        return () if self.reinforcement is None else self.reinforcement.frozen(step, steps)


def _take_up_the_groups(module: IARED2, _: object) -> None:
    module._active = int(module.num_active)
