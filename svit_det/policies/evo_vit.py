"""Evo-ViT: tokens with the highest running class attention run, the others stay as placeholders.

Source: Xu et al., "Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer", AAAI 2022,
and its released code; the version for dense tasks is in the released code of SViT.

B images, N patch tokens, E extra tokens (class, in a block also the representative), C channels.

Departures from the paper:

- The class token starts at random, because a dense model has none.
- Each deciding block chooses anew at inference too (layer-wise), as in the version for dense tasks.
  The classification code trains layer-wise first and then runs stage-wise (`stage_wise`).
- Tokens are not sorted by their score: tokens and scores keep the order of the map.
- Skipped tokens stay as they are, as in the released DeiT models. The authors of Evo-ViT found that
  a representative token did not matter; `representative` adds the paper's representative token.
- `refresh` is new. It tests a conjecture of the authors of SViT (supplementary, part D): the kept
  set hardly changes, because skipped tokens keep their old scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.base import BlockView, ScheduleConfig, TrunkShape
from svit_det.policies.ranking import keep_top
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.policies.scheduled import ScheduledPolicy
from svit_det.settings import setting
from svit_det.tokens import BlockRecord, Selection, TokenState, everyone

LAYERS = tuple(range(4, 12))
KEEP_RATIO = 0.5
STAGES = (4, 8)


@dataclass(frozen=True)
class Running:
    """Evo-ViT's notes."""

    score: Tensor
    """(B, N) the running class attention, summed over heads."""
    keep: Tensor | None = None
    """(B, N) bool, the tokens that the last choice kept; None: all."""
    count: int | None = None
    """The number of kept patch tokens of each image; None where candidates were narrowed."""


