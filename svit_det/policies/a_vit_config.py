"""AViTConfig: the settings of A-ViT. The default score and weights are the released ones."""

from __future__ import annotations

from dataclasses import dataclass

from svit_det.policies.base import PolicyConfig
from svit_det.settings import setting


@dataclass(frozen=True, kw_only=True)
class AViTConfig(PolicyConfig):
    """MODEL.TOKEN_POLICY.A_VIT."""

    node = "A_VIT"
    gamma: float = setting(
        10.0, "Slope of the halting score, sigmoid(GAMMA x - BETA).", interval="(0, 1e6]"
    )
    beta: float = setting(
        30.0,
        "Offset of the halting score. A token halts about where its first channel x exceeds "
        "BETA / GAMMA, so choose BETA by the values of that channel in the weights to begin "
        "from.",
        interval="[-1e6, 1e6]",
    )
    output: str = setting(
        "mixture",
        "The map after the last block: the mixture of each token's states, or each token's last "
        "state.",
        choices=("mixture", "last"),
    )
    ponder_weight: float = setting(
        5e-4, "Weight of the number of blocks per token in the loss.", interval="[0, 1e6]"
    )
    prior_weight: float = setting(
        1e-3, "Weight of the prior on where tokens halt.", interval="[0, 1e6]"
    )
    prior_centre: int | None = setting(
        None,
        "Block near which tokens should halt. None means two thirds down the trunk, which is "
        "block 8 of twelve.",
        kind=int,
        optional=True,
        interval="[0, 1000]",
    )
    target_depth: float | None = setting(
        None,
        "Mean share of the blocks that a token runs through, at least one block. Training "
        "steers the ponder weight towards this share. None means that the weight stays.",
        kind=float,
        optional=True,
        interval="(0, 1]",
    )
    target_rate: float = setting(
        0.005,
        "Each step multiplies the ponder weight by exp(TARGET_RATE x excess over TARGET_DEPTH). "
        "A short training at a high learning rate needs a higher value.",
        interval="(0, 1e6]",
        needs=("target_depth", ...),
    )
