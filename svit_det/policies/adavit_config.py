"""AdaViTConfig: the settings of AdaViT, and what cannot be used among them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from svit_det.errors import InputError
from svit_det.policies.base import ScheduleConfig
from svit_det.settings import setting

DECISIONS = ("tokens", "heads", "layers")
MODES = ("threshold", "released")
TARGET = 0.5


@dataclass(frozen=True, kw_only=True)
class AdaViTConfig(ScheduleConfig):
    """MODEL.TOKEN_POLICY.ADAVIT, and the shared keys."""

    node = "ADAVIT"
    decide: tuple[str, ...] = setting(
        DECISIONS,
        "What is decided: tokens, heads, layers (attention or MLP as a whole).",
        kind=str,
        many=True,
        choices=DECISIONS,
    )
    mode: str = setting(
        "threshold",
        "How inference decides: by thresholds that spend what training spent, or by the fixed "
        "thresholds of the released code.",
        choices=MODES,
    )
    token_target: float = setting(
        TARGET,
        "Mean share of tokens that the blocks of LAYERS keep. Where KEEP_RATIOS is set, the "
        "mean of KEEP_RATIOS stands in for TOKEN_TARGET.",
        interval="(0, 1]",
    )
    head_target: float = setting(
        TARGET, "Share of heads that run in the attentions that run.", interval="(0, 1]"
    )
    layer_target: float = setting(
        TARGET, "Share of attentions and MLPs that run.", interval="(0, 1]"
    )
    keep_first: int = setting(
        1,
        "Number of first blocks of the trunk, which decide about tokens alone.",
        interval="[0, 1000]",
    )
    token_threshold: float = setting(
        0.6, "Value that the sigmoid must exceed to keep a token.", interval="(0, 1)"
    )
    usage_weight: float = setting(
        2.0, "Weight of each loss that holds a usage to its target.", interval="[0, 1e6]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decide:
            raise InputError("[] decides nothing; name tokens, heads or layers.", setting="decide")
        if self.keep_ratios and "tokens" not in self.decide:
            raise without_tokens("keep_ratios")
        if self.keep_ratios and self.token_target != TARGET:
            raise InputError(
                f"{self.token_target} and the mean of KEEP_RATIOS say the same thing: unset one of "
                "them.",
                setting="token_target",
            )

    def part_layers(self, layers: Iterable[int], num_heads: int) -> tuple[int, ...]:
        """The blocks, of `layers`, that decide about heads or sub-layers, in ascending order."""
        if {*self.decide} == {"tokens"}:
            return ()
        found = tuple(sorted(layer for layer in layers if layer >= self.keep_first))
        if not found:
            raise InputError(
                f"{self.keep_first} leaves none of LAYERS to decide about heads and sub-layers: "
                "lower it, or decide about tokens alone.",
                setting="keep_first",
            )
        if "heads" in self.decide and self.head_target * num_heads < 1:
            raise InputError(
                f"{self.head_target} of {num_heads} heads is less than one; give at least "
                f"{math.ceil(100 / num_heads) / 100}.",
                setting="head_target",
            )
        return found


def without_tokens(setting: str) -> InputError:
    """The error for a setting that has no meaning where no decision is about tokens."""
    return InputError(
        "speaks of tokens, about which nothing is decided: unset it or add tokens to DECIDE.",
        setting=setting,
    )
