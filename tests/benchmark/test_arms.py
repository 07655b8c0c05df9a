"""The arms of a benchmark: same weights, exact counts, and what is derived from their times."""

import subprocess
import sys

import pytest
import torch

from svit_det.benchmark import arms
from svit_det.benchmark.report import different_counts_table, summarise, table
from svit_det.benchmark.schedule import FixedSchedule, spread_counts
from svit_det.benchmark.timing import Timings
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, WRAPPER_REGISTRY
from svit_det.policies.dense import Dense
from svit_det.policies.svit import SViT
from svit_det.tokens import PassRecord
from svit_det.vit import PlainViT

NUM_TOKENS = 15
COUNTS = [[15, 7, 0], [15, 3, 1]]


def schedule():
    return FixedSchedule.of_counts(torch.tensor(COUNTS), NUM_TOKENS)


@pytest.fixture
def svit(make_policy):
    """SViT with gates in blocks 3 and 6."""
    return make_policy("SViT", layers=(3, 6), keep_ratios=(0.6, 0.4), mode="quota")


@torch.no_grad()
def run(trunk, images):
    return arms.run_stack(trunk)(trunk.embed(images))


def kept(state):
    """(B, L) patch tokens that each block kept."""
    return PassRecord.of(state, state.patches).counts()


# ------------------------------------------------------------------ fixed schedules


def test_a_schedule_keeps_exactly_its_counts(tiny_trunk, images):
    state = run(tiny_trunk(schedule(), depth=3), images(2))
    assert kept(state).tolist() == COUNTS
    assert [block.everyone for block in state.history] == [True, False, False]


def test_a_schedule_knows_its_totals_where_counts_are_equal(tiny_trunk, images, class_everyone):
    for policy, num_extra in ((Dense(), 0), (class_everyone(), 1)):
        trunk = arms.with_policy(tiny_trunk(policy, depth=3), schedule())
        state = run(trunk, images(2))
        totals = [block.selection.total for block in state.history]
        assert totals == [NUM_TOKENS + num_extra, None, None]
        alone = arms.with_policy(trunk, schedule().of_image(1))
        totals = [block.selection.total for block in run(alone, images(1)).history]
        assert totals == [count + num_extra for count in COUNTS[1]]


def test_a_schedule_is_seeded_and_differs_between_blocks_and_images():
    assert torch.equal(schedule().masks, schedule().masks)
    even = FixedSchedule.of_counts(torch.full((2, 2), 7), NUM_TOKENS).masks.flatten(0, 1)
    assert len(even.unique(dim=0)) == 4
    other = FixedSchedule.of_counts(torch.tensor(COUNTS), NUM_TOKENS, seed=1)
    assert not torch.equal(schedule().masks, other.masks)


def test_a_batch_equals_its_images_alone(tiny_trunk, images):
    trunk, batch = tiny_trunk(schedule(), depth=3), images(2)
    together = run(trunk, batch).patches
    for image in range(2):
        alone = arms.with_policy(trunk, schedule().of_image(image))
        single = run(alone, batch[image : image + 1]).patches[0]
        torch.testing.assert_close(single, together[image])


def test_a_schedule_refuses_other_shapes_and_impossible_counts(tiny_trunk, images):
    with pytest.raises(InputError, match="schedule is for"):
        run(tiny_trunk(schedule(), depth=3), images(3))
    with pytest.raises(InputError, match="16 of 15"):
        FixedSchedule.of_counts(torch.tensor([[16]]), NUM_TOKENS)


def test_a_schedule_is_not_registered():
    assert "FixedSchedule" not in POLICY_REGISTRY


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_counts_differ_around_an_exact_mean(batch):
    counts = spread_counts([100, 70, 33], batch, 100, spread=0.3)
    assert counts.sum(dim=0).tolist() == [100 * batch, 70 * batch, 33 * batch]
    assert (counts[:, 0] == 100).all()
    if batch > 1:
        assert counts[[0, -1], 1].tolist() == [49, 91]
        assert (counts[:, 1].diff() > 0).all()


def test_a_spread_beyond_all_tokens_is_refused():
    with pytest.raises(InputError, match="--count-spread"):
        spread_counts([80], 2, 100, spread=0.5)


# ------------------------------------------------------------------ arms


