"""SViT: a tiny gate before a block decides, token by token, who runs through it.

Source: Liu et al., "Revisiting Token Pruning for Object Detection and Instance Segmentation", WACV
2024. A skipped token keeps its last value in the map, is seen again by the next gate and may be
picked up again. The number kept varies per image; only its batch mean is held to a target.

B images, N patch tokens, G gates.

Departures from the paper and its code:

- Inference is deterministic by default (`threshold`); the original samples (`sample`).
- The batch mean in the ratio loss is taken over all processes, not per GPU.

As in the original, tokens of padded pixels pass the gates and count in the ratio loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.base import POLICY_REGISTRY, TokenPolicy, everyone, keep_top
from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import (
    TokenGate,
    keep_ratio_loss,
    logistic_noise,
    straight_through,
)
from svit_det.policies.keep_schedule import (
    LAST_NINE,
    THREE_STEPS,
    check_schedule,
    check_test_keep_ratio,
)
from svit_det.tokens import Selection, TokenState, TokenTrace

MODES = ("threshold", "argmax", "sample", "quota")


@POLICY_REGISTRY.register()
class SViT(TokenPolicy):
    """One gate before each of `layers`, trained towards `keep_ratios`.

    Inference modes:

    - `threshold`: keep where the margin exceeds the gate's threshold, which training tracks so that
      the mean usage is what training saw. The count depends on the image.
    - `argmax`: keep where keeping is the more probable; a tie is dropped, as in the original.
    - `sample`: the training's Gumbel draw with a fixed seed, the same for every image: what the
      original evaluates with.
    - `quota`: the `keep_ratios` share of each image with the highest margins.

    `test_keep_ratio` in (0, 1] runs a trained model at another mean share of tokens over the gated
    blocks, without retraining (modes `threshold` and `quota`).
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        layers: Sequence[int],
        keep_ratios: Sequence[float],
        loss_weight: float = 4.0,
        ratio_per_image: bool = False,
        mode: str = "threshold",
        test_keep_ratio: float | None = None,
        sample_seed: int = 0,
    ) -> None:
        super().__init__()
        check_schedule(layers, keep_ratios, depth)
        _check_mode(mode, test_keep_ratio)
        self.layers = tuple(layers)
        self.keep_ratios = tuple(keep_ratios)
        self.loss_weight = loss_weight
        self.ratio_per_image = ratio_per_image
        self.mode = mode
        self.sample_seed = sample_seed
        # Named by their block, so that weights trained with other LAYERS do not fit by accident.
        self.gates = nn.ModuleDict({str(layer): TokenGate(embed_dim) for layer in layers})
        self.budget = KeepBudget(self.keep_ratios, test_keep_ratio=test_keep_ratio)

    @classmethod
    def from_config(cls, cfg: Any, *, embed_dim: int, depth: int) -> SViT:
        """Build from the node `MODEL.TOKEN_POLICY`."""
        return cls(
            embed_dim=embed_dim,
            depth=depth,
            layers=cfg.LAYERS or LAST_NINE,
            keep_ratios=cfg.KEEP_RATIOS or THREE_STEPS,
            loss_weight=cfg.LOSS_WEIGHT,
            test_keep_ratio=cfg.TEST_KEEP_RATIO,
            ratio_per_image=cfg.SVIT.RATIO_PER_IMAGE,
            mode=cfg.SVIT.MODE,
            sample_seed=cfg.SVIT.SAMPLE_SEED,
        )

    def before_block(self, layer: int, state: TokenState) -> tuple[TokenState, Selection]:
        """Ask this block's gate, if it has one, about all tokens: skipped ones may come back."""
        if layer not in self.layers:
            return state, everyone(state)
        gate_index = self.layers.index(layer)
        if self._keeps_all(gate_index) and state.allowed is None:
            return state, everyone(state)
        margin = self.gates[str(layer)](state.patches)
        if state.allowed is not None:
            margin = margin.masked_fill(~state.allowed, float("-inf"))
        if self.training:
            keep, gate = straight_through(margin, logistic_noise(margin))
            return state, Selection(keep=keep, gate=gate, score=margin)
        return state, Selection(keep=self._decide(gate_index, margin), score=margin)

    def _keeps_all(self, gate_index: int) -> bool:
        """Known without looking, so that a model at full budget costs what the dense one does."""
        if self.training:
            return False
        if self.mode == "quota":
            return self.budget.quota_ratios[gate_index] >= 1
        return self.budget.test_keep_ratio == 1

    def _decide(self, gate_index: int, margin: Tensor) -> Tensor:
        """(B, N) margins -> (B, N) bool, deterministic."""
        if self.mode == "threshold":
            return margin > self.budget.thresholds[gate_index]
        if self.mode == "argmax":
            return margin > 0
        if self.mode == "sample":
            generator = torch.Generator(margin.device)
            generator.manual_seed(self.sample_seed * 1000 + gate_index)
            # One draw for all images: an image is decided alike in every batch.
            return margin + logistic_noise(margin[:1], generator) > 0
        num_tokens = margin.shape[1]
        count = max(round(self.budget.quota_ratios[gate_index] * num_tokens), 1)
        return keep_top(margin, count) & (margin > float("-inf"))

    def losses(self, trace: TokenTrace, task_losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss_keep_ratio`: the weighted ratio loss over all gated blocks."""
        if not self.layers:
            return {}
        gates = [trace.selections[layer].gate for layer in self.layers]
        loss = keep_ratio_loss(gates, self.keep_ratios, per_image=self.ratio_per_image)
        return {"loss_keep_ratio": self.loss_weight * loss}

    def track(self, trace: TokenTrace) -> None:
        """Follow the margins and kept shares that the thresholds are made of."""
        selections = [trace.selections[layer] for layer in self.layers]
        self.budget.track([s.score for s in selections], [s.keep for s in selections])

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share over the gated blocks; None: as trained."""
        _check_mode(self.mode, ratio)
        self.budget.set_keep_ratio(ratio)

    def decision_macs(self, num_tokens: int) -> dict[int, int]:
        """One gate before each of `layers`, on all tokens."""
        return {
            layer: self.gates[str(layer)].macs(num_tokens)
            for index, layer in enumerate(self.layers)
            if not self._keeps_all(index)
        }


def _check_mode(mode: str, test_keep_ratio: float | None) -> None:
    if mode not in MODES:
        raise InputError(
            f"MODEL.TOKEN_POLICY.SVIT.MODE: no mode '{mode}'; choose one of {', '.join(MODES)}."
        )
    check_test_keep_ratio(test_keep_ratio)
    if test_keep_ratio is not None and mode not in ("threshold", "quota"):
        raise InputError(
            f"MODEL.TOKEN_POLICY.TEST_KEEP_RATIO works in the modes threshold and quota, not in "
            f"{mode}: unset it or change MODEL.TOKEN_POLICY.SVIT.MODE."
        )
