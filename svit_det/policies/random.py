"""Random: the control. Each deciding block keeps its share of the tokens, drawn anew.

A policy that beats Random at equal cost owes its gain to its choice of tokens. `Monotone(Random)`
is the control for policies that reactivate no token.

B images, N patch tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svit_det.policies.base import BlockView, ScheduleConfig, TrunkShape
from svit_det.policies.ranking import keep_top
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import ScheduledPolicy
from svit_det.settings import setting
from svit_det.tokens import Selection, TokenState, everyone


@POLICY_REGISTRY.register()
class Random(ScheduledPolicy):
    """Blocks draw tokens: in training for each image and step, at inference once for all images.

    The number kept does not depend on the image. The policy's own schedule: blocks 3 to 11, with
    shares of .7, .49 and .343 for three blocks each.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """MODEL.TOKEN_POLICY.RANDOM, and the shared keys."""

        seed: int = setting(0, "Seed of the draws at inference.", interval="[0, 1e9]")

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        super().__init__(schedule=config.schedule(shape.depth))
        self.seed = config.seed
        self.set_keep_ratio(config.test_keep_ratio)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The block's share of the patch tokens, drawn among the candidates."""
        if view.layer not in self.schedule:
            return state, everyone(state)
        num_images, num_patches = len(state.tokens), state.num_patches
        count = max(round(self.schedule.share(view.layer) * num_patches), 1)
        if count == num_patches and view.candidates is None:
            return state, everyone(state)
        if self.training:
            score = torch.rand(num_images, num_patches, device=state.tokens.device)
        else:
            draw = hashed(num_patches, self.seed, view.layer, device=state.tokens.device)
            score = draw.expand(num_images, num_patches)
        if view.candidates is None:
            # The count is known beforehand, unless images differ in their extra tokens.
            total = None if state.present is not None else count + state.num_extra
            return state, Selection(keep=keep_top(score, count), total=total, score=score)
        score = score.masked_fill(~view.candidates, -1)
        keep = keep_top(score, count) & view.candidates
        return state, Selection(keep=keep, score=score)


def hashed(count: int, seed: int, layer: int, *, device: torch.device) -> Tensor:
    """(count,) numbers in [0, 1), a function of place, seed and block alone.

    The numbers are an integer hash of two rounds of multiply and xor-shift. A random generator
    would give other numbers on other devices, and could not be exported in one graph.
    """
    place = torch.arange(count, device=device) + 0x9E3779B1 * (1 + layer) + 0x85EBCA77 * seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x2C1B3C6D), (16, 1)):
        place = place & 0xFFFFFFFF
        place = (place ^ (place >> shift)) * factor
    return ((place & 0xFFFFFFFF) >> 8).float() / 2**24