def test_arms_share_every_weight(tiny_trunk, images, svit):
    trunk = tiny_trunk(svit)
    models = arms.policy_arms(trunk)
    own = dict(trunk.named_parameters())
    for model in models.values():
        shared = {name: p for name, p in model.named_parameters() if "policy" not in name}
        assert shared and all(own[name] is parameter for name, parameter in shared.items())
    assert isinstance(models["dense"].policy, Dense) and isinstance(trunk.policy, SViT)
    batch = images(2)
    dense, everyone = run(models["dense"], batch), run(models["keep_all"], batch)
    assert torch.equal(dense.patches, everyone.patches)
    assert all(block.everyone for block in everyone.history)
    assert not torch.equal(dense.patches, run(models["pruned"], batch).patches)


def test_a_network_has_its_trunk_exchanged_and_keeps_its_own(tiny_trunk, svit):
    net = PlainViT(trunk=tiny_trunk(svit))
    models = arms.policy_arms(net)
    assert net.trunk.policy is svit and models["pruned"] is net
    assert isinstance(models["dense"].trunk.policy, Dense)
    assert arms.trunk_of(models["dense"]) is models["dense"].trunk


def test_every_policy_and_wrapper_can_be_compared(tiny_trunk, images, policy_case):
    """With `keep_all` where there is a budget, without where there is none; never an error."""
    policy = policy_case.build()
    trunk = tiny_trunk(policy)
    models = arms.policy_arms(trunk)
    assert policy.keep_ratio is None, "setting the budget of one arm has changed another"
    batch = images(1)
    dense = run(models["dense"], batch)
    if "keep_all" in models and not policy.adds_tokens:
        everyone = run(models["keep_all"], batch)
        assert torch.equal(everyone.patches, dense.patches)
    counted, record = arms.count_stack(models["pruned"], trunk.embed(batch))
    assert counted.bound > 0 and len(record.blocks) == trunk.depth


def test_which_policies_have_an_arm_that_keeps_all(make_policy):
    found = {}
    for name in POLICY_REGISTRY.names():
        policy = make_policy(name)
        found[name] = arms.at_full_budget(policy) is not None
        for wrapper in WRAPPER_REGISTRY.names():
            wrapped = arms.at_full_budget(make_policy(f"{wrapper}({name})"))
            assert wrapped is None or found[name]
    assert found["SViT"] and found["EViT"] and found["EvoViT"]
    assert not (found["ATS"] or found["Dense"] or found["AttentionProbe"])
    assert arms.at_full_budget(make_policy("Monotone(SViT)")) is None


def test_one_by_one_is_the_same_work(tiny_trunk, images, svit):
    trunk = tiny_trunk(svit)
    state = trunk.embed(images(3))
    alone = []
    run_each = arms.one_by_one(
        lambda single: alone.append(trunk.run(single, 0, 12).patches), arms.split_state
    )
    with torch.no_grad():
        run_each(state)
        together = trunk.run(state, 0, 12).patches
    torch.testing.assert_close(torch.cat(alone), together)


def test_schedule_arms_have_the_same_total_and_counted_work(tiny_trunk, images):
    trunk = tiny_trunk(depth=3)
    state = trunk.embed(images(4))
    trunks, run_alone, counts = arms.schedule_arms(trunk, [15, 10, 6], 4, NUM_TOKENS, 0.3)
    assert counts.sum(dim=0).tolist() == [60, 40, 24]
    with torch.no_grad():
        run_alone(state)
        macs, records = {}, {}
        for name, each in {"dense": trunk, **trunks}.items():
            counted, records[name] = arms.count_stack(each, state)
            macs[name] = int(counted.stack.sum())
            assert counted.dense_stack * 4 == macs["dense"]
    assert records["equal"].counts().tolist() == [[15, 10, 6]] * 4
    assert torch.equal(records["different"].counts(), counts)
    block = trunk.blocks[0]
    assert macs["equal"] == 4 * sum(block.macs(count) for count in (15, 10, 6))
    assert macs["different"] == sum(block.macs(count) for count in counts.flatten().tolist())
    # Attention is quadratic: the same total, unevenly spread, is more work.
    assert macs["different"] > macs["equal"]


