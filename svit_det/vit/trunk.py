"""TokenTrunk: turns images into tokens and runs any range of blocks, under any policy.

B images, H, W token grid, N = H * W patch tokens, E extra tokens, C channels, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from svit_det.errors import InputError
from svit_det.policies.base import TokenPolicy, TrunkShape
from svit_det.tokens import TokenGrid, TokenState
from svit_det.vit.execution import run_block
from svit_det.vit.executors import Execution
from svit_det.vit.layers import Block, PatchEmbed
from svit_det.vit.position import resize_pos_embed, sincos_pos_embed


def refuse_tracing() -> None:
    """Raise InputError inside torch.jit.trace."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        raise InputError(
            "torch.jit.trace would keep this picture's size and its choice of tokens for every "
            "other one, without a word; use torch.export, with which svit-det export "
            "(tools/export.py) writes whole detectors."
        )


class TokenTrunk(nn.Module):
    """A plain ViT with DeiT's names, without its final norm and head, made of parts passed in.

    `pos_embed` (1, 1 + h * w, C) has DeiT's layout on the h x w grid of the pre-training. Entry 0
    belongs to the class token, also in a trunk without a class token. `execution` says how
    selections become rows; it may be replaced at any time between passes.
    """

    def __init__(
        self,
        *,
        policy: TokenPolicy,
        patch_embed: PatchEmbed,
        blocks: Iterable[Block],
        class_token: bool = False,
        execution: Execution | None = None,
        pretrain_grid: tuple[int, int] = (14, 14),
        pos_embed_init: str = "trunc_normal",
    ) -> None:
        super().__init__()
        if pos_embed_init not in ("trunc_normal", "sincos"):
            raise InputError(
                f"no '{pos_embed_init}'; choose trunc_normal or sincos.", setting="pos_embed_init"
            )
        if policy.needs_class_token and not class_token:
            raise InputError(
                f"{type(policy).__name__} decides by a class token; give the trunk one.",
                setting="class_token",
            )
        self.policy = policy
        self.execution = execution or Execution()
        self.pretrain_grid = pretrain_grid
        self.patch_embed = patch_embed
        num_positions = pretrain_grid[0] * pretrain_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_positions, self.embed_dim))
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        else:
            self.register_parameter("cls_token", None)
        self.blocks = nn.ModuleList(blocks)
        self._init_weights(pos_embed_init)

    def _init_weights(self, pos_embed_init: str) -> None:
        trunc_normal_(self.pos_embed, std=0.02)
        if pos_embed_init == "sincos":
            with torch.no_grad():
                self.pos_embed[:, 1:] = sincos_pos_embed(self.pretrain_grid, self.embed_dim)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def execution(self) -> Execution:
        """How selections become rows. Raises InputError for anything but an `Execution`."""
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        if not isinstance(execution, Execution):
            raise InputError(
                f"{execution!r} is no Execution; wrap an executor as Execution(hard=...).",
                setting="execution",
            )
        self._execution = execution

    @property
    def embed_dim(self) -> int:
        """C."""
        return self.patch_embed.proj.out_channels

    @property
    def depth(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def patch_size(self) -> int:
        """Pixels per token and side."""
        return self.patch_embed.patch_size

    @property
    def shape(self) -> TrunkShape:
        """The sizes that a policy for this trunk is built from."""
        return TrunkShape(self.embed_dim, self.depth, self.block(0).attn.num_heads)

    def block(self, layer: int) -> Block:
        """Block `layer`, from 0."""
        return cast(Block, self.blocks[layer])

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, height, width), sides multiples of the patch size -> the state before block 0."""
        refuse_tracing()
        tokens = self.patch_embed(images)
        grid = TokenGrid((images.shape[2], images.shape[3]), self.patch_size)
        positions = resize_pos_embed(self.pos_embed[:, 1:], self.pretrain_grid, grid.shape)
        tokens = tokens.flatten(2).transpose(1, 2) + positions
        if self.cls_token is None:
            return TokenState(tokens=tokens, num_extra=0, grid=grid)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([first.to(tokens.dtype), tokens], dim=1)
        return TokenState(tokens=tokens, num_extra=1, grid=grid, class_token=True)

    def run(self, state: TokenState, start: int, stop: int) -> TokenState:
        """Run blocks `start` (included) to `stop` (excluded).

        Raises InputError for a state with notes that no policy of this trunk has written.
        """
        foreign = set(state.notes) - self.policy.note_keys
        if foreign:
            raise InputError(
                f"The state holds notes of {', '.join(sorted(foreign))}, which is not the policy "
                "of this trunk; begin with a state of its own."
            )
        for layer in range(start, stop):
            state = run_block(
                self.block(layer),
                self.policy,
                state,
                layer=layer,
                last=layer == self.depth - 1,
                execution=self.execution,
            )
        return state

    def forward(self, images: Tensor) -> TokenState:
        """Embed, then run every block."""
        return self.run(self.embed(images), 0, self.depth)

    def read_map(self, state: TokenState) -> Tensor:
        """(B, N, C) the patch tokens as the rest of the network sees them."""
        return self.policy.read_map(state)

    def write_map(self, state: TokenState, patches: Tensor) -> TokenState:
        """The state with the patch tokens (B, N, C) that the rest of the network has computed."""
        return self.policy.write_map(state, patches)
