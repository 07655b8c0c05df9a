"""Properties under every policy, over drawn grids, batches, dtypes, patch sizes and budgets.

Derandomised: the same cases every time. B images, N patch tokens, L blocks.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.tokens import Selection
from svit_det.vit import Execution, Masked, Packed, Padded

DEPTH = 4
LAYERS = (1, 2)
WIDTH = 24
NAMES = POLICY_REGISTRY.names()
SCHEDULED = [n for n in NAMES if "layers" in POLICY_REGISTRY.get(n).Config.described()]
TOLERANCE = {
    torch.float64: {"atol": 1e-9, "rtol": 1e-9},
    torch.float32: {"atol": 2e-5, "rtol": 2e-5},
    torch.bfloat16: {"atol": 0.1, "rtol": 0.1},
}
few = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
grids = st.tuples(st.integers(1, 7), st.integers(1, 7))
dtypes = st.sampled_from(list(TOLERANCE))
patches = st.sampled_from([1, 2, 4, 8])
seeds = st.integers(0, 1000)
shares = st.one_of(st.sampled_from([1e-6, 1.0]), st.floats(1e-6, 1.0))


@pytest.fixture
def trunk_of(tiny_trunk):
    """Factory: a trunk of four blocks under a policy by its name, all weights drawn anew."""

    def make(name, seed, *, dtype=torch.float32, patch=4, **config):
        torch.manual_seed(seed)
        kind = POLICY_REGISTRY.get(name).Config
        if "layers" in kind.described():
            config = {"layers": LAYERS, "keep_ratios": (0.7, 0.4), **config}
        shape = TrunkShape(WIDTH, DEPTH, 3)
        policy = build_policy(name, shape=shape, config=kind(**config))
        return tiny_trunk(policy, depth=DEPTH, patch_size=patch).to(dtype)

    return make


def pixels(batch, grid, patch, seed, dtype):
    drawn = torch.Generator().manual_seed(seed)
    shape = (batch, 3, grid[0] * patch, grid[1] * patch)
    return torch.randn(shape, generator=drawn).to(dtype)


def kept_by(state):
    return torch.stack([record.selection.keep for record in state.history])


@pytest.mark.parametrize("name", NAMES)
@given(grid=grids, batch=st.integers(1, 4), dtype=dtypes, patch=patches, seed=seeds)
@few
def test_any_grid_dtype_and_patch_size(trunk_of, name, grid, batch, dtype, patch, seed):
    trunk = trunk_of(name, seed, dtype=dtype, patch=patch)
    with torch.inference_mode():
        state = trunk(pixels(batch, grid, patch, seed, dtype))
    assert state.patches.shape == (batch, grid[0] * grid[1], WIDTH)
    assert state.patches.dtype == dtype and state.patches.isfinite().all()
    assert kept_by(state).shape == (DEPTH, batch, grid[0] * grid[1])


@pytest.mark.parametrize("name", NAMES)
@given(
    grid=grids,
    order=st.permutations(range(4)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
)
@few
def test_permuting_a_batch_permutes_the_result(trunk_of, name, grid, order, dtype, seed):
    trunk = trunk_of(name, seed, dtype=dtype)
    batch = pixels(4, grid, 4, seed, dtype)
    with torch.inference_mode():
        straight, permuted = trunk(batch), trunk(batch[list(order)])
    assert torch.equal(kept_by(permuted), kept_by(straight)[:, list(order)])
    assert_close(permuted.patches, straight.patches[list(order)], **TOLERANCE[dtype])


@pytest.mark.parametrize("name", SCHEDULED)
@given(grid=grids, first=shares, second=shares, training=st.booleans(), seed=seeds)
@few
def test_extreme_keep_ratios(trunk_of, name, grid, first, second, training, seed):
    ratios = (max(first, second), min(first, second))
    trunk = trunk_of(name, seed, keep_ratios=ratios).train(training)
    with torch.no_grad():
        state = trunk(pixels(2, grid, 4, seed, torch.float32))
    assert state.patches.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@given(grid=grids, share=shares, seed=seeds)
@few
def test_another_budget_at_inference(trunk_of, name, grid, share, seed):
    if "test_keep_ratio" not in POLICY_REGISTRY.get(name).Config.described():
        return
    trunk = trunk_of(name, seed)
    batch = pixels(2, grid, 4, seed, torch.float32)
    with torch.inference_mode():
        trunk.policy.set_keep_ratio(share)
        assert trunk(batch).patches.isfinite().all()
        trunk.policy.set_keep_ratio(None)
        again = trunk(batch)
        assert_close(again.patches, trunk_of(name, seed)(batch).patches)


@given(
    grid=grids,
    batch=st.integers(1, 4),
    seed=seeds,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    data=st.data(),
)
@settings(few, max_examples=60)
def test_executors_agree_on_any_selection(scripted, tiny_trunk, grid, batch, seed, dtype, data):
    """Nobody, everyone, a different number in each image: the same tokens come out."""
    torch.manual_seed(seed)
    count = grid[0] * grid[1]
    share = data.draw(shares, label="share")
    keeps = [torch.rand(batch, count) < share for _ in range(DEPTH)]
    trunk = tiny_trunk(scripted([Selection(keep=keep) for keep in keeps]), depth=DEPTH).to(dtype)
    images = pixels(batch, grid, 4, seed, dtype)
    results = []
    with torch.inference_mode():
        for hard in (Packed(), Masked(), Padded(1.0)):
            trunk.execution = Execution(hard=hard)
            results.append(trunk(images))
    for other in results[1:]:
        assert torch.equal(kept_by(other), kept_by(results[0]))
        assert_close(other.patches, results[0].patches, **TOLERANCE[dtype])