def test_tokens_are_rows_of_memory_in_every_block(tiny_trunk, images, svit):
    # A transposed map would make every residual, norm, gather and scatter stride through memory.
    for grid in ((3, 5), (4, 6)):
        trunk = tiny_trunk(svit)
        state = trunk.embed(images(2, grid))
        for layer in range(trunk.depth):
            assert state.tokens.is_contiguous()
            state = trunk.run(state, layer, layer + 1)


# ------------------------------------------------------------------ memory and figures


IN_A_FRESH_PROCESS = """
import torch
from svit_det.benchmark.memory import peak_memory
print(peak_memory(lambda: torch.ones({size} // 4).sum(), "cpu"))
"""


def test_peak_memory_sees_what_was_there_for_a_moment():
    """In a process that holds no freed memory yet, which would be used again."""
    size = 64 * 2**20  # bytes; four to a float
    code = IN_A_FRESH_PROCESS.format(size=size)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if ran.stdout.strip() == "None":
        pytest.skip("this system does not tell")
    # The kernel counts pages in batches, per processor.
    assert 0.9 * size < int(ran.stdout) < 1.5 * size


def test_host_syncs_need_a_gpu():
    assert arms.count_host_syncs(lambda: None, "cpu") is None


def row():
    seconds = {
        "keep_all": [4.0, 4.4],
        "dense": [4.0, 4.0],
        "pruned": [2.0, 2.0],
        "one_by_one": [2.5, 2.5],
        "equal": [2.0, 2.0],
        "different": [2.2, 2.2],
        "different_one_by_one": [2.2, 2.2],
    }
    macs = {"dense": 500, "pruned": 200, "equal": 200, "different": 220}
    figures = summarise(Timings(seconds), macs=[macs], batch_size=2)
    memory = {"dense": 3 * 2**20, "pruned": None}
    return {"part": "blocks", "batch_size": 2, "peak_memory_bytes": memory, **figures}


def test_figures_by_hand():
    figures = row()
    assert figures["speed_up"]["median"] == 2
    assert figures["bound"] == 2.5
    assert figures["eta"]["median"] == pytest.approx(0.8)
    assert figures["keep_all_over_dense"]["median"] == pytest.approx(1.05)
    assert figures["batch_over_one_by_one"]["median"] == pytest.approx(0.8)
    assert figures["seconds_per_image"]["dense"]["median"] == 2
    different = figures["different_counts"]
    assert different["time_over_equal"]["median"] == pytest.approx(1.1)
    assert different["time_per_mac_over_equal"]["median"] == pytest.approx(1.0)
    assert different["eta"]["median"] == pytest.approx(4 / 2.2 / (500 / 220))
    assert different["equal_eta"]["median"] == pytest.approx(0.8)


def test_a_pair_has_the_bound_of_its_own_input():
    """The second input keeps half as many tokens, and takes half the time: eta is 1 for both."""
    seconds = {"dense": [4.0, 4.0, 8.0, 8.0], "pruned": [2.0, 1.0, 4.0, 2.0]}
    macs = [{"dense": 600, "pruned": 300}, {"dense": 600, "pruned": 150}]
    figures = summarise(Timings(seconds), macs=macs, batch_size=1)
    assert figures["eta"] == {"median": 1, "low": 1, "high": 1}
    assert figures["bound_by_input"] == [2, 4]
    assert figures["bound"] == figures["speed_up"]["median"] == 3


def test_tables_show_them():
    text = table([row()])
    assert "x2.000" in text and "x2.500" in text and "+5.0 %" in text and " 3 " in text
    assert "1.100" in different_counts_table([row()])
    single = {key: value for key, value in row().items() if key != "different_counts"}
    assert different_counts_table([single]) == ""


@pytest.mark.parametrize("name", ["AdaViT", "IARED2", "SPViT"])
@torch.no_grad()
def test_settled_decisions_divide_tokens(name, make_policy, tiny_trunk, images):
    """Fresh ones keep all tokens or none; afterwards some block keeps a part of them."""
    trunk = tiny_trunk(make_policy(name), spread=0.0)
    arms.settle(trunk)
    assert not trunk.training
    shares = torch.stack([r.selection.keep.float().mean() for r in trunk(images(8)).history])
    assert ((shares > 0) & (shares < 1)).any()
