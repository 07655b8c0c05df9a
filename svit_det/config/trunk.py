"""Building a trunk from the nodes MODEL.VIT and MODEL.TOKEN_POLICY."""

from __future__ import annotations

from typing import Any

from svit_det.config.keys import VIT_NODE
from svit_det.config.policy import build_policy_from
from svit_det.errors import InputError, renamed_settings
from svit_det.policies import TrunkShape
from svit_det.vit import TokenTrunk, build_trunk


def vit_key(argument: str) -> str:
    """The config key of an argument of the trunk."""
    return f"{VIT_NODE}.{argument.upper()}"


def build_trunk_from(
    model: Any, in_channels: int = 3, *, class_token: bool | None = None
) -> TokenTrunk:
    """The trunk of the node MODEL. `class_token` None: only if the policy needs a class token.

    Raises InputError that names the key.
    """
    vit = model.VIT
    if len(vit.PRETRAIN_GRID) != 2 or min(vit.PRETRAIN_GRID) < 1:
        raise InputError(
            f"{vit_key('pretrain_grid')}: {vit.PRETRAIN_GRID} must be [rows, columns]."
        )
    with renamed_settings(vit_key):
        policy = build_policy_from(
            model.TOKEN_POLICY, TrunkShape(vit.EMBED_DIM, vit.DEPTH, vit.NUM_HEADS)
        )
        return build_trunk(
            policy=policy,
            patch_size=vit.PATCH_SIZE,
            in_channels=in_channels,
            embed_dim=vit.EMBED_DIM,
            depth=vit.DEPTH,
            num_heads=vit.NUM_HEADS,
            mlp_ratio=vit.MLP_RATIO,
            drop_path_rate=vit.DROP_PATH_RATE,
            layer_norm_eps=vit.LAYER_NORM_EPS,
            pretrain_grid=tuple(vit.PRETRAIN_GRID),
            pos_embed_init=vit.POS_EMBED_INIT,
            class_token=class_token,
        )
