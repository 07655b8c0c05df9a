"""The convolutional stem beside the trunk: local detail for a plain ViT, at four scales.

Source: ViT-Adapter (Chen et al. 2023), section 3.2. With patches of p pixels the maps have strides
p / 4, p / 2, p and 2 p; the original's strides 4, 8, 16, 32 belong to p = 16.

Departure: patches of 8 and 4 pixels work too. The stem then lacks its pooling; with patches of 4
pixels its first convolution has stride 1 as well.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from svit_det.adapter.folding import run_folded
from svit_det.adapter.output_maps import layout_of
from svit_det.errors import InputError

PATCH_SIZES = (4, 8, 16)


def conv_norm_relu(
    in_channels: int, out_channels: int, stride: int, norm: Callable[[int], nn.Module]
) -> list[nn.Module]:
    """A 3 x 3 convolution without bias, its norm, and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return [conv, norm(out_channels), nn.ReLU(inplace=True)]


class SpatialPrior(nn.Module):
    """Images to maps of C channels. Sides that a stride does not divide are rounded up."""

    def __init__(
        self,
        *,
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        width: int,
        norm: Callable[[int], nn.Module],
        finest_map: bool,
    ) -> None:
        super().__init__()
        if patch_size not in PATCH_SIZES:
            raise InputError(
                f"the ViT-Adapter's stem is made for patches of "
                f"{', '.join(map(str, PATCH_SIZES))} pixels, not of {patch_size}.",
                setting="patch_size",
            )
        if width < 1:
            raise InputError(f"{width} must be at least 1.", setting="stem_width")
        self.stem = nn.Sequential(
            *conv_norm_relu(in_channels, width, 1 if patch_size == 4 else 2, norm),
            *conv_norm_relu(width, width, 1, norm),
            *conv_norm_relu(width, width, 1, norm),
            *([nn.MaxPool2d(3, stride=2, padding=1)] if patch_size == 16 else []),
        )
        self.conv2 = nn.Sequential(*conv_norm_relu(width, 2 * width, 2, norm))
        self.conv3 = nn.Sequential(*conv_norm_relu(2 * width, 4 * width, 2, norm))
        self.conv4 = nn.Sequential(*conv_norm_relu(4 * width, 4 * width, 2, norm))
        self.fc1 = nn.Conv2d(width, embed_dim, 1) if finest_map else None
        self.fc2 = nn.Conv2d(2 * width, embed_dim, 1)
        self.fc3 = nn.Conv2d(4 * width, embed_dim, 1)
        self.fc4 = nn.Conv2d(4 * width, embed_dim, 1)

    def forward(self, images: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """(B, 3, height, width) -> the stem's map (B, stem width, ...), three levels (B, C, ...).

        `fc1` makes the finest map of the stem's map. Without a finest map, the stem's map is None.
        """
        c1 = run_folded(self.stem, images.contiguous(memory_format=layout_of(images)))
        c2 = run_folded(self.conv2, c1)
        c3 = run_folded(self.conv3, c2)
        c4 = run_folded(self.conv4, c3)
        stem = None if self.fc1 is None else c1
        return stem, [self.fc2(c2), self.fc3(c3), self.fc4(c4)]
