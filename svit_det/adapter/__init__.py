"""Where the maps come out: a convolutional side branch that gives a plain ViT four scales."""

from svit_det.adapter.vit_adapter import ViTAdapter

__all__ = ["ViTAdapter"]
