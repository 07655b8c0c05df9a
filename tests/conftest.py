"""Shared by all tests: seeds, tiny trunks, every policy there is, and policies made for tests.

B images, N patch tokens, L blocks. A new registered policy or wrapper joins the laws by itself.
"""

import os

# Read when torch is imported: threads that wait must sleep, or two of them fight over a busy core.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from svit_det.policies import POLICY_REGISTRY, WRAPPER_REGISTRY, Dense, TokenPolicy, build_policy
from svit_det.policies.base import everyone
from svit_det.policies.gating import logistic_noise, straight_through
from svit_det.policies.wrappers import PolicyWrapper
from svit_det.tokens import Selection
from svit_det.vit import TokenTrunk

torch.set_num_threads(1)

EMBED_DIM = 24
DEPTH = 12
PATCH = 4


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def tiny_trunk():
    """Factory: a trunk of 24 channels and 3 heads under any policy, in eval mode.

    No parameter stays at the 0 or 1 it was initialised with, so that a forgotten bias shows.
    """

    def make(policy=None, *, depth=DEPTH, pretrain_grid=(3, 5), spread=0.15, **options):
        trunk = TokenTrunk(
            policy=Dense() if policy is None else policy,
            patch_size=options.pop("patch_size", PATCH),
            embed_dim=options.pop("embed_dim", EMBED_DIM),
            depth=depth,
            num_heads=options.pop("num_heads", 3),
            mlp_ratio=2.0,
            pretrain_grid=pretrain_grid,
            **options,
        )
        with torch.no_grad():
            for parameter in trunk.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
        return trunk.eval()

    return make


@pytest.fixture
def images():
    """Factory: (B, 3, 4 * H, 4 * W) random pixels, one token per 4 x 4 of them."""

    def make(batch=2, grid=(3, 5), patch=PATCH):
        return torch.randn(batch, 3, grid[0] * patch, grid[1] * patch)

    return make


@pytest.fixture
def token_config():
    """Factory: the defaults of MODEL.TOKEN_POLICY as a plain namespace, some of them replaced."""

    def make(**changes):
        from detectron2.config import get_cfg

        from svit_det.detection.config import add_svit_config

        cfg = get_cfg()
        add_svit_config(cfg)
        node = _plain(cfg.MODEL.TOKEN_POLICY)
        for name, value in changes.items():
            assert hasattr(node, name), f"MODEL.TOKEN_POLICY has no {name}"
            setattr(node, name, value)
        return node

    return make


def _plain(node):
    return SimpleNamespace(
        **{
            name: _plain(value) if isinstance(value, dict) else copy.deepcopy(value)
            for name, value in node.items()
        }
    )


# ------------------------------------------------------------------ policies made for the tests


class ClassEveryone(TokenPolicy):
    """The dense model with a class token."""

    needs_class_token = True


class AttentiveHalf(TokenPolicy):
    """Drops, inside blocks 2 and 5, the half of the tokens that the class token looks at least."""

    needs_class_token = True
    attention_layers = frozenset({2, 5})

    def before_block(self, layer, state):
        if state.memory is None:
            return state, everyone(state)
        return state, Selection(keep=state.memory)

    def after_attention(self, layer, entered, attended, selection, attention):
        score = attention.weights.mean(dim=1)
        keep = upper_half(score, selection.keep)
        gate = None if selection.gate is None else selection.gate * keep
        chosen = replace(selection, keep=keep, gate=gate, score=score, whole=False)
        return replace(attended, memory=keep), chosen


class GatedHalf(AttentiveHalf):
    """The same with a learned gate before blocks 1 and 2: masked execution with a class token."""

    def __init__(self, embed_dim):
        super().__init__()
        self.scorers = nn.ModuleList(nn.Linear(embed_dim, 1) for _ in range(2))

    def before_block(self, layer, state):
        if layer not in (1, 2):
            return super().before_block(layer, state)
        margin = self.scorers[layer - 1](state.patches).squeeze(-1).float()
        if state.allowed is not None:
            margin = margin.masked_fill(~state.allowed, float("-inf"))
        if not self.training:
            return state, Selection(keep=margin > 0, score=margin)
        keep, gate = straight_through(margin, logistic_noise(margin))
        return state, Selection(keep=keep, gate=gate, score=margin)

    def decision_macs(self, num_tokens):
        return dict.fromkeys((1, 2), num_tokens * self.scorers[0].in_features)


