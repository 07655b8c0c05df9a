"""TokenTrunk: images to tokens, then any range of blocks, under any policy.

B images, H, W token grid, N = H * W patch tokens, E extra tokens, C channels, L blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from svit_det.errors import InputError
from svit_det.policies.base import TokenPolicy
from svit_det.tokens import TokenState
from svit_det.vit.execution import run_block
from svit_det.vit.layers import Block, PatchEmbed
from svit_det.vit.position import resize_pos_embed, sincos_pos_embed


class TokenTrunk(nn.Module):
    """A plain ViT with DeiT's names, without its final norm and head.

    `pos_embed` (1, 1 + h * w, C) has DeiT's layout on the grid of the pre-training; entry 0 belongs
    to the class token, which exists only under a policy that needs one.
    """

    def __init__(
        self,
        *,
        policy: TokenPolicy,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        layer_norm_eps: float = 1e-6,
        pretrain_grid: tuple[int, int] = (14, 14),
        pos_embed_init: str = "trunc_normal",
    ) -> None:
        super().__init__()
        if pos_embed_init not in ("trunc_normal", "sincos"):
            raise InputError(
                f"MODEL.VIT.POS_EMBED_INIT: no '{pos_embed_init}'; choose trunc_normal or sincos."
            )
        if not 0 <= drop_path_rate < 1:
            raise InputError(f"MODEL.VIT.DROP_PATH_RATE: {drop_path_rate} must lie in [0, 1).")
        self.policy = policy
        self.embed_dim = embed_dim
        self.depth = depth
        self.pretrain_grid = tuple(pretrain_grid)
        self.patch_embed = PatchEmbed(
            patch_size=patch_size, in_channels=in_channels, embed_dim=embed_dim
        )
        num_positions = pretrain_grid[0] * pretrain_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_positions, embed_dim))
        if policy.needs_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        else:
            self.register_parameter("cls_token", None)
        # Linear decay rule: the first block never drops, the last one at the full rate.
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                drop_path_rate=rate,
                layer_norm_eps=layer_norm_eps,
            )
            for rate in rates
        )
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
    def patch_size(self) -> int:
        """Pixels per token and side."""
        return self.patch_embed.patch_size

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, height, width), sides multiples of the patch size -> the state before block 0."""
        tokens = self.patch_embed(images)
        grid = (tokens.shape[2], tokens.shape[3])
        positions = resize_pos_embed(self.pos_embed[:, 1:], self.pretrain_grid, grid)
        patches = tokens.flatten(2).transpose(1, 2) + positions
        if self.cls_token is None:
            extra = patches.new_zeros(len(patches), 0, self.embed_dim)
        else:
            extra = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return TokenState(patches=patches, extra=extra, grid=grid)

    def run(self, state: TokenState, start: int, stop: int) -> TokenState:
        """Run blocks `start` (included) to `stop` (excluded)."""
        for layer in range(start, stop):
            state = run_block(self.blocks[layer], layer, self.policy, state)
        return state

    def forward(self, images: Tensor) -> TokenState:
        """Embed, then run every block."""
        return self.run(self.embed(images), 0, self.depth)
