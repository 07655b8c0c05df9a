"""Who runs: policies decide which patch tokens each block processes."""

from svit_det.policies.ats import ATS
from svit_det.policies.attention_probe import AttentionProbe
from svit_det.policies.base import POLICY_REGISTRY, WRAPPER_REGISTRY, TokenPolicy, build_policy
from svit_det.policies.dense import Dense
from svit_det.policies.evit import EViT
from svit_det.policies.evo_vit import EvoViT
from svit_det.policies.svit import SViT
from svit_det.policies.wrappers import Forgetful, Monotone

__all__ = [
    "ATS",
    "POLICY_REGISTRY",
    "WRAPPER_REGISTRY",
    "AttentionProbe",
    "Dense",
    "EViT",
    "EvoViT",
    "Forgetful",
    "Monotone",
    "SViT",
    "TokenPolicy",
    "build_policy",
]
