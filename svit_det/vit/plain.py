"""PlainViT: a trunk whose last map is the output, as in ViTDet (Li et al. 2022)."""

from __future__ import annotations

from torch import Tensor

from svit_det.tokens import PassRecord
from svit_det.vit.net import TokenNet


class PlainViT(TokenNet):
    """One map at the stride of the patches. Under the policy `Dense` it is a plain dense ViT."""

    @property
    def strides(self) -> dict[str, int]:
        """Pixels per cell of each output map."""
        return {"last_feat": self.trunk.patch_size}

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return self.trunk.patch_size

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], PassRecord]:
        """(B, 3, height, width) -> {"last_feat": (B, C, H, W)}, and the record of the pass."""
        state = self.trunk(images)
        patches = self.trunk.read_map(state)
        feature_map = patches.transpose(1, 2).unflatten(2, state.grid.shape)
        return {"last_feat": feature_map.contiguous()}, PassRecord.of(state, patches)
