"""TargetedDecisions: AdaViT's kinds of decision, and the difference of each usage to its target.

Source: Meng et al., "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition", CVPR
2022, and its released code.

B images, h heads, P blocks that choose heads or sub-layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from svit_det.policies.adavit_config import AdaViTConfig
from svit_det.policies.base import Mean, TrunkShape, of_this_process
from svit_det.policies.decision import Decision, PartMargins
from svit_det.policies.gating import gates_of
from svit_det.policies.keep_schedule import KeepSchedule
from svit_det.policies.thresholded import choices_of
from svit_det.tokens import PassRecord

PART_THRESHOLD = 0.5
"""The value that the sigmoid must exceed for a head or a sub-layer to run."""


class TargetedDecisions(nn.ModuleDict):
    """The decisions by name: "tokens", "heads", "layers" (the sub-layers attention and MLP).

    Tokens are chosen in the blocks of `schedule`, with its shares as targets; heads and sub-layers
    in the blocks `part_layers`, with one target each.
    """

    def __init__(
        self,
        *,
        config: AdaViTConfig,
        shape: TrunkShape,
        schedule: KeepSchedule,
        part_layers: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.token_layers, self.part_layers = schedule.layers, part_layers
        kinds = {
            "tokens": (schedule.layers, 1, schedule.shares, config.token_threshold),
            "heads": (part_layers, shape.num_heads, (config.head_target,), PART_THRESHOLD),
            "layers": (part_layers, 2, (config.layer_target,), PART_THRESHOLD),
        }
        for name, (where, choices, targets, above) in kinds.items():
            if name in config.decide:
                self[name] = Decision(
                    *(where, shape.embed_dim, choices),
                    above=above,
                    targets=targets,
                    released=config.mode == "released",
                )

    def about(self, name: str) -> Decision:
        """The decision about `name`, which must be one of the decisions made."""
        return cast(Decision, self[name])

    def usage(self, record: PassRecord, mean: Mean = of_this_process) -> dict[str, Tensor]:
        """Shares of a training pass, each a mean over images, blocks and processes.

        The shares are: tokens that were kept, sub-layers that ran, and heads that ran, among the
        heads of attentions that ran.
        """
        used = {}
        if "tokens" in self:
            used["tokens"] = mean(torch.stack(gates_of(record, self.token_layers)).mean())
        if "heads" in self:
            layers, heads = part_gates(record, self.part_layers)
            attend = layers[..., :1].detach().to(heads.dtype)
            ran, there_were = mean(torch.stack([(heads * attend).sum(), attend.sum()])).unbind()
            used["heads"] = ran / (there_were * heads.shape[-1]).clamp(min=1e-6)
        if "layers" in self:
            used["layers"] = mean(part_gates(record, self.part_layers)[0].mean())
        return used

    def off_target(self, record: PassRecord, mean: Mean) -> dict[str, Tensor]:
        """The difference of each usage to its target: squared for tokens, absolute otherwise."""
        off = {
            name: share - self.about(name).target
            for name, share in self.usage(record, mean).items()
        }
        return {
            name: each.square() if name == "tokens" else each.abs() for name, each in off.items()
        }

    @torch.no_grad()
    def track(self, record: PassRecord, said: PartMargins | None, mean: Mean) -> None:
        """Take in one training pass: its choices, and the margins of heads and sub-layers."""
        if "tokens" in self:
            self.about("tokens").track(*choices_of(record, self.token_layers), mean)
        if said is None:
            return
        layers, heads = part_gates(record, self.part_layers)
        if "heads" in self:
            # A head of an attention that did not run was no candidate.
            of_heads = torch.stack(said.heads).masked_fill(layers[..., :1] == 0, float("-inf"))
            self.about("heads").track([*of_heads], [*heads.bool()], mean)
        if "layers" in self:
            self.about("layers").track(said.layers, [*layers.bool()], mean)


def part_gates(record: PassRecord, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(P, B, 2) gates of attention and MLP, (P, B, h) gates of heads, in the blocks `layers`."""
    said = [record.blocks[layer].selection.parts for layer in layers]
    parts = [each for each in said if each is not None]
    sub_layers = [torch.stack([each.attend, each.feed], dim=-1) for each in parts]
    return torch.stack(sub_layers), torch.stack([each.heads for each in parts])
