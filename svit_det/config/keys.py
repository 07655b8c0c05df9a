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

    patch_size: int = setting(16, "Side of a patch in pixels.", interval="[1, 1024]")
    embed_dim: int = setting(
        192, "Channels of a token. DeiT-T has 192, DeiT-S has 384.", interval="[1, 65536]"
    )
    depth: int = setting(12, "Number of blocks.", interval="[1, 1000]")
    num_heads: int = setting(
        3,
        "Number of heads, which must divide EMBED_DIM. DeiT-T has 3, DeiT-S has 6.",
        interval="[1, 4096]",
    )
    mlp_ratio: float = setting(
        4.0, "Hidden channels of the MLP over EMBED_DIM.", interval="(0, 100]"
    )
    drop_path_rate: float = setting(
        0.0,
        "Rate of stochastic depth in the last block; the rates of the blocks rise linearly from 0.",
        interval="[0, 1)",
    )
    layer_norm_eps: float = setting(
        1e-6,
        "Epsilon of the norms in the blocks. The original SViT's own weights need 1e-5.",
        interval="(0, 0.1]",
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
        'How the position embedding begins; "sincos" is for training from nothing.',
        choices=("trunc_normal", "sincos"),
    )


@dataclass(frozen=True, kw_only=True)
class PolicyKeys(Settings):
    """Which tokens run, and the keys that several policies share.

    A key is set when a file or an override names the key, whatever its value. A key that the chosen
    policy does not use may not be set; the keys in the nodes of other policies may be set.
    """

    name: str = setting("Dense", "The policy, by its name in POLICY_REGISTRY (svit_det/policies).")
    wrappers: tuple[str, ...] = setting(
        (),
        "Wrappers of WRAPPER_REGISTRY around the policy, innermost first "
        "(svit_det/policies/wrappers.py).",
        kind=str,
        many=True,
    )
