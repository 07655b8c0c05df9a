"""A-ViT: after each block a token's first channel says whether the token halts; no extra network.

Source: Yin et al., "A-ViT: Adaptive Tokens for Efficient Vision Transformer", CVPR 2022, and its
released code.

B images, N patch tokens, C channels, L blocks.

Departures from the paper and its code, for dense maps:

- Halted tokens are really removed, in training too; the released code computes and masks them. A
  halted token gets no more scores. In the released code its sum grows on, which is harmless.
- In the released code the class token halts like any other token. Here a network with a class token
  runs the class token in every block.
- The mean halting score of a block is the mean over all patch tokens; a halted token counts as 0.
  The released code means to leave the class token out, but slices the batch and so drops the first
  image.
- The prior is scaled by a whole tail of the Gaussian. This gives the released numbers at twelve
  blocks, and a prior at any other depth. The mean scores are taken over all processes.
- A token whose scores sum to exactly 1 - eps halts; in the released code such a token would
  lose its remainder.
- The ponder weight may follow a target, because the paper's weight is for 197 tokens and
  classification.

As in the original, tokens of padded pixels halt and count like any other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies.a_vit_config import AViTConfig
from svit_det.policies.base import (
    BlockView,
    Mean,
    TaskLosses,
    TokenPolicy,
    TrunkShape,
    of_this_process,
)
from svit_det.policies.halting import Halting, HaltingWatch, prior_loss, prior_target
from svit_det.policies.ponder import PonderWeight
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.tokens import BlockRecord, PassRecord, Selection, TokenState, everyone


@POLICY_REGISTRY.register()
class AViT(TokenPolicy):
    """A token halts when its halting scores, h = sigmoid(gamma x - beta), sum to nearly 1.

    x is the token's first channel after a block. A token that has halted runs in no later block;
    after the last block every token halts. Each token ends as a mixture of its states after each
    block. The weight of a state is its h; the state in which the token halts gets what is left to 1
    (the remainder). A ponder loss asks for few blocks, a prior loss for halting near a certain
    block.

    A token that is alive may not run in a block, because the executor had no room or the token was
    no candidate. The token then gets no new state and no halting score in this block, and may run
    in the next block. Where there is no next block, its remainder goes to the state that it has.

    `output` says what the map shows once all blocks have run: the "mixture", or the "last" state.
    Before that the map shows the last state of every token, halted ones included. What an adapter
    adds to a halted token between the blocks is therefore no part of the mixture. The wrapper
    Forgetful zeroes states and leaves the mixture as it is.

    `target_depth` raises the ponder weight while tokens run through more than this share of the
    blocks, step by step, and lowers it while they run through less.
    """

    Config = AViTConfig
    Notes = Halting
    prior: Tensor

    def __init__(self, *, config: AViTConfig, shape: TrunkShape) -> None:
        super().__init__()
        if config.target_depth is not None and config.target_depth * shape.depth < 1:
            raise InputError(
                f"{config.target_depth} of {shape.depth} blocks is less than the one that every "
                f"token runs through; give {1 / shape.depth:.2f} or more.",
                setting="target_depth",
            )
        self.depth = shape.depth
        self.gamma, self.beta = config.gamma, config.beta
        self.mixes = config.output == "mixture"
        self.halting_watch = HaltingWatch(config.gamma, config.beta)
        self.ponder_weight = PonderWeight(
            config.ponder_weight, target_depth=config.target_depth, rate=config.target_rate
        )
        self.prior_weight = config.prior_weight
        prior = prior_target(shape.depth, config.prior_centre)
        self.register_buffer("prior", prior, persistent=False)

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """The tokens that have not halted; a token's score is its remainder so far."""
        notes: Halting | None = self.recall(state)
        if notes is None:
            return state, everyone(state)
        keep = notes.alive if view.candidates is None else notes.alive & view.candidates
        return state, Selection(keep=keep, score=notes.remainder.detach())

    def after_block(
        self, view: BlockView, entered: TokenState, state: TokenState, record: BlockRecord
    ) -> TokenState:
        """Ask the tokens that ran for their halting scores, and add their states to the mixture."""
        notes: Halting = self.recall(state) or Halting.beginning(state.patches, mixes=self.mixes)
        score = torch.sigmoid(self.gamma * state.patches[..., 0].float() - self.beta)
        kept = record.selection.keep
        return self.remember(state, notes.after(state.patches, score, kept, last=view.last))

    def _mixed(self, state: TokenState) -> Halting | None:
        """The notes, once the map shows their mixture."""
        return self.recall(state) if self.mixes and len(state.history) >= self.depth else None

    def read_map(self, state: TokenState) -> Tensor:
        """After the last block the mixtures, unless `output` is "last"; otherwise the states."""
        notes = self._mixed(state)
        if notes is None or notes.mixture is None:
            return state.patches
        return notes.mixture.to(state.tokens.dtype)

    def write_map(self, state: TokenState, patches: Tensor) -> TokenState:
        """Write the map to the place that `read_map` reads: the mixtures, or the states."""
        notes = self._mixed(state)
        if notes is None:
            return state.with_patches(patches)
        return self.remember(state, replace(notes, mixture=patches.float()))

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """`loss_ponder`: mean rho of all patch tokens; `loss_depth_prior`: where tokens halt."""
        notes: Halting = record.notes[type(self).__name__]
        prior = prior_loss(task.mean(torch.stack(notes.scores)), self.prior)
        return {
            "loss_ponder": self.ponder_weight.of(record, task.mean) * notes.ponder.mean(),
            "loss_depth_prior": self.prior_weight * prior,
        }

    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """The mean number of blocks that a token ran through, and the weight of the ponder loss."""
        weight = self.ponder_weight.of(record, task.mean)
        return {"mean_depth": record.kept_shares().sum(), "ponder_weight": weight}

    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Steer the ponder weight to the target, and warn once if halting does not work at all."""
        self.ponder_weight.track(record, mean)
        self.halting_watch.look(mean(record.kept_shares()))
