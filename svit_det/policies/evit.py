"""EViT: inside three blocks, tokens that the class token attends to least are fused into one.

Source: Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token
Reorganizations", ICLR 2022, sections 3.2 and 3.3.

B images, N patch tokens, E extra tokens (class, then one for each block that fused), F = E - 1
fused tokens, C channels.

Departures from the paper, for dense maps:

- The class token starts at random, because a dense model has none.
- A patch token that is fused is dropped, and keeps in the map its value from after that attention.
  The paper discards it.
- Kept tokens stay in the order of the grid. The paper sorts them by score; attention does not
  depend on the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.policies.base import BlockView, ScheduleConfig, TrunkShape
from svit_det.policies.ranking import keep_highest, keep_top
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import ScheduledPolicy, Survivors, survivors
from svit_det.settings import setting
from svit_det.tokens import Selection, TokenState

LAYERS = (3, 6, 9)
KEEP_RATIOS = (0.7, 0.49, 0.343)
"""The paper's keep rate of .7, three times over."""


@POLICY_REGISTRY.register()
class EViT(ScheduledPolicy):
    """In the schedule's blocks, the class token's attention says which tokens go on to the MLP.

    A block holds n tokens besides the class token, earlier fused tokens included. The ceil(r n)
    tokens with the highest attention, mean over heads, go on; the others are summed into one more
    token, weighted by their attention. The weights are not normalised. The rate r of a block is its
    share over the share of the deciding block before. The number kept does not depend on the image.
    The policy's own schedule: blocks 3, 6 and 9, with shares of .7, .49 and .343.

    Training may begin with `warmup_start` steps at r = 1; then r falls to its value along a cosine
    over `warmup_steps`. The paper's authors take 10 and 100 epochs, training from scratch.
    """

    needs_class_token = True
    Notes = Survivors
    num_steps: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """MODEL.TOKEN_POLICY.EVIT, and the shared keys."""

        fuse: bool = setting(True, "Fuse the dropped tokens into one more token.")
        warmup_start: int = setting(
            0,
            "Number of first training steps, in which the blocks keep all tokens.",
            interval="[0, 1e9]",
        )
        warmup_steps: int = setting(
            0,
            "Number of steps after WARMUP_START over which the shares fall to KEEP_RATIOS along a "
            "cosine. 0 means that the shares fall at once.",
            interval="[0, 1e9]",
        )

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        super().__init__(
            schedule=config.schedule(shape.depth, layers=LAYERS, shares=KEEP_RATIOS, falling="EViT")
        )
        self.embed_dim = shape.embed_dim
        self.fuse = config.fuse
        self.adds_tokens = config.fuse
        self.warmup_start = config.warmup_start
        self.warmup_steps = config.warmup_steps
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
        self.register_load_state_dict_post_hook(_take_up_the_step)
        self.set_step(0)
        self.set_keep_ratio(config.test_keep_ratio)

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Move a trained model to another mean share; None: as trained."""
        super().set_keep_ratio(ratio)
        self._test_rates = _rates(self._tested.shares)

    def set_step(self, step: int, steps: int | None = None) -> None:
        """Set the rates of this step. The step is saved, so that a resumed training has them."""
        self.num_steps.fill_(step)
        warmth = self._warmth(step)
        self._train_rates = [rate + (1 - rate) * warmth for rate in _rates(self._trained.shares)]

    def _warmth(self, step: int) -> float:
        """1 at the start of the warm-up, 0 after it."""
        if self.warmup_start + self.warmup_steps == 0:
            return 0.0
        step -= self.warmup_start
        if step < 0:
            return 1.0
        if step >= self.warmup_steps:
            return 0.0
        return (1 + math.cos(math.pi * step / self.warmup_steps)) / 2

    def keep_rates(self) -> list[float]:
        """The rate r of each deciding block: a share of the tokens that are left before it."""
        return self._train_rates if self.training else self._test_rates

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens that were never dropped."""
        return state, survivors(view, state, self.recall(state))

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Keep the tokens with the highest attention; fuse the others."""
        if view.layer not in self.schedule:
            return state, selection
        rate = self.keep_rates()[self.schedule.layers.index(view.layer)]
        count = None if selection.total is None else math.ceil((selection.total - 1) * rate)
        if rate == 1 or (count is not None and selection.total == count + 1):
            return state, selection
        # Extra token 0 is the class token; fused tokens compete with the patch tokens.
        attention = view.class_attention()
        score = torch.cat([attention.weights, attention.extra_weights[..., 1:]], dim=2).mean(dim=1)
        present = state.presence()
        among = torch.cat([selection.keep, present[:, 1:]], dim=1)
        on = _choose(score.detach(), among, rate, count)
        keep = on[:, : state.num_patches]
        total = None if count is None else 1 + count + int(self.fuse)
        chosen = replace(
            selection,
            keep=keep,
            total=total,
            gate=None if selection.gate is None else selection.gate * keep,
            score=score[:, : state.num_patches].detach(),
        )
        if self.fuse:
            still = torch.cat([present[:, :1], on[:, state.num_patches :]], dim=1)
            chosen = replace(chosen, macs=selection.macs + score.shape[1] * self.embed_dim)
            state = _fuse(view.attended(), score, among & ~on, still, always=count is not None)
        return self.remember(state, Survivors(keep, total)), chosen


def _take_up_the_step(module: EViT, _: object) -> None:
    module.set_step(int(module.num_steps))


def _rates(shares: Sequence[float]) -> list[float]:
    """Shares of all tokens -> shares of the tokens that the deciding block before has kept."""
    # Rounded, so that .49 after .7 is .7 again: ceil would count one token more at a hair above .7.
    return [round(after / before, 12) for before, after in zip((1.0, *shares), shares)]


def _choose(score: Tensor, among: Tensor, rate: float, count: int | None) -> Tensor:
    """(B, N + F) bool: the `count` highest of the tokens `among`; None: the `rate` of these."""
    if count is not None:
        return keep_top(score.masked_fill(~among, float("-inf")), count)
    # In double precision: .7 of 4,200 in single precision is not 2,940.
    counts = (among.sum(dim=1).double() * rate).ceil().long()
    return keep_highest(score, among, counts)


def _fuse(
    state: TokenState, score: Tensor, dropped: Tensor, still: Tensor, *, always: bool
) -> TokenState:
    """One more extra token: the sum of the `dropped` (B, N + F) tokens by their `score`.

    `still` (B, E) says which extra tokens go on. An image that drops no token gets no fused token;
    `always` says that each image drops some.
    """
    weights = (score * dropped).to(state.tokens.dtype)
    # The buffer's order behind the class token is: fused tokens, patch tokens.
    num_patches = state.num_patches
    ordered = torch.cat([weights[:, num_patches:], weights[:, :num_patches]], dim=1)
    fused = ordered.unsqueeze(1) @ state.tokens[:, 1:]
    new = torch.ones_like(still[:, :1]) if always else dropped.any(dim=1, keepdim=True)
    return state.with_more(fused, present=torch.cat([still, new], dim=1))
