"""Which tokens run: policies decide which tokens each block keeps.

Every module of this folder is imported here, so that a policy is registered by lying in the folder.
"""

from importlib import import_module
from pkgutil import iter_modules

from svit_det.policies.base import PolicyConfig, TaskLosses, TokenPolicy, TrunkShape
from svit_det.policies.registry import POLICY_REGISTRY, WRAPPER_REGISTRY, build_policy

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "POLICY_REGISTRY",
    "WRAPPER_REGISTRY",
    "PolicyConfig",
    "TaskLosses",
    "TokenPolicy",
    "TrunkShape",
    "build_policy",
]