@POLICY_REGISTRY.register()
class EvoViT(ScheduledPolicy):
    """Each deciding block keeps the int(r N) tokens, at least one, with the highest running score.

    A block's class attention a, summed over heads, updates the score g of the tokens that the block
    keeps: g <- (1 - t) g + t a, with t = `score_update` in the schedule's blocks and
    `score_update_before` before them; in block 0 g = a. Skipped tokens keep their g, so that the
    kept set can hardly change. The policy's own schedule: blocks 4 to 11, with a share of .5.

    `stage_wise`: the blocks `stages` choose, each as many tokens as its share says, and the blocks
    up to the next stage keep the same tokens. `refresh`: the schedule's blocks take the class
    token's attention to all tokens, as if all were keys, and update every score. `representative`
    (slow-fast updating): the mean of the skipped tokens, weighted by their scores, runs through the
    block as one extra token, and its change is added to every skipped token.
    """

    needs_class_token = True
    Notes = Running

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """MODEL.TOKEN_POLICY.EVO_VIT, and the shared keys."""

        node = "EVO_VIT"
        stage_wise: bool = setting(
            False,
            "False: every block of LAYERS chooses anew. True: the first block of each stage "
            "chooses anew, and the other blocks of the stage keep the same tokens.",
        )
        stages: tuple[int, ...] = setting(
            STAGES,
            "The first block of each stage: blocks of LAYERS in ascending order, beginning with "
            "the first block of LAYERS.",
            kind=int,
            many=True,
            interval="[0, 1000]",
            needs=("stage_wise", True),
        )
        layer_wise_steps: int = setting(
            0,
            "Number of first training steps in which every block of LAYERS chooses anew in spite "
            "of STAGE_WISE, as in the paper's first 200 of 300 epochs.",
            interval="[0, 1e9]",
            needs=("stage_wise", True),
        )
        score_update: float = setting(
            0.5, "Weight of a block's own class attention in the running score.", interval="(0, 1]"
        )
        score_update_before: float = setting(
            0.5,
            "Weight of a block's own class attention in the running score, in the blocks before "
            "LAYERS. With 1 only the last of these blocks counts, as in classification.",
            interval="(0, 1]",
        )
        refresh: bool = setting(
            False,
            "Give skipped tokens a new score too: the class token's attention to all tokens.",
        )
        representative: bool = setting(
            False,
            "Run one token that stands for the skipped tokens in each block; the change of this "
            "token is added to every skipped token.",
        )

    def __init__(self, *, config: Config, shape: TrunkShape) -> None:
        layers = config.layers or LAYERS
        super().__init__(
            schedule=config.schedule(shape.depth, layers=layers, shares=(KEEP_RATIO,) * len(layers))
        )
        if 0 in layers:
            raise InputError(
                "block 0 cannot choose under EvoViT, whose score is the class attention of the "
                "blocks before.",
                setting="layers",
            )
        if config.stage_wise:
            _check_stages(config.stages, layers)
        self.embed_dim = shape.embed_dim
        self.stages = config.stages if config.stage_wise else None
        self.layer_wise_steps = config.layer_wise_steps
        self._step = 0
        self.score_update = config.score_update
        self.score_update_before = config.score_update_before
        self.refresh = config.refresh
        self.representative = config.representative
        self.adds_tokens = config.representative
        self.preserves = not config.representative
        self.set_keep_ratio(config.test_keep_ratio)

    @property
    def choosing(self) -> tuple[int, ...]:
        """The blocks that choose anew; the schedule's other blocks keep the last choice."""
        layer_wise = self.training and self._step < self.layer_wise_steps
        return self.schedule.layers if self.stages is None or layer_wise else self.stages

    def set_step(self, step: int, steps: int | None = None) -> None:
        """Say by the step whether training is still layer-wise."""
        self._step = step

    def _is_scored(self, layer: int) -> bool:
        """Whether some later choice depends on this block's attention."""
        schedule = self.schedule
        pruning = [each for each in self.choosing if schedule.share(each) < 1]
        if not pruning:
            return False
        # With an update of 1 the score is the last block's attention alone.
        start = min(pruning) - 1 if self.score_update_before == 1 else 0
        return start <= layer < max(pruning)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens with the highest score; a representative of the others joins them."""
        notes: Running | None = self.recall(state)
        if view.layer not in self.schedule or notes is None:
            return state, everyone(state)
        if view.layer in self.choosing:
            notes = self._choose(view, notes)
            state = self.remember(state, notes)
        if notes.keep is None:
            return state, everyone(state)
        keep, count, macs = notes.keep, notes.count, 0
        if view.candidates is not None:
            keep, count = keep & view.candidates, None
        if self.representative:
            state = _add_representative(state, notes.score, ~keep, always=count is not None)
            macs = state.num_patches * self.embed_dim
        total = None if count is None else count + state.num_extra
        return state, Selection(keep=keep, total=total, score=notes.score, macs=macs)

    def _choose(self, view: BlockView, notes: Running) -> Running:
        share, num_patches = self.schedule.share(view.layer), notes.score.shape[1]
        count = max(math.floor(share * num_patches), 1)
        if share >= 1 or count == num_patches:
            return replace(notes, keep=None, count=None)
        score = notes.score
        if view.candidates is not None:
            score = score.masked_fill(~view.candidates, -1)
        return replace(notes, keep=keep_top(score, count), count=count)

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Update the score of the tokens that run; the choice itself stands."""
        if not self._is_scored(view.layer):
            return state, selection
        refresh = self.refresh and view.layer in self.schedule
        attention = view.class_attention_to_all() if refresh else view.class_attention()
        seen = attention.weights.detach().sum(dim=1)
        notes: Running | None = self.recall(state)
        if notes is None:
            return self.remember(state, Running(score=seen)), selection
        inside = view.layer in self.schedule
        score = notes.score.lerp(seen, self.score_update if inside else self.score_update_before)
        if selection.total != state.tokens.shape[1] and not refresh:
            score = torch.where(selection.keep, score, notes.score)
        return self.remember(state, replace(notes, score=score)), selection

    def after_block(
        self, view: BlockView, entered: TokenState, state: TokenState, record: BlockRecord
    ) -> TokenState:
        """Add the representative's change to all skipped tokens, and remove the representative."""
        if state.num_extra == 1:
            return state
        change = state.extra[:, 1:] - entered.extra[:, 1:]
        skipped = ~record.selection.keep.unsqueeze(-1)
        patches = state.patches + change * skipped
        tokens = torch.cat([state.extra[:, :1], patches], dim=1)
        return replace(state, tokens=tokens, num_extra=1, present=None)


def _add_representative(
    state: TokenState, score: Tensor, skipped: Tensor, *, always: bool
) -> TokenState:
    """One more extra token: the mean of the `skipped` (B, N) tokens, weighted by `score` (B, N).

    An image that skips no token gets no representative; `always` says that each image skips some.
    """
    weights = score * skipped
    total = weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    mean = (weights / total).to(state.tokens.dtype).unsqueeze(1) @ state.patches
    if always:
        return state.with_more(mean)
    some = skipped.any(dim=1, keepdim=True)
    return state.with_more(mean, present=torch.cat([torch.ones_like(some), some], dim=1))


def _check_stages(stages: Sequence[int], layers: Sequence[int]) -> None:
    if list(stages) != sorted(set(stages)) or not set(stages) <= set(layers):
        raise InputError(
            f"{list(stages)} must be blocks of layers, {list(layers)}, in ascending order.",
            setting="stages",
        )
    if not stages or min(layers) < stages[0]:
        raise InputError(
            f"{list(stages)} must begin with the first of layers, {min(layers)}.",
            setting="stages",
        )
