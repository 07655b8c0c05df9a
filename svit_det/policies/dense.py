"""Dense: every block processes every token, as DeiT does (Touvron et al. 2021)."""

from svit_det.policies.base import POLICY_REGISTRY, TokenPolicy


@POLICY_REGISTRY.register()
class Dense(TokenPolicy):
    """Everyone, everywhere: the contract's defaults are the dense model."""
