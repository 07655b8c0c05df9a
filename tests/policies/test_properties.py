"""Properties under every policy, over drawn grids, batches, dtypes, patch sizes and budgets.

The short tier runs bare policies under the default executor; the long tier runs every policy, bare
and under each wrapper, under every executor. Derandomised: the same cases every time. B images,
N patch tokens, L blocks.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from svit_det.policies import POLICY_REGISTRY, WRAPPER_REGISTRY, TrunkShape, build_policy
from svit_det.tokens import Selection
from svit_det.vit import Execution, Masked, Packed, Padded

DEPTH = 4
LAYERS = (1, 2)
WIDTH = 24
NAMES = POLICY_REGISTRY.names()
WRAPPED = [f"{wrapper}({name})" for wrapper in WRAPPER_REGISTRY.names() for name in NAMES]
EXECUTORS = {"Packed": Packed(), "Masked": Masked(), "Padded": Padded(1.0)}
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


def parts_of(name):
    """Of Monotone(SViT): SViT, and a list with Monotone."""
    *wrappers, inner = name.removesuffix(")").split("(")
    return inner, wrappers


def every_policy(*, setting=None, refused_by=()):
    """Marks a test: it runs under the policies that have this setting, and under every executor.

    Without the wrappers that refuse the setting.
    """
    cases = []
    for name in [*NAMES, *WRAPPED]:
        inner, wrappers = parts_of(name)
        has_it = setting is None or setting in POLICY_REGISTRY.get(inner).Config.described()
        if not has_it or set(wrappers) & set(refused_by):
            continue
        for executor in EXECUTORS:
            short = not wrappers and executor == "Packed"
            marks = () if short else pytest.mark.long
            cases.append(pytest.param((name, executor), id=f"{name}-{executor}", marks=marks))
    return pytest.mark.parametrize("case", cases)


@pytest.fixture
def trunk_of(tiny_trunk):
    """Factory: a trunk of four blocks under a case (policy, executor), all weights drawn anew."""

    def make(case, seed, *, dtype=torch.float32, patch=4, **config):
        torch.manual_seed(seed)
        name, wrappers = parts_of(case[0])
        kind = POLICY_REGISTRY.get(name).Config
        if "layers" in kind.described():
            config = {"layers": LAYERS, "keep_ratios": (0.7, 0.4), **config}
        shape = TrunkShape(WIDTH, DEPTH, 3)
        policy = build_policy(name, shape=shape, config=kind(**config), wrappers=wrappers)
        trunk = tiny_trunk(policy, depth=DEPTH, patch_size=patch).to(dtype)
        trunk.execution = Execution(hard=EXECUTORS[case[1]])
        return trunk

    return make


def pixels(batch, grid, patch, seed, dtype):
    drawn = torch.Generator().manual_seed(seed)
    shape = (batch, 3, grid[0] * patch, grid[1] * patch)
    return torch.randn(shape, generator=drawn).to(dtype)


def kept_by(state):
    return torch.stack([record.selection.keep for record in state.history])


@every_policy()
@given(grid=grids, batch=st.integers(1, 4), dtype=dtypes, patch=patches, seed=seeds)
@few
def test_any_grid_dtype_and_patch_size(trunk_of, case, grid, batch, dtype, patch, seed):
    trunk = trunk_of(case, seed, dtype=dtype, patch=patch)
    with torch.inference_mode():
        state = trunk(pixels(batch, grid, patch, seed, dtype))
    assert state.patches.shape == (batch, grid[0] * grid[1], WIDTH)
    assert state.patches.dtype == dtype and state.patches.isfinite().all()
    assert kept_by(state).shape == (DEPTH, batch, grid[0] * grid[1])


@every_policy()
@given(
    grid=grids,
    order=st.permutations(range(4)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
)
@few
def test_permuting_a_batch_permutes_the_result(trunk_of, case, grid, order, dtype, seed):
    trunk = trunk_of(case, seed, dtype=dtype)
    batch = pixels(4, grid, 4, seed, dtype)
    with torch.inference_mode():
        straight, permuted = trunk(batch), trunk(batch[list(order)])
    assert torch.equal(kept_by(permuted), kept_by(straight)[:, list(order)])
    assert_close(permuted.patches, straight.patches[list(order)], **TOLERANCE[dtype])


@every_policy(setting="layers")
@given(grid=grids, first=shares, second=shares, training=st.booleans(), seed=seeds)
@few
def test_extreme_keep_ratios(trunk_of, case, grid, first, second, training, seed):
    ratios = (max(first, second), min(first, second))
    trunk = trunk_of(case, seed, keep_ratios=ratios).train(training)
    with torch.no_grad():
        state = trunk(pixels(2, grid, 4, seed, torch.float32))
    assert state.patches.isfinite().all()


@every_policy(setting="test_keep_ratio", refused_by=["Monotone"])
@given(grid=grids, share=shares, seed=seeds)
@few
def test_another_budget_at_inference(trunk_of, case, grid, share, seed):
    trunk = trunk_of(case, seed)
    batch = pixels(2, grid, 4, seed, torch.float32)
    with torch.inference_mode():
        trunk.policy.set_keep_ratio(share)
        assert trunk(batch).patches.isfinite().all()
        trunk.policy.set_keep_ratio(None)
        again = trunk(batch)
        assert_close(again.patches, trunk_of(case, seed)(batch).patches)


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
