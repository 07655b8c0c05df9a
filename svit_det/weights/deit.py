"""DeiT's weights, by the names of timm and DeiT's authors, for our trunk.

C channels, h x w the grid of the pre-training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from svit_det.errors import InputError
from svit_det.weights.rename import Table, rename

TABLE: Table = {
    "patch_embed.proj.{}": "trunk.patch_embed.proj.{}",
    "pos_embed": "trunk.pos_embed",
    "blocks.{}.{}.{}": "trunk.blocks.{}.{}.{}",
    "blocks.{}.{}.{}.{}": "trunk.blocks.{}.{}.{}.{}",
    "cls_token": "trunk.cls_token",
    "norm.{}": None,
    "head.{}": None,
}


def from_deit(
    weights: Mapping[str, Tensor], *, source: str, class_token: bool = False
) -> tuple[dict[str, Tensor], int]:
    """The weights by our names, and the side of the square grid of their position embedding.

    The class token is taken only if `class_token` asks for it: a dense model has none, and under a
    policy that needs a class token the token starts at random, as in the paper.
    """
    if "dist_token" in weights:
        raise InputError(
            f"{source}: a distilled DeiT, whose two tokens share the position embedding; take the "
            "plain one."
        )
    renamed = rename(weights, TABLE, source=source)
    if not class_token:
        renamed.pop("trunk.cls_token", None)
    if "trunk.pos_embed" not in renamed:
        raise InputError(f"{source}: no pos_embed; this is not a DeiT.")
    positions = renamed["trunk.pos_embed"]
    if positions.dim() != 3 or len(positions) != 1 or not positions.is_floating_point():
        raise InputError(f"{source}: pos_embed holds no positions, (1, tokens, channels) numbers.")
    count = positions.shape[1] - 1
    side = math.isqrt(max(count, 0))
    if side**2 != count or side < 2:  # a single position would be every patch's
        raise InputError(
            f"{source}: pos_embed has {count} patches besides one class token, and no square grid "
            "of 2 x 2 or more."
        )
    return renamed, side
