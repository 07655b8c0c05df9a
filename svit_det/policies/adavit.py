"""AdaViT: before each block, linear layers choose tokens, attention heads and whole sub-layers.

Source: Meng et al., "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition", CVPR
2022, and its released code, which has no training script.

B images, N patch tokens, C channels, h heads, P blocks that choose heads or sub-layers.

Departures from the paper and its code:

- The class token starts at random, because a dense model has none.
- Inference decides by thresholds that training tracks (`threshold`). The original's fixed ones are
  the mode `released`. They spend another budget than training did: noise and the temperature of 5
  exist in training alone, where a token is as likely kept as not at a logit of 5 logit(.6) = 2.03;
  at inference it is kept from logit(.6) = .41 on.
- Heads have one tracked threshold for all blocks, and so have sub-layers: what the losses hold are
  means over blocks, and two numbers per image and block are too few for a curve of their own.
- A new decision says yes as often as its target asks, whatever it looks at: weights start at 0, and
  the bias there. At PyTorch's own start 12 percent of the tokens or so would be kept.
- The token gate multiplies the sum of what both sub-layers add, in the original each of them: the
  same values, another gradient. A skipped token skips the MLP as well, as in the released models.
- Where the trunk has stochastic depth, a sub-layer that is decided about has it, too.
- The means in the losses are taken over all processes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.adavit_config import AdaViTConfig, without_tokens
from svit_det.policies.base import (
    BlockView,
    Mean,
    TaskLosses,
    TokenPolicy,
    TrunkShape,
    of_this_process,
)
from svit_det.policies.decision import Decision, PartMargins, part_gates
from svit_det.policies.keep_schedule import KeepSchedule, check_budget
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.tokens import BlockParts, PassRecord, Selection, TokenState, everyone

PART_THRESHOLD = 0.5
"""What the sigmoid must exceed for a head or a sub-layer."""


@POLICY_REGISTRY.register()
class AdaViT(TokenPolicy):
    """Each block chooses its tokens anew, its heads, and whether attention and MLP run at all.

    Tokens are chosen by themselves, after the block's first norm; heads and sub-layers by the class
    token, from block `keep_first` on. The decisions of a block know nothing of each other, nor of
    those of other blocks. Losses hold the three usages, each a mean over all images and blocks, to
    their targets; a head counts where its attention runs. Its own schedule: all blocks.

    With one image the heads that it skips are not computed; with several, the ones that all skip.

    `decide` lists what is decided. Tokens alone need no class token: an SViT with smaller gates and
    one target for all blocks together.

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
        kinds = {
            "tokens": (layers, 1, self._trained.shares, config.token_threshold),
            "heads": (self.part_layers, shape.num_heads, (config.head_target,), PART_THRESHOLD),
            "layers": (self.part_layers, 2, (config.layer_target,), PART_THRESHOLD),
        }
        self.decisions = nn.ModuleDict(
            {
                name: Decision(
                    *(where, shape.embed_dim, choices),
                    above=above,
                    targets=targets,
                    released=config.mode == "released",
                )
                for name, (where, choices, targets, above) in kinds.items()
                if name in config.decide
            }
        )
        self.needs_class_token = self.part_layers != ()
        self.always_skips = "layers" in self.decisions
        self.set_keep_ratio(config.test_keep_ratio)

    def _decision(self, name: str) -> Decision:
        return cast(Decision, self.decisions[name])

    # ------------------------------------------------------------------ deciding

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """Choose tokens, and from block `keep_first` on heads and sub-layers."""
        selection = self._choose_tokens(view, state)
        if view.layer not in self.part_layers:
            return state, selection
        margins, macs = {}, selection.macs
        for name in [each for each in self.decisions if each != "tokens"]:
            margins[name] = self._decision(name).margin(view.layer, state.extra[:, 0])
            macs += self._decision(name).macs(view.layer, 1)
        if self.training:
            notes: PartMargins = self.recall(state) or PartMargins()
            added = {name: (*getattr(notes, name), each) for name, each in margins.items()}
            state = self.remember(state, replace(notes, **added))
        return state, replace(selection, parts=self._choose_parts(view, margins), macs=macs)

    def _choose_tokens(self, view: BlockView, state: TokenState) -> Selection:
        spends_all = not self.training and self.keep_ratio == 1 and view.candidates is None
        if "tokens" not in self.decisions or view.layer not in self._trained or spends_all:
            return everyone(state)
        decision = self._decision("tokens")
        margin = decision.margin(view.layer, view.normed(state)).squeeze(-1)
        if view.candidates is not None:
            margin = margin.masked_fill(~view.candidates, float("-inf"))
        macs = decision.macs(view.layer, state.num_patches)
        keep, gate = decision.choose(view.layer, margin)
        return Selection(keep=keep, gate=gate, score=margin, macs=macs)

    def _choose_parts(self, view: BlockView, margins: dict[str, Tensor]) -> BlockParts:
        some = next(iter(margins.values()))
        # What nothing is decided about runs.
        chosen = {
            name: some.new_ones(len(some), number, dtype=torch.bool)
            for name, number in (("heads", self.num_heads), ("layers", 2))
        }
        for name, margin in margins.items():
            yes, gate = self._decision(name).choose(view.layer, margin)
            chosen[name] = yes if gate is None else gate
        attend, feed = chosen["layers"].unbind(1)
        return BlockParts(attend=attend, feed=feed, heads=chosen["heads"])

    # ------------------------------------------------------------------ training

    def usage(self, record: PassRecord, mean: Mean = of_this_process) -> dict[str, Tensor]:
        """Shares of a training pass, each a mean over images, blocks and processes.

        Of tokens those that were kept; of sub-layers those that ran; of heads those that ran, in
        attentions that did.
        """
        used = {}
        if "tokens" in self.decisions:
            gates = [record.blocks[layer].selection.gate for layer in self._trained.layers]
            used["tokens"] = mean(torch.stack([gate for gate in gates if gate is not None]).mean())
        if "heads" in self.decisions:
            layers, heads = part_gates(record, self.part_layers)
            attend = layers[..., :1].detach().to(heads.dtype)
            ran, there_were = mean(torch.stack([(heads * attend).sum(), attend.sum()])).unbind()
            used["heads"] = ran / (there_were * self.num_heads).clamp(min=1e-6)
        if "layers" in self.decisions:
            used["layers"] = mean(part_gates(record, self.part_layers)[0].mean())
        return used

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_tokens`, squared, `loss_heads` and `loss_layers`, absolute: usage off target."""
        losses = {}
        for name, share in self.usage(record, task.mean).items():
            off = share - self._decision(name).target
            off = off.square() if name == "tokens" else off.abs()
            losses[f"loss_{name}"] = self.usage_weight * off
        return losses

    @torch.no_grad()
    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """What the losses hold to the targets: `tokens_used`, `heads_used`, `layers_used`."""
        used = self.usage(record, task.mean)
        return {f"{name}_used": share for name, share in used.items()}

    @torch.no_grad()
    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Follow the margins and choices that the thresholds are made of."""
        if "tokens" in self.decisions:
            said = [record.blocks[layer].selection for layer in self._trained.layers]
            margins = [each.score for each in said if each.score is not None]
            self._decision("tokens").track(margins, [each.keep for each in said], mean)
        if not self.part_layers:
            return
        notes: PartMargins = record.notes[type(self).__name__]
        layers, heads = part_gates(record, self.part_layers)
        if "heads" in self.decisions:
            # A head of an attention that did not run was not up for choice.
            of_heads = torch.stack(notes.heads).masked_fill(layers[..., :1] == 0, float("-inf"))
            self._decision("heads").track([*of_heads], [*heads.bool()], mean)
        if "layers" in self.decisions:
            self._decision("layers").track(notes.layers, [*layers.bool()], mean)

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
        return self._decision("tokens").budget.keep_ratio

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share of tokens; None: as trained."""
        if ratio is not None and self.mode != "threshold":
            raise InputError(
                f"works in the mode threshold, not in {self.mode}: unset it or change the mode.",
                setting="test_keep_ratio",
            )
        check_budget(ratio)
        if "tokens" in self.decisions:
            self._decision("tokens").budget.set_keep_ratio(ratio)
        elif ratio is not None:
            raise without_tokens("test_keep_ratio")
