"""Shared by all tests: seeds, tiny trunks, every policy there is, and policies made for tests.

B images, N patch tokens, L blocks. A new registered policy or wrapper joins the laws by itself.
"""

import os

# Read when torch is imported: threads that wait must sleep, or two of them fight over a busy core.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# One thread a process, here and in what tests start: two workers of pytest-xdist fill two cores.
os.environ["OMP_NUM_THREADS"] = "1"

import importlib.util
import random
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from svit_det.policies import (
    POLICY_REGISTRY,
    WRAPPER_REGISTRY,
    TokenPolicy,
    TrunkShape,
    build_policy,
)
from svit_det.policies.dense import Dense
from svit_det.policies.gating import logistic_noise, straight_through
from svit_det.policies.scheduled import Survivors, survivors
from svit_det.policies.wrappers import PolicyWrapper
from svit_det.tokens import BlockParts, Selection, everyone
from svit_det.vit import build_trunk

torch.set_num_threads(1)

# A shell that starts the tests in its background has Ctrl-C ignored, here and in what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Two files beside this one: skips.py allows skips, and shared.py has more fixtures."""
    for name in ("skips", "shared"):
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config.pluginmanager.register(module)


EMBED_DIM = 24
DEPTH = 12
PATCH = 4
SHAPE = TrunkShape(EMBED_DIM, DEPTH, 3)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def tiny_trunk():
    """Factory: a trunk of 24 channels and 3 heads under any policy, in eval mode.

    No parameter stays at the 0 or 1 it was initialised with, so that a forgotten bias shows.
    """

    def make(policy=None, *, depth=DEPTH, pretrain_grid=(3, 5), spread=0.15, **options):
        trunk = build_trunk(
            policy=Dense() if policy is None else policy,
            patch_size=options.pop("patch_size", PATCH),
            embed_dim=options.pop("embed_dim", EMBED_DIM),
            depth=depth,
            num_heads=options.pop("num_heads", 3),
            mlp_ratio=options.pop("mlp_ratio", 2.0),
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
def small_files():
    """As on a full disk: in this test no file can grow beyond 4,096 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ------------------------------------------------------------------ policies made for the tests


class ClassEveryone(TokenPolicy):
    """The dense model with a class token."""

    needs_class_token = True


class AttentiveHalf(TokenPolicy):
    """Drops, inside blocks 2 and 5, the half of the tokens with the least class attention."""

    needs_class_token = True
    Notes = Survivors

    def before_block(self, view, state):
        return state, survivors(view, state, self.recall(state))

    def after_attention(self, view, state, selection):
        if view.layer not in (2, 5):
            return state, selection
        score = view.class_attention().weights.mean(dim=1)
        keep = upper_half(score, selection.keep)
        gate = None if selection.gate is None else selection.gate * keep
        chosen = replace(selection, keep=keep, gate=gate, score=score, total=None)
        return self.remember(state, Survivors(keep)), chosen


class GatedHalf(AttentiveHalf):
    """The same with a learned gate before blocks 1 and 2: masked execution with a class token."""

    def __init__(self):
        super().__init__()
        self.scorers = nn.ModuleList(nn.Linear(EMBED_DIM, 1) for _ in range(2))

    def before_block(self, view, state):
        if view.layer not in (1, 2):
            return super().before_block(view, state)
        margin = self.scorers[view.layer - 1](state.patches).squeeze(-1).float()
        macs = state.num_patches * EMBED_DIM
        if view.candidates is not None:
            margin = margin.masked_fill(~view.candidates, float("-inf"))
        if not self.training:
            return state, Selection(keep=margin > 0, score=margin, macs=macs)
        keep, gate = straight_through(margin, logistic_noise(margin))
        return state, Selection(keep=keep, gate=gate, score=margin, macs=macs)


class SoftKeys(TokenPolicy):
    """A gate before block 2 that also weighs keys inside the softmax (DynamicViT's training)."""

    def __init__(self):
        super().__init__()
        self.scorer = nn.Linear(EMBED_DIM, 1)

    def before_block(self, view, state):
        if view.layer != 2:
            return state, everyone(state)
        margin = self.scorer(state.patches).squeeze(-1).float()
        macs = state.num_patches * EMBED_DIM
        if view.candidates is not None:
            margin = margin.masked_fill(~view.candidates, float("-inf"))
        if not self.training:
            return state, Selection(keep=margin > 0, score=margin, macs=macs)
        keep, gate = straight_through(margin, logistic_noise(margin))
        return state, Selection(keep=keep, gate=gate, soft_keys=gate, score=margin, macs=macs)


class SomeParts(TokenPolicy):
    """Tokens, heads and sub-layers decided image by image from the class token (AdaViT)."""

    needs_class_token = True

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(EMBED_DIM, 1)
        self.parts = nn.Linear(EMBED_DIM, 2 + 3)

    def before_block(self, view, state):
        if view.layer not in (1, 2, 5):
            return state, everyone(state)
        margin = self.tokens(view.normed(state)).squeeze(-1).float()
        if view.candidates is not None:
            margin = margin.masked_fill(~view.candidates, float("-inf"))
        parts = self.parts(state.extra[:, 0]).float()
        macs = state.num_patches * EMBED_DIM + 5 * EMBED_DIM
        if not self.training:
            chosen = BlockParts(parts[:, 0] > 0, parts[:, 1] > 0, parts[:, 2:] > 0)
            return state, Selection(keep=margin > 0, parts=chosen, score=margin, macs=macs)
        keep, gate = straight_through(margin, logistic_noise(margin))
        soft = straight_through(parts, logistic_noise(parts))[1]
        chosen = BlockParts(soft[:, 0], soft[:, 1], soft[:, 2:])
        return state, Selection(keep=keep, gate=gate, parts=chosen, score=margin, macs=macs)


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

    def before_block(self, view, state):
        state, selection = self.policy.before_block(view, state)
        return state, self.change(view.layer, "enter", selection)

    def before_attention(self, view, state, selection):
        state, chosen = self.policy.before_attention(view, state, selection)
        # One that only looks at the scores skips none here.
        return state, chosen if chosen is selection else self.change(view.layer, "go on", chosen)

    def after_attention(self, view, state, selection):
        state, chosen = self.policy.after_attention(view, state, selection)
        return state, chosen if chosen is selection else self.change(view.layer, "go on", chosen)


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

    def before_block(self, view, state):
        selection = self.selections[view.layer]
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

TEST_ONLY = {each.__name__: each for each in (AttentiveHalf, GatedHalf, SoftKeys, SomeParts)}
BARE = [*POLICY_REGISTRY.names(), *TEST_ONLY]
# A network may have a class token that its policy does not need, as every classifier has; and in
# SViT's own classifier the last gate decides about it.
CLASS_TOKEN, GATED_CLASS_TOKEN = "class token", "gated class token"


@dataclass(frozen=True)
class PolicyCase:
    """One policy, as often as a test wants it."""

    name: str
    build: Callable[[], TokenPolicy]


def made(name, **config):
    """A policy of 24 channels and 12 blocks by its name, as in "Monotone(SViT, class token)"."""
    wrapper, _, inner = name.removesuffix(")").rpartition("(")
    inner, _, class_token = inner.partition(", ")
    if inner in TEST_ONLY:
        policy = TEST_ONLY[inner]()
    else:
        settings = POLICY_REGISTRY.get(inner).Config
        if wrapper and "layers" in settings.described():
            # As the ablations are configured: nine halvings would leave later gates no token.
            config = {"layers": (3, 6, 9), "keep_ratios": (0.7, 0.49, 0.343), **config}
        if class_token == GATED_CLASS_TOKEN:
            config = {"gate_class_token": True, **config}
        policy = build_policy(inner, shape=SHAPE, config=settings(**config))
    if class_token:
        # tiny_trunk has a class token where the policy says that it needs one.
        policy.needs_class_token = True
    return WRAPPER_REGISTRY.get(wrapper)(policy) if wrapper else policy


NEEDS_NONE = [name for name in BARE if not made(name).needs_class_token]
GATED = f"SViT, {GATED_CLASS_TOKEN}"
POLICY_CASES = [
    *BARE,
    *(f"{wrapper}({inner})" for wrapper in WRAPPER_REGISTRY.names() for inner in [*BARE, GATED]),
    *(f"{name}, {CLASS_TOKEN}" for name in NEEDS_NONE),
    GATED,
]


@pytest.fixture
def make_policy():
    """Factory: a policy of 24 channels and 12 blocks by its name, `make_policy(name, **config)`."""
    return made


@pytest.fixture(params=POLICY_CASES)
def policy_case(request):
    """Each policy in turn: bare, under each wrapper, with a class token that it does not need."""
    return PolicyCase(request.param, lambda: made(request.param))


@pytest.fixture
def policy(policy_case):
    """Each policy in turn, built."""
    return policy_case.build()
