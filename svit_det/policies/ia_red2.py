"""IA-RED2: at the start of each group of blocks an agent drops the tokens that tell the least.

Source: Pan et al., "IA-RED2: Interpretability-Aware Redundancy Reduction for Vision Transformers",
NeurIPS 2021, section 3, and the model file of its released interpretation tool.

This is a re-creation, not a reproduction. No training code was released, and unknown are: learning
rates, batch size, the weights of the penalties, and the agent of the paper's own experiments.

B images, N patch tokens, E extra tokens, C channels, G groups, K patch tokens kept.

Departures from the paper and the tool, for dense maps:

- The class token starts at random, because a dense model has none.
- A patch token that is dropped keeps its last value in the map. The tool zeroes it.
- A dropped token is no key, and no row at inference. The tool masks it and computes it.
- The agent projects to queries and keys alone. The tool projects to values too and ignores them.
- A method of its own, `straight_through`, learns by gradient and a ratio loss, as SViT does. Its
  draws are hardly bounded: bounds of .2 and .8 would put a share above .8 out of reach.
- The reward has the task's losses in the place of a correct prediction's 1. detectron2 tells them
  for the batch, so its images share that part; the part for the cost is each image's own.
- The kept share in the reward is the mean over all blocks, so that an earlier group counts for
  more; so does the tool weigh its groups' benefits, by 1, 2/3 and 1/3.
- An image's log probability is the mean over its draws, not the sum: sizes of images weigh alike.
- In a group's part of the training only its own agent draws; earlier ones decide as at inference.
- An agent's probabilities start near its share of what is left, not near one half: three halvings
  would leave a dense model an eighth of its tokens.
- Pyramid, side branch and heads learn all along, also while the trunk stands still.
- Default shares reach SViT's multiply-adds with groups that begin at block 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.base import (
    BlockView,
    Mean,
    ScheduleConfig,
    TaskLosses,
    TrunkShape,
    of_this_process,
)
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import keep_ratio_loss, logistic_noise, straight_through
from svit_det.policies.interpreter import Interpreter, Kept, curriculum, draw, reward
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import ScheduledPolicy, survivors
from svit_det.settings import setting
from svit_det.tokens import PassRecord, Selection, TokenState

LAYERS = (0, 4, 8)
KEEP_RATIOS = (0.81, 0.656, 0.531)
"""A rate of .81, three times over."""
MODES = ("threshold", "released")
LEAST_CHANCE = {"straight_through": 0.02, "reinforce": 0.2}
"""Of either outcome of a draw, by the method. The tool's is .2: p becomes .2 + .6 p."""
MOST_AT_START = 0.95
"""No agent starts surer than this, where a share is 1."""
TRUNK = ("trunk.blocks", "trunk.patch_embed", "trunk.pos_embed", "trunk.cls_token")
"""What stands still while an agent learns by reward."""


