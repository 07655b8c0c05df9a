"""PlainViT: a trunk whose last map is the output, as in ViTDet (Li et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from svit_det.tokens import TokenTrace
from svit_det.vit.trunk import TokenTrunk


class PlainViT(nn.Module):
    """One map at the stride of the patches. Dense is this class under the `Dense` policy."""

    def __init__(self, *, trunk: TokenTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    @property
    def strides(self) -> dict[str, int]:
        """Pixels per cell of each output map."""
        return {"last_feat": self.trunk.patch_size}

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each output map."""
        return {"last_feat": self.trunk.embed_dim}

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return self.trunk.patch_size

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], TokenTrace]:
        """(B, 3, height, width) -> {"last_feat": (B, C, H, W)} and who ran where."""
        state = self.trunk(images)
        feature_map = state.patches.transpose(1, 2).unflatten(2, state.grid)
        trace = TokenTrace(state.trace, state.grid)
        return {"last_feat": feature_map.contiguous()}, trace
