"""How a block runs: DeiT's layers, the two executors, the trunk, and a plain ViT over it."""

from svit_det.vit.execution import run_block
from svit_det.vit.plain import PlainViT
from svit_det.vit.trunk import TokenTrunk

__all__ = ["PlainViT", "TokenTrunk", "run_block"]
