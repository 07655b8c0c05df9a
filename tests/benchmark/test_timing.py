"""Interleaving and statistics, on a clock that is told what to show."""

import gc

import pytest

from svit_det.benchmark.timing import Spread, Timings, time_interleaved


class FakeMachine:
    """A clock and arms that take a scripted time, and the order in which things happened."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def arm(self, name, seconds):
        durations = iter(seconds)

        def run(given):
            self.calls.append((name, given))
            self.now += next(durations)

        return run


def test_arms_take_turns_on_the_same_input():
    machine = FakeMachine()
    arms = {"a": machine.arm("a", [9, 1, 2, 3, 4]), "b": machine.arm("b", [9, 5, 6, 7, 8])}
    timings = time_interleaved(arms, ["x", "y"], repeats=2, warmup=1, clock=machine.clock)
    turns = [("x", "ab"), ("x", "ba"), ("y", "ab"), ("x", "ba"), ("y", "ab")]
    assert machine.calls == [(arm, given) for given, order in turns for arm in order]
    assert timings.seconds == {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}


def test_warm_up_is_thrown_away_and_cycles_through_the_inputs():
    machine = FakeMachine()
    arms = {"a": machine.arm("a", [100, 100, 100, 1, 1])}
    timings = time_interleaved(arms, ["x", "y"], repeats=1, warmup=3, clock=machine.clock)
    assert [given for _, given in machine.calls] == ["x", "y", "x", "x", "y"]
    assert timings.seconds == {"a": [1, 1]}


def test_progress_is_told_of_every_turn():
    machine, turns = FakeMachine(), []
    arms = {"a": machine.arm("a", [1] * 3)}
    time_interleaved(
        arms, [0], repeats=2, clock=machine.clock, progress=lambda: turns.append(machine.now)
    )
    assert turns == [1, 2, 3]


def test_garbage_is_not_collected_inside_a_turn_and_again_afterwards():
    seen = []
    time_interleaved({"a": lambda _: seen.append(gc.isenabled())}, [0], repeats=1)
    assert seen == [False, False] and gc.isenabled()

    def fails(_):
        raise ValueError

    with pytest.raises(ValueError):
        time_interleaved({"a": fails}, [0])
    assert gc.isenabled()


def test_spread_is_median_and_quartiles():
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_a_ratio_is_taken_pair_by_pair():
    # The machine was ten times slower in the second turn: the ratio of medians would be 1.1.
    timings = Timings({"dense": [2, 20, 2.2], "pruned": [1, 10, 2]})
    assert timings.ratio("dense", "pruned") == Spread(2, 1.55, 2)
    assert timings.spread("pruned").median == 2