@POLICY_REGISTRY.register()
class IARED2(ScheduledPolicy):
    """Groups begin at the schedule's blocks; a token that an agent drops is gone for good.

    Its own schedule: groups from blocks 0, 4 and 8, with shares of .81, .656 and .531. Methods:

    - `straight_through`: each decision is a draw in training, with a gradient, and the kept shares
      are held to the schedule's as targets. All agents and the trunk learn together.
    - `reinforce`: the tokens are really dropped in training too. An agent's draws are rewarded for
      a low loss and few tokens, over what the decision of inference gets (self-critical). Training
      has one part for each group; groups whose part is yet to come change nothing. In the first
      third of a part the group's agent learns and the trunk stands still; afterwards the trunk
      learns under the decisions of inference and the agents stand still. The schedule's shares are
      no targets. Without `set_step` all agents draw and learn at once.

    Inference keeps a token where its margin, the log odds of the (bounded) probability, is above
    0, that is p > .5 (`released`), or above a threshold that training tracks so that the mean usage
    is what training saw (`threshold`; under `reinforce` that is the usage of p > .5).
    `test_keep_ratio` moves the thresholds to another mean share.
    """

    needs_class_token = True
    Notes = Kept
    num_active: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """MODEL.TOKEN_POLICY.IA_RED2, and the shared keys."""

        node = "IA_RED2"
        loss_weight: float = setting(
            4.0, "Weight of the policy's auxiliary loss.", interval="[0, inf)", shared=True
        )
        method: str = setting("straight_through", "How agents learn.", choices=tuple(LEAST_CHANCE))
        mode: str = setting("threshold", "How agents decide at inference.", choices=MODES)
        agent_heads: int = setting(
            6, "Heads of each agent; must divide MODEL.VIT.EMBED_DIM.", interval="[1, inf)"
        )
        agent_rate: float = setting(
            1.0,
            "Learning rate of the agents over SOLVER.BASE_LR, which the rest learns at.",
            interval="(0, inf)",
        )
        reward_weight: float = setting(
            1.0,
            'Of 1 - (kept share)^2 beside the task\'s losses, in method "reinforce".',
            interval="[0, inf)",
        )

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        schedule = config.schedule(shape.depth, layers=LAYERS, shares=KEEP_RATIOS, falling="IARED2")
        super().__init__(schedule=schedule)
        self.mode = config.mode
        self.loss_weight = config.loss_weight
        self.agent_rate = config.agent_rate
        self.reward_weight = config.reward_weight
        self.by_reward = config.method == "reinforce"
        self.least_chance = LEAST_CHANCE[config.method]
        rates = [after / before for before, after in zip((1.0, *schedule.shares), schedule.shares)]
        self.agents = nn.ModuleDict(
            {
                str(layer): Interpreter(
                    shape.embed_dim, config.agent_heads, start=min(rate, MOST_AT_START)
                )
                for layer, rate in zip(schedule.layers, rates)
            }
        )
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
        among = left.keep if view.candidates is None else left.keep & view.candidates
        agent = cast(Interpreter, self.agents[str(view.layer)])
        # A reward is the agents' own affair; a gradient through the decision is the trunk's too.
        tokens = state.tokens.detach() if self.by_reward else state.tokens
        chance = agent(tokens[:, 0], tokens[:, state.num_extra :])
        margin = torch.logit(self.least_chance + (1 - 2 * self.least_chance) * chance)
        log_prob = None if notes is None else notes.log_prob
        if not self.training or (self.by_reward and group not in self._drawing):
            kept = Kept(among & (margin > self._threshold(group)), log_prob=log_prob)
        elif self.by_reward:
            kept = draw(margin, among, log_prob)
        else:
            keep, gate = straight_through(margin, logistic_noise(margin))
            before = among if left.gate is None else left.gate * among
            kept = Kept(keep & among, gate=gate * before)
        margin = margin.masked_fill(~among, -torch.inf)
        macs = agent.macs(state.num_patches)
        chosen = Selection(kept.keep, gate=kept.gate, score=margin, macs=macs)
        return self.remember(state, kept), chosen

    def _threshold(self, group: int) -> Tensor | float:
        return self.budget.thresholds[group] if self.mode == "threshold" else 0.0

    # ------------------------------------------------------------------ training

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_keep_ratio` over all groups, or by reward `loss_interpreter`."""
        if not self.by_reward:
            decided = [record.blocks[layer].selection.gate for layer in self._trained.layers]
            gates = [gate for gate in decided if gate is not None]
            loss = keep_ratio_loss(gates, self._trained.shares, mean=task.mean)
            return {"loss_keep_ratio": self.loss_weight * loss}
        # Every agent stays in the graph, which training in several processes counts on.
        loss = 0 * torch.stack([parameter.sum() for parameter in self.agents.parameters()]).sum()
        notes: Kept | None = record.notes.get(type(self).__name__)
        if notes is not None and notes.log_prob is not None:
            loss = loss - (self.advantage(record, task) * notes.log_prob).mean()
        return {"loss_interpreter": loss}

    def advantage(self, record: PassRecord, task: TaskLosses) -> Tensor:
        """(B,) the reward of the draws less that of the decision of inference."""
        greedy = task.greedy
        if greedy is None or greedy.record is None:
            raise InputError(
                "IARED2 learns by reward over a second pass that decides as at inference, and got "
                'none; train with TokenRCNN or TokenRetinaNet, or choose "straight_through".',
                setting="method",
            )
        weight = self.reward_weight
        return reward(record, task, weight) - reward(greedy.record, greedy, weight)

    @torch.no_grad()
    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """By reward: rewards, the advantage and the shares that are left in each group."""
        if not self.by_reward:
            return {}
        greedy = task.greedy
        numbers: dict[str, Tensor | float] = {"groups": self._active}
        passes = {"": (record, task)}
        if greedy is not None and greedy.record is not None:
            passes["_greedy"] = (greedy.record, greedy)
            numbers["advantage"] = self.advantage(record, task).mean()
        for name, (done, said) in passes.items():
            numbers[f"reward{name}"] = reward(done, said, self.reward_weight).mean()
            shares = done.kept_shares()
            for group, layer in enumerate(self._trained.layers):
                numbers[f"kept{name}_group_{group}"] = shares[layer]
        return numbers

    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Follow the margins and kept shares that the thresholds are made of."""
        selections = [record.blocks[layer].selection for layer in self._trained.layers]
        # A group that does not decide yet has nothing to choose from; such a step does not count.
        margins = [
            torch.full(each.keep.shape, -torch.inf, device=each.keep.device)
            if each.score is None
            else each.score.detach()
            for each in selections
        ]
        keeps = [each.keep for each in selections]
        if self.by_reward:
            keeps = [margin > 0 for margin in margins]
        self.budget.track(margins, keeps, mean)

    def set_step(self, step: int, steps: int | None = None) -> None:
        """Which groups decide, and which agent draws. The groups are saved for an evaluation."""
        num_groups = len(self._trained.layers)
        self._drawing: Collection[int] = range(num_groups)
        active = num_groups
        if self.by_reward and steps is not None:
            group, learns = curriculum(step, steps, num_groups)
            active, self._drawing = group + 1, (group,) if learns else ()
        self.num_active.fill_(active)
        self._active = active
        self.needs_greedy_pass = self.by_reward and len(self._drawing) > 0

    def rate_factors(self) -> Mapping[str, float]:
        """The agents' own rate."""
        return {} if self.agent_rate == 1 else {"trunk.policy": self.agent_rate}

    def frozen(self, step: int, steps: int | None = None) -> Collection[str]:
        """By reward: the trunk and the other agents while an agent learns, then every agent."""
        if not self.by_reward or steps is None:
            return ()
        layers = self._trained.layers
        group, learns = curriculum(step, steps, len(layers))
        if not learns:
            return ("trunk.policy",)
        others = [f"trunk.policy.agents.{layer}" for layer in layers if layer != layers[group]]
        return (*TRUNK, *others)

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share over the groups; None: as trained."""
        if ratio is not None and self.mode != "threshold":
            raise InputError(
                f"works in the mode threshold, not in {self.mode}: unset it or change the mode.",
                setting="test_keep_ratio",
            )
        super().set_keep_ratio(ratio)
        self.budget.set_keep_ratio(ratio)


def _take_up_the_groups(module: IARED2, _: object) -> None:
    module._active = int(module.num_active)
