"""Which blocks run on one thread, and that the number of threads is the caller's afterwards."""

import threading

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.vit import build_trunk, threads
from svit_det.vit.threads import on_few_threads

SHAPE = TrunkShape(24, 12, 3)
SMALL, LARGE = threads.WAKING_MACS, 2 * threads.WAKING_MACS + 1
"""Work for one of two threads, and for both."""


@pytest.fixture
def two(monkeypatch):
    """Two threads, of which one sleeps."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "THREADS_SLEEP", True)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_for(macs, tokens=None):
    return on_few_threads(torch.get_num_threads, torch.zeros(1) if tokens is None else tokens, macs)


@torch.no_grad()
def test_small_work_runs_on_one_thread(two):
    assert threads_for(SMALL) == threads_for(2 * SMALL) == 1
    assert threads_for(LARGE) == 2
    # Four threads save three quarters of the time, so that less work is worth waking them.
    torch.set_num_threads(4)
    assert threads_for(SMALL * 4 // 3) == 1 and threads_for(SMALL * 4 // 3 + 1) == 4
    assert torch.get_num_threads() == 4


@torch.no_grad()
def test_the_number_comes_back_after_an_error_and_in_the_inside(two):
    def inside():
        assert threads_for(LARGE) == 1  # what runs inside small work is small work
        raise KeyError

    with pytest.raises(KeyError):
        on_few_threads(inside, torch.zeros(1), SMALL)
    assert torch.get_num_threads() == 2


def test_where_nothing_is_changed(two, monkeypatch):
    assert threads_for(SMALL) == 2  # with gradients
    with torch.no_grad():
        assert threads_for(SMALL, torch.zeros(1, device="meta")) == 2
        other = []
        one = threading.Thread(target=lambda: other.append(_in_another_thread()))
        one.start()
        one.join()
        assert other == [2]
        monkeypatch.setattr(threads, "THREADS_SLEEP", False)
        assert threads_for(SMALL) == 2


def _in_another_thread():
    torch.set_num_threads(2)
    with torch.no_grad():
        return threads_for(SMALL)


@pytest.mark.parametrize("name", POLICY_REGISTRY.names())
@torch.no_grad()
def test_every_policy_decides_and_computes_the_same(two, monkeypatch, name):
    torch.manual_seed(0)
    policy = build_policy(name, shape=SHAPE)
    trunk = build_trunk(
        policy=policy,
        embed_dim=24,
        depth=12,
        num_heads=3,
        class_token=policy.needs_class_token,
    ).eval()
    seen = []
    trunk.block(11).mlp.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    images = torch.randn(2, 3, 64, 96)
    small = trunk(images)
    monkeypatch.setattr(threads, "WAKING_MACS", 0)
    large = trunk(images)
    assert seen in ([1, 2], []) and torch.get_num_threads() == 2
    assert_close(small.tokens, large.tokens)
    for one, other in zip(small.history, large.history, strict=True):
        assert torch.equal(one.selection.keep, other.selection.keep)
