"""SViT: a tiny gate before a block decides, token by token, which ones run through it.

Source: Liu et al., "Revisiting Token Pruning for Object Detection and Instance Segmentation", WACV
2024. A skipped token keeps its last value in the map, and the next gate may reactivate it. The
number kept varies by image; the loss holds only its batch mean to a target.

B images, N patch tokens, G gates.

Departures from the paper and its code:

- Inference is deterministic by default (`threshold`); the original samples (`sample`).
- The batch mean in the ratio loss is taken over all processes, not per GPU.
- The last gate may decide about the class token too, as in the original's classifier
  (`gate_class_token`). The gate's threshold is then tracked from the patch tokens alone.

As in the original, tokens of padded pixels pass the gates and count in the ratio loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.policies.base import BlockView, ScheduleConfig, TaskLosses, TrunkShape
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import (
    TokenGate,
    gates_of,
    keep_ratio_loss,
    logistic_noise,
    straight_through,
)
from svit_det.policies.ranking import keep_top
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.thresholded import ThresholdedPolicy
from svit_det.settings import setting
from svit_det.tokens import PassRecord, Selection, TokenState, everyone

MODES = ("threshold", "argmax", "sample", "quota")


@POLICY_REGISTRY.register()
class SViT(ThresholdedPolicy):
    """A gate before each of the schedule's blocks decides; its target is the block's share.

    The policy's own schedule: blocks 3 to 11, with shares of .7, .49 and .343 for three blocks
    each.

    Inference modes:

    - `threshold`: keep a token whose margin exceeds the gate's threshold. Training tracks the
      threshold so that the mean usage is the usage of the training. The count depends on the image.
    - `argmax`: keep a token where keeping is the more probable; a tie is skipped, as in the
      original.
    - `sample`: the training's Gumbel draw with a fixed seed, the same for every image. The original
      evaluates with such draws.
    - `quota`: keep the schedule's share of each image, the tokens with the highest margins; the
      count is known beforehand.

    `test_keep_ratio` runs a trained model at another mean share of tokens over the gated blocks,
    without retraining (modes `threshold` and `quota`). In mode `threshold` the count still depends
    on the image, within .03 of the budget, as `KeepBudget` says.
    """

    budget_modes = ("threshold", "quota")

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """MODEL.TOKEN_POLICY.SVIT, and the shared keys."""

        fixed_count = {"mode": "quota"}
        loss_weight: float = setting(
            4.0, "Weight of the policy's auxiliary loss.", interval="[0, 1e6]", shared=True
        )
        mode: str = setting("threshold", "How gates decide at inference.", choices=MODES)
        sample_seed: int = setting(
            0, 'Seed of the draws in mode "sample".', interval="[0, 1e15]", needs=("mode", "sample")
        )
        ratio_per_image: bool = setting(False, "Hold each image, not the batch, to KEEP_RATIOS.")
        gate_class_token: bool = setting(
            False,
            "The last gate decides about the class token too, as in the original's classifier. "
            "Nothing changes in a network without a class token.",
        )

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        super().__init__(schedule=config.schedule(shape.depth))
        self.mode = config.mode
        self.loss_weight = config.loss_weight
        self.ratio_per_image = config.ratio_per_image
        self.sample_seed = config.sample_seed
        self.gate_class_token = config.gate_class_token
        # Gates are named by their block, so that weights trained with other LAYERS do not fit by
        # accident.
        self.gates = nn.ModuleDict(
            {str(layer): TokenGate(shape.embed_dim) for layer in self._trained.layers}
        )
        self.budget = KeepBudget(self._trained.shares)
        self.set_keep_ratio(config.test_keep_ratio)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """Ask this block's gate, if there is one, about all tokens, skipped ones included."""
        if view.layer not in self._trained:
            return state, everyone(state)
        if self._keeps_all(view.layer) and view.candidates is None:
            return state, everyone(state)
        if self._gates_class_token(view.layer, state):
            return state, self._with_class_token(view, state)
        gate = cast(TokenGate, self.gates[str(view.layer)])
        margin, macs = gate(state.patches), gate.macs(state.num_patches)
        if view.candidates is not None:
            margin = margin.masked_fill(~view.candidates, float("-inf"))
        if self.training:
            keep, soft = straight_through(margin, logistic_noise(margin))
            return state, Selection(keep=keep, gate=soft, score=margin, macs=macs)
        if self.mode == "quota":
            keep, total = self._fill_quota(view, state, margin)
            return state, Selection(keep=keep, total=total, score=margin, macs=macs)
        return state, Selection(keep=self._decide(view.layer, margin), score=margin, macs=macs)

    def _gates_class_token(self, layer: int, state: TokenState) -> bool:
        """Whether this gate decides about the class token. In mode `quota` the class token runs."""
        asked = self.gate_class_token and state.class_token and layer == self._trained.layers[-1]
        return asked and (self.training or self.mode != "quota")

    def _with_class_token(self, view: BlockView, state: TokenState) -> Selection:
        """The last gate's decision about the class token and all patch tokens."""
        gate = cast(TokenGate, self.gates[str(view.layer)])
        margin = gate(torch.cat([state.extra[:, :1], state.patches], dim=1))
        if view.candidates is not None:
            those = torch.cat([torch.ones_like(view.candidates[:, :1]), view.candidates], dim=1)
            margin = margin.masked_fill(~those, float("-inf"))
        others = state.presence()[:, 1:]
        extra_gate = soft = None
        if self.training:
            keep, soft = straight_through(margin, logistic_noise(margin))
            extra_gate = torch.cat([soft[:, :1], others.to(soft.dtype)], dim=1)
        else:
            keep = self._decide(view.layer, margin)
        return Selection(
            keep=keep[:, 1:],
            extra=torch.cat([keep[:, :1], others], dim=1),
            gate=None if soft is None else soft[:, 1:],
            extra_gate=extra_gate,
            score=margin[:, 1:],
            macs=gate.macs(margin.shape[1]),
        )

    def _keeps_all(self, layer: int) -> bool:
        """Whether the block keeps every token in any case.

        The gate is then not asked, so that a model at full budget costs what a dense model costs.
        """
        if self.training:
            return False
        if self.mode == "quota":
            return self.schedule.share(layer) >= 1
        return self.keep_ratio == 1

    def _fill_quota(
        self, view: BlockView, state: TokenState, margin: Tensor
    ) -> tuple[Tensor, int | None]:
        """(B, N) bool with the same number kept in each image, and the rows of every image."""
        count = max(round(self.schedule.share(view.layer) * state.num_patches), 1)
        keep = keep_top(margin, count)
        if view.candidates is not None:
            return keep & view.candidates, None
        return keep, None if state.present is not None else count + state.num_extra

    def _decide(self, layer: int, margin: Tensor) -> Tensor:
        """(B, N) margins -> (B, N) bool, deterministic."""
        if self.mode == "sample":
            generator = torch.Generator(margin.device)
            generator.manual_seed(self.sample_seed * 1000 + self._trained.layers.index(layer))
            # One draw serves all images, so that the batch does not change an image's decisions.
            margin = margin + logistic_noise(margin[:1], generator)
        return self.above_threshold(layer, margin)

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_keep_ratio`: the weighted ratio loss over all gated blocks."""
        gates, shares = gates_of(record, self._trained.layers), self._trained.shares
        with_class = record.blocks[self._trained.layers[-1]].selection.extra_gate
        if with_class is not None:
            gates[-1] = torch.cat([with_class[:, :1], gates[-1]], dim=1)
        loss = keep_ratio_loss(gates, shares, per_image=self.ratio_per_image, mean=task.mean)
        return {"loss_keep_ratio": self.loss_weight * loss}
