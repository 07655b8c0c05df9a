"""The config keys of the trunk and of its policy, which every task has.

A field `patch_size` in the group of MODEL.VIT is the key MODEL.VIT.PATCH_SIZE. Blocks count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from svit_det.settings import Settings, setting

VIT_NODE = "MODEL.VIT"
POLICY_NODE = "MODEL.TOKEN_POLICY"


@dataclass(frozen=True, kw_only=True)
class TrunkKeys(Settings):
    """The trunk: a plain ViT."""

    patch_size: int = setting(16, "Pixels per token and side.", interval="[1, 1024]")
    embed_dim: int = setting(192, "Channels; DeiT-T 192, DeiT-S 384.", interval="[1, 65536]")
    depth: int = setting(12, "Blocks.", interval="[1, 1000]")
    num_heads: int = setting(
        3, "Heads; must divide EMBED_DIM. DeiT-T 3, DeiT-S 6.", interval="[1, 4096]"
    )
    mlp_ratio: float = setting(
        4.0, "Hidden channels of the MLP over EMBED_DIM.", interval="(0, 100]"
    )
    drop_path_rate: float = setting(
        0.0, "Stochastic depth of the last block; linear from 0.", interval="[0, 1)"
    )
    layer_norm_eps: float = setting(
        1e-6, "In the blocks; the original SViT's own weights: 1e-5.", interval="(0, 0.1]"
    )
    pretrain_grid: tuple[int, ...] = setting(
        (14, 14),
        "Tokens [rows, columns] of the stored position embedding.",
        kind=int,
        many=True,
        shortest=2,
        longest=2,
        interval="[1, 4096]",
    )
    pos_embed_init: str = setting(
        "trunc_normal",
        'How the position embedding begins; "sincos" for training from nothing.',
        choices=("trunc_normal", "sincos"),
    )


@dataclass(frozen=True, kw_only=True)
class PolicyKeys(Settings):
    """Which tokens run, and the keys that several policies share.

    A key is set when a file or an override names it, whatever its value. One that the chosen policy
    does not use may not be set; the nodes of other policies may.
    """

    name: str = setting("Dense", "A policy of POLICY_REGISTRY (svit_det/policies).")
    wrappers: tuple[str, ...] = setting(
        (),
        "Wrappers of WRAPPER_REGISTRY around it, innermost first (svit_det/policies/wrappers.py).",
        kind=str,
        many=True,
    )
