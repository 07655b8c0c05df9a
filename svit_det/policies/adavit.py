"""AdaViT: before each block, linear layers choose tokens, attention heads and whole sub-layers.

Source: Meng et al., "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition", CVPR
2022, and its released code, which has no training script.

B images, N patch tokens, C channels, h heads.

Departures from the paper and its code:

- The class token starts at random, because a dense model has none.
- Inference decides by thresholds that training tracks (mode `threshold`). The mode `released` takes
  the original's fixed thresholds, which spend another budget than training did: noise and the
  temperature of 5 exist in training alone. In training a token is kept with probability one half at
  a logit of 5 logit(.6) = 2.03; at inference a token is kept from logit(.6) = .41 on.
- All heads share one tracked threshold over all blocks, and so do all sub-layers. The losses hold
  means over blocks, and two numbers per image and block are too few for a curve of each block.
- A new decision says yes as often as its target asks, for any input: the weights start at 0, and
  the bias at the target's log odds. With PyTorch's own start about 12 percent of the tokens would
  be kept.
- The token gate multiplies the sum of what attention and MLP add; in the original it multiplies
  each of the two. The values are the same, the gradient is not. A skipped token skips the MLP as
  well, as in the released models.
- Where the trunk has stochastic depth, sub-layers with a decision have stochastic depth too.
- The means in the losses are taken over all processes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from svit_det.policies.adavit_config import AdaViTConfig, without_tokens
from svit_det.policies.base import (
    BlockView,
    Mean,
    TaskLosses,
    TokenPolicy,
    TrunkShape,
    of_this_process,
)
from svit_det.policies.decision import PartMargins
from svit_det.policies.keep_schedule import KeepSchedule, check_budget
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.thresholded import check_mode, choices_of
from svit_det.policies.usage_targets import TargetedDecisions
from svit_det.tokens import BlockParts, PassRecord, Selection, TokenState, everyone


@POLICY_REGISTRY.register()
class AdaViT(TokenPolicy):
    """Each block chooses anew its tokens, its heads, and whether attention and MLP run at all.

    A token is chosen by its own value after the block's first norm. Heads and sub-layers are chosen
    by the class token, from block `keep_first` on. No decision depends on another decision. Losses
    hold the usage of tokens, of heads and of sub-layers to their targets; each usage is a mean over
    all images and blocks, and a head counts where its attention runs. The policy's own schedule:
    all blocks.

    At inference a head is not computed where every image of the batch skips it.

    `decide` lists what is decided. Tokens alone need no class token; the policy is then an SViT
    with smaller gates and one target for all blocks together.

    `test_keep_ratio` runs a trained model at another mean share of tokens, without retraining (mode
    `threshold`); heads and sub-layers stay as trained.
    """

    Config = AdaViTConfig
    Notes = PartMargins

    def __init__(self, *, config: AdaViTConfig, shape: TrunkShape) -> None:
        super().__init__()
        layers = config.layers or tuple(range(shape.depth))
        shares = (config.token_target,) * len(layers)
        self._trained = config.schedule(shape.depth, layers=layers, shares=shares)
        self.part_layers = config.part_layers(layers, shape.num_heads)
        self.mode, self.usage_weight = config.mode, config.usage_weight
        self.num_heads = shape.num_heads
        self.decisions = TargetedDecisions(
            config=config, shape=shape, schedule=self._trained, part_layers=self.part_layers
        )
        self.needs_class_token = self.part_layers != ()
        self.always_skips = "layers" in self.decisions
        self.set_keep_ratio(config.test_keep_ratio)

    # ------------------------------------------------------------------ deciding

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """Choose tokens, and from block `keep_first` on heads and sub-layers."""
        selection = self._choose_tokens(view, state)
        if view.layer not in self.part_layers:
            return state, selection
        margins, macs = {}, selection.macs
        for name in [each for each in self.decisions if each != "tokens"]:
            margins[name] = self.decisions.about(name).margin(view.layer, state.extra[:, 0])
            macs += self.decisions.about(name).macs(view.layer, 1)
        if self.training:
            notes: PartMargins = self.recall(state) or PartMargins()
            added = {name: (*getattr(notes, name), each) for name, each in margins.items()}
            state = self.remember(state, replace(notes, **added))
        return state, replace(selection, parts=self._choose_parts(view, margins), macs=macs)

    def _choose_tokens(self, view: BlockView, state: TokenState) -> Selection:
        spends_all = not self.training and self.keep_ratio == 1 and view.candidates is None
        if "tokens" not in self.decisions or view.layer not in self._trained or spends_all:
            return everyone(state)
        decision = self.decisions.about("tokens")
        margin = decision.margin(view.layer, view.normed(state)).squeeze(-1)
        if view.candidates is not None:
            margin = margin.masked_fill(~view.candidates, float("-inf"))
        macs = decision.macs(view.layer, state.num_patches)
        keep, gate = decision.choose(view.layer, margin)
        return Selection(keep=keep, gate=gate, score=margin, macs=macs)

    def _choose_parts(self, view: BlockView, margins: dict[str, Tensor]) -> BlockParts:
        some = next(iter(margins.values()))
        # A part without a decision always runs.
        chosen = {
            name: some.new_ones(len(some), number, dtype=torch.bool)
            for name, number in (("heads", self.num_heads), ("layers", 2))
        }
        for name, margin in margins.items():
            yes, gate = self.decisions.about(name).choose(view.layer, margin)
            chosen[name] = yes if gate is None else gate
        attend, feed = chosen["layers"].unbind(1)
        return BlockParts(attend=attend, feed=feed, heads=chosen["heads"])

    # ------------------------------------------------------------------ training

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_tokens`, `loss_heads`, `loss_layers`: how far each usage is from its target.

        The difference is squared for tokens, and absolute for heads and sub-layers.
        """
        off = self.decisions.off_target(record, task.mean)
        return {f"loss_{name}": self.usage_weight * each for name, each in off.items()}

    @torch.no_grad()
    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """The usages that the losses hold: `tokens_used`, `heads_used`, `layers_used`."""
        used = self.decisions.usage(record, task.mean)
        return {f"{name}_used": share for name, share in used.items()}

    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Take in the margins and choices that the thresholds are made of."""
        said = record.notes[type(self).__name__] if self.part_layers else None
        self.decisions.track(record, said, mean)

    # ------------------------------------------------------------------ budget

    @property
    def schedule(self) -> KeepSchedule | None:
        """Which blocks choose tokens, and the share that each of them is meant to keep."""
        if "tokens" not in self.decisions:
            return None
        return self._trained if self.training else self._trained.with_mean(self.keep_ratio)

    @property
    def keep_ratio(self) -> float | None:
        """The budget of tokens that was set; None: as trained."""
        if "tokens" not in self.decisions:
            return None
        return self.decisions.about("tokens").budget.keep_ratio

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share of tokens; None: as trained."""
        check_mode(ratio, self.mode)
        check_budget(ratio)
        if "tokens" in self.decisions:
            self.decisions.about("tokens").budget.set_keep_ratio(ratio)
        elif ratio is not None:
            raise without_tokens("test_keep_ratio")

    def follow(self, record: PassRecord) -> None:
        """Let the thresholds for tokens follow the margins of recent images."""
        if "tokens" in self.decisions:
            margins = choices_of(record, self._trained.layers)[0]
            self.decisions.about("tokens").budget.follow(margins)

    def forget(self) -> None:
        """Back to the thresholds of the training."""
        if "tokens" in self.decisions:
            self.decisions.about("tokens").budget.forget()
