"""ViT-Adapter: a convolutional side branch that gives a plain ViT output maps of four scales."""

from svit_det.adapter.vit_adapter import ViTAdapter

__all__ = ["ViTAdapter"]