def upper_half(score, among):
    """(B, N) bool: of the tokens `among` the half, rounded up, with the highest score."""
    rank = score.masked_fill(~among, -1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return among & (rank < (among.sum(dim=1, keepdim=True) + 1) // 2)


class Forced(PolicyWrapper):
    """Overrides what the policy inside selects; all else it does is done.

    `change(layer, stage, selection)` returns the selection to use; `stage` is "enter" or "go on".
    """

    def __init__(self, policy, change):
        super().__init__(policy)
        self.change = change

    def before_block(self, layer, state):
        state, selection = self.policy.before_block(layer, state)
        return state, self.change(layer, "enter", selection)

    def before_attention(self, layer, entered, selection, attention):
        state, chosen = self.policy.before_attention(layer, entered, selection, attention)
        # One that only looks at the scores drops nobody here.
        return state, selection if chosen is selection else self.change(layer, "go on", chosen)

    def after_attention(self, layer, entered, attended, selection, attention):
        state, chosen = self.policy.after_attention(layer, entered, attended, selection, attention)
        return state, self.change(layer, "go on", chosen)


@pytest.fixture
def forced():
    """Factory: a policy whose selections are changed, `forced(policy, change)`."""
    return Forced


class Scripted(TokenPolicy):
    """Plays typed-out selections, one per block; None where it has no decision of its own."""

    def __init__(self, selections, *, needs_class_token=False):
        super().__init__()
        self.selections = selections
        self.needs_class_token = needs_class_token

    def before_block(self, layer, state):
        selection = self.selections[layer]
        return state, everyone(state) if selection is None else selection


@pytest.fixture
def scripted():
    """Factory: a policy that plays the given selections, `scripted(selections)`."""
    return Scripted


@pytest.fixture
def class_everyone():
    """Factory: the dense model with a class token."""
    return ClassEveryone


# ------------------------------------------------------------------ every policy there is

TEST_ONLY = {
    "AttentiveHalf": AttentiveHalf,
    "GatedHalf": lambda: GatedHalf(EMBED_DIM),
}
POLICY_CASES = [
    *sorted(name for name, _ in POLICY_REGISTRY),
    *TEST_ONLY,
    *(
        f"{wrapper}({inner})"
        for wrapper in sorted(name for name, _ in WRAPPER_REGISTRY)
        for inner in ("SViT", "ATS", "EViT", "EvoViT", *TEST_ONLY)
    ),
]


@dataclass(frozen=True)
class PolicyCase:
    """One policy, as often as a test wants it."""

    name: str
    build: Callable[[], TokenPolicy]


@pytest.fixture
def make_policy(token_config):
    """Factory: a policy of 24 channels and 12 blocks by its name, as in "Monotone(SViT)"."""

    def make(name):
        inner, wrappers = name.removesuffix(")"), []
        if "(" in name:
            wrapper, inner = inner.split("(")
            wrappers = [wrapper]
        if inner in TEST_ONLY:
            policy = TEST_ONLY[inner]()
            return WRAPPER_REGISTRY.get(wrappers[0])(policy) if wrappers else policy
        changes = {"NAME": inner, "WRAPPERS": wrappers}
        if wrappers:
            # As the ablations are configured: nine halvings would leave later gates no token.
            changes |= {"LAYERS": [3, 6, 9], "KEEP_RATIOS": [0.7, 0.49, 0.343]}
        return build_policy(token_config(**changes), embed_dim=EMBED_DIM, depth=DEPTH)

    return make


@pytest.fixture(params=POLICY_CASES)
def policy_case(request, make_policy):
    """Each policy in turn."""
    return PolicyCase(request.param, lambda: make_policy(request.param))


@pytest.fixture
def policy(policy_case):
    """Each policy in turn, built."""
    return policy_case.build()
