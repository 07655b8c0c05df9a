"""A network in the form that a graph needs: tensors in, tensors and keep maps out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.tokens import PassRecord
from svit_det.vit import find_token_net

KEEP_MAPS = "keep_maps"
"""Output (B, L, H, W) bool: block l kept this token. Heat maps are made of these maps."""


class Scaled(nn.Module):
    """Normalises pixel values as in training."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone(), persistent=False)
        self.register_buffer("std", std.detach().clone(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) float, 0 to 255 -> (B, 3, height, width), normalised by channel."""
        return (image - self.mean) / self.std


class BackboneGraph(nn.Module):
    """A detector's backbone, pyramid included: maps by name, and every block's keep map.

    The graph runs the detector's own module. A hook fetches the record of the pass, because
    pyramids have no slot for it. A backbone without its detector takes normalised images.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        alone = not hasattr(model, "pixel_mean")
        self.scale = nn.Identity() if alone else Scaled(model.pixel_mean, model.pixel_std)
        self.backbone = model if alone else model.backbone
        self.net = find_token_net(model)

    @property
    def outputs(self) -> list[str]:
        """The names of `forward`'s outputs, in their order."""
        return [*self.backbone.output_shape(), KEEP_MAPS]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, height, width) pixels, 0 to 255 -> the maps and the keep maps."""
        maps, keep = self.maps_of(image)
        return (*(maps[name] for name in self.backbone.output_shape()), keep)

    def maps_of(self, image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """The maps by name, and the keep maps (B, L, H, W)."""
        records: list[PassRecord] = []

        def keep_record(module: nn.Module, inputs: Any, output: Any) -> None:
            records.append(output[1])

        handle = self.net.register_forward_hook(keep_record)
        try:
            maps = self.backbone(self.scale(image))
        finally:
            handle.remove()
        return maps, records[0].keep_maps()


def example_image(size: tuple[int, int], batch: int = 1) -> Tensor:
    """Random pixels for tracing a graph; their values do not matter."""
    generator = torch.Generator().manual_seed(0)
    return 255 * torch.rand(batch, 3, *size, generator=generator)
