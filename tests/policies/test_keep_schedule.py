"""KeepSchedule: checked when made, and moved to another mean share."""

import pytest

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.base import ScheduleConfig
from svit_det.policies.evit import EViT
from svit_det.policies.keep_schedule import (
    LAST_NINE,
    THREE_STEPS,
    KeepSchedule,
    check_budget,
    with_mean,
)

NAN = float("nan")


def test_which_blocks_decide_and_what_they_keep():
    schedule = KeepSchedule((3, 1), (0.25, 0.75), depth=4)
    assert [layer in schedule for layer in range(4)] == [False, True, False, True]
    assert (schedule.share(3), schedule.share(1)) == (0.25, 0.75)


def test_no_block_need_decide():
    schedule = KeepSchedule((), (), depth=4)
    assert 0 not in schedule
    assert schedule.with_mean(0.5) == schedule


@pytest.mark.parametrize(
    ("layers", "shares", "message"),
    [
        ((1,), (0.7, 0.5), "keep_ratios: 2 targets for 1 layers; give one target for each block"),
        ((1, 2), (0.7,), "keep_ratios: 1 targets for 2 layers"),
        ((1, 4), (0.7, 0.5), r"layers: \[4\] not in the trunk, whose 4 blocks count from 0 to 3"),
        ((-1, 2), (0.7, 0.5), r"layers: \[-1\] not in the trunk"),
        ((1, 1), (0.7, 0.5), r"layers: \[1, 1\] names a block twice"),
        ((1, 2), (0.7, 0.0), r"keep_ratios: \[0.0\] must lie in \(0, 1\]"),
        ((1, 2), (1.2, -1.0), r"keep_ratios: \[1.2, -1.0\] must lie in"),
        ((1, 2), (NAN, 0.5), r"keep_ratios: \[nan\] must lie in"),
    ],
    ids=str,
)
def test_a_schedule_is_checked_when_made(layers, shares, message):
    with pytest.raises(InputError, match=f"^{message}"):
        KeepSchedule(layers, shares, depth=4)


def test_a_policy_that_cannot_reactivate_needs_a_falling_schedule():
    KeepSchedule((1, 2, 3), (0.7, 0.7, 0.3), depth=4, falling="EViT")
    with pytest.raises(InputError, match=r"^layers: \[2, 1\] must ascend for EViT"):
        KeepSchedule((2, 1), (0.7, 0.5), depth=4, falling="EViT")
    with pytest.raises(
        InputError, match=r"^keep_ratios: \[0.5, 0.7\] rises, but EViT cannot react"
    ):
        KeepSchedule((1, 2), (0.5, 0.7), depth=4, falling="EViT")
    KeepSchedule((2, 1), (0.5, 0.7), depth=4)  # others may


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "shares", [(0.7, 0.5, 0.3), (1.0, 1.0), (1.0, 0.4), (0.9,), (0.7,) * 3 + (0.343,) * 6]
)
def test_another_mean_share(shares, ratio):
    schedule = KeepSchedule(tuple(range(len(shares))), shares, depth=12, falling="EViT")
    moved = schedule.with_mean(ratio)
    assert sum(moved.shares) / len(shares) == pytest.approx(ratio, abs=1e-6)
    assert list(moved.shares) == sorted(moved.shares, reverse=True)
    assert all(0 < share <= 1 for share in moved.shares)
    assert (moved.layers, moved.depth, moved.falling) == (schedule.layers, 12, "EViT")
    assert moved.shares == with_mean(shares, ratio)


def test_all_or_as_it_is():
    schedule = KeepSchedule((1, 2), (0.7, 0.5), depth=4)
    assert schedule.with_mean(None) == schedule
    assert schedule.with_mean(1.0).shares == (1.0, 1.0)
    assert with_mean([0.7, 0.5], None) == (0.7, 0.5)


def test_a_mean_that_is_there_already_changes_nothing_to_speak_of():
    assert with_mean((0.7, 0.5, 0.3), 0.5) == pytest.approx((0.7, 0.5, 0.3), abs=1e-6)


@pytest.mark.parametrize("shares", [(1.0, 0.4, 0.3), (0.7, 0.5, 0.3)])
def test_a_mean_that_only_the_first_can_give_still_makes_a_policy(shares):
    """The power is so high that the others' shares would fall to 0, which no schedule has."""
    schedule = KeepSchedule((1, 2, 3), shares, depth=4).with_mean(0.001)
    assert all(share > 0 for share in schedule.shares)
    config = EViT.Config(layers=(1, 2, 3), keep_ratios=shares, test_keep_ratio=0.3)
    rates = EViT(config=config, shape=TrunkShape(24, 4, 3)).eval().keep_rates()
    assert all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize("budget", [None, 1, 1.0, 0.5, 1e-6])
def test_budgets(budget):
    check_budget(budget)


@pytest.mark.parametrize("budget", [0, 0.0, -1, 1.5, 2, NAN, "half"])
def test_budgets_that_are_none(budget):
    with pytest.raises(InputError, match=r"test_keep_ratio: .* must lie in"):
        check_budget(budget)


def test_what_is_not_set_is_the_policys_own():
    own = {"layers": (1, 2), "shares": (0.6, 0.4)}
    assert ScheduleConfig().schedule(4, **own) == KeepSchedule((1, 2), (0.6, 0.4), 4)
    assert ScheduleConfig(layers=(0, 3)).schedule(4, **own).layers == (0, 3)
    assert ScheduleConfig(keep_ratios=[0.5, 0.2]).schedule(4, **own).shares == (0.5, 0.2)
    assert ScheduleConfig().schedule(12) == KeepSchedule(LAST_NINE, THREE_STEPS, 12)
