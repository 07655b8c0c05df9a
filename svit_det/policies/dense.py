"""Dense: every block keeps every token, as DeiT does (Touvron et al. 2021)."""

from svit_det.policies.base import TokenPolicy
from svit_det.policies.registry import POLICY_REGISTRY


@POLICY_REGISTRY.register()
class Dense(TokenPolicy):
    """Keeps every token in every block: the contract's defaults are the dense model."""
