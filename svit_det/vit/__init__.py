"""How a block runs: DeiT's layers, executors, the trunk, networks over it, and a plain ViT."""

from svit_det.vit.build import build_trunk
from svit_det.vit.executors import Execution, Masked, Packed, Padded
from svit_det.vit.net import TokenNet, find_token_net, record_passes
from svit_det.vit.plain import PlainViT
from svit_det.vit.trunk import TokenTrunk

__all__ = [
    "Execution",
    "Masked",
    "Packed",
    "Padded",
    "PlainViT",
    "TokenNet",
    "TokenTrunk",
    "build_trunk",
    "find_token_net",
    "record_passes",
]
