"""Building a trunk from its sizes."""

from __future__ import annotations

import torch

from svit_det.errors import InputError
from svit_det.policies.base import TokenPolicy
from svit_det.vit.executors import Execution
from svit_det.vit.layers import Block, PatchEmbed
from svit_det.vit.trunk import TokenTrunk


def build_trunk(
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
    class_token: bool | None = None,
    execution: Execution | None = None,
) -> TokenTrunk:
    """A trunk of DeiT's layers. `class_token` None: the trunk has one if the policy needs one.

    Raises InputError that names the wrong argument.
    """
    for name, value in (("patch_size", patch_size), ("embed_dim", embed_dim), ("depth", depth)):
        if value < 1:
            raise InputError(f"{value} must be at least 1.", setting=name)
    if num_heads < 1:
        raise InputError(f"{num_heads} must be at least 1.", setting="num_heads")
    if embed_dim * mlp_ratio < 1:
        raise InputError(
            f"{mlp_ratio} of {embed_dim} channels is no channel for the MLP.", setting="mlp_ratio"
        )
    if not 0 <= drop_path_rate < 1:
        raise InputError(f"{drop_path_rate} must lie in [0, 1).", setting="drop_path_rate")
    patch_embed = PatchEmbed(patch_size=patch_size, in_channels=in_channels, embed_dim=embed_dim)
    # Linear decay rule: the first block never drops a branch; the last one has the full rate.
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    blocks = [
        Block(
            embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=rate,
            layer_norm_eps=layer_norm_eps,
        )
        for rate in rates
    ]
    return TokenTrunk(
        policy=policy,
        patch_embed=patch_embed,
        blocks=blocks,
        class_token=policy.needs_class_token if class_token is None else class_token,
        execution=execution,
        pretrain_grid=pretrain_grid,
        pos_embed_init=pos_embed_init,
    )
