"""Who runs: policies decide which patch tokens each block processes."""

from svit_det.policies.base import POLICY_REGISTRY, WRAPPER_REGISTRY, TokenPolicy, build_policy
from svit_det.policies.dense import Dense
from svit_det.policies.svit import SViT
from svit_det.policies.wrappers import Forgetful, Monotone

__all__ = [
    "POLICY_REGISTRY",
    "WRAPPER_REGISTRY",
    "Dense",
    "Forgetful",
    "Monotone",
    "SViT",
    "TokenPolicy",
    "build_policy",
]
