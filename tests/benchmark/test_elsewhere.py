"""Arms in other processes: an older checkout, and several of this one at a time."""

import shutil
import sys
from pathlib import Path

import pytest

from svit_det.benchmark.throughput import images_per_second, time_together
from svit_det.benchmark.timing import Timings, time_interleaved
from svit_det.benchmark.worker import Worker
from svit_det.cli.benchmark_elsewhere import against, config_in
from svit_det.cli.benchmark_options import warn_of_few_cores
from svit_det.cli.benchmark_worker import check_origin
from svit_det.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """Another checkout of the same code."""
    folder = tmp_path_factory.mktemp("older")
    for name in ("svit_det", "configs"):
        left_out = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder


@pytest.mark.long
def test_an_older_checkout_takes_turns(tiny, older):
    ran = tiny(
        *("--parts", "blocks", "backbone", "--tokens", "4", "6", "--batch-sizes", "1"),
        *("--against", str(older)),
    )
    assert ran.results["against"] == {"folder": str(older), "commit": None}
    assert len(ran.results["rows"]) == 2
    for row in ran.results["rows"]:
        seconds, found = row["raw_seconds_per_batch"], row["against"]
        for arm in ("dense", "pruned"):
            (new,), (old,) = seconds[arm], seconds[f"old_{arm}"]
            assert found["new_over_old"][arm]["median"] == new / old
        assert found["largest_difference"] == {"dense": 0, "pruned": 0} and found["agrees"]
    assert "This checkout over the older one" in ran.printed and "agree" in ran.printed


def test_maps_that_differ_are_named(tiny, older, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(older, changed)
    trunk = changed / "svit_det/vit/trunk.py"
    text = trunk.read_text()
    assert "tokens.flatten(2).transpose(1, 2) + positions" in text
    trunk.write_text(text.replace("transpose(1, 2) + positions", "transpose(1, 2) - positions"))
    ran = tiny(
        *("--parts", "blocks", "--tokens", "4", "6", "--batch-sizes", "1"),
        *("--against", str(changed)),
    )
    (row,) = ran.results["rows"]
    assert min(row["against"]["largest_difference"].values()) > 1e-3
    assert row["against"]["agrees"] is False and "DIFFER" in ran.printed


def test_what_is_said_of_two_checkouts():
    timings = Timings({"dense": [2, 2], "old_dense": [4, 4], "pruned": [3], "old_pruned": [2]})
    found = against(timings, {"dense": 0.0, "pruned": 2e-3})
    assert found["new_over_old"]["dense"]["median"] == 0.5
    assert found["new_over_old"]["pruned"]["median"] == 1.5
    assert not found["agrees"]


def test_a_config_is_that_of_the_other_checkout(older, tmp_path):
    plain = "configs/plain_svit_t.yaml"
    assert config_in(older, str(ROOT / plain)) == str(older / plain)
    outside = tmp_path / "mine.yaml"
    assert config_in(older, str(outside)) == str(outside)
    with pytest.raises(InputError, match="has no configs"):
        config_in(tmp_path, str(ROOT / plain))


def test_self_timed_arms_tell_their_own_seconds(ticks):
    arms = {"here": lambda _: None, "there": lambda _: 0.25}
    timings = time_interleaved(arms, [0], repeats=2, clock=ticks(), self_timed=["there"])
    assert timings.seconds == {"here": [1, 1], "there": [0.25, 0.25]}


# ------------------------------------------------------------------ processes


ECHO = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked == {"do": "end"}:
        break
    answer = {"problem": "no such thing."} if asked["do"] == "fail" else {"done": asked}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def echo(tmp_path):
    with Worker([sys.executable, "-c", ECHO], name="echo", folder=tmp_path, environment={}) as own:
        yield own


def test_a_worker_answers_or_says_what_is_wrong(echo):
    assert echo.ask(do="this", arm="dense") == {"do": "this", "arm": "dense"}
    with pytest.raises(InputError, match=r"^echo: no such thing\.$"):
        echo.ask(do="fail")
    with pytest.raises(InputError, match="echo: its process has ended"):
        echo.ask(do="end")


def test_workers_run_the_same_arm_at_the_same_time(ticks):
    events = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def send(self, **asked):
            events.append(("send", self.name, asked["arm"]))

        def receive(self):
            events.append(("receive", self.name))

    timings = time_together(
        [Fake("one"), Fake("two")], ["dense", "pruned"], repeats=2, warmup=1, clock=ticks()
    )
    assert timings.seconds == {"dense": [1, 1], "pruned": [1, 1]}
    turn = [("send", "one", "dense"), ("send", "two", "dense")]
    assert events[:4] == [*turn, ("receive", "one"), ("receive", "two")]
    assert [event[2] for event in events if event[:2] == ("send", "one")] == [
        *("dense", "pruned", "pruned", "dense", "dense", "pruned")
    ]


@pytest.mark.long
def test_load_by_number_of_processes(tiny):
    ran = tiny(
        *("--parts", "blocks", "detector", "--tokens", "2", "3", "--batch-sizes", "2"),
        *("--processes", "1", "2"),
    )
    assert ran.results["rows"] == [] and ran.results["throughput"] == []
    found = ran.results["processes"]
    places = [(row["part"], row["processes"], row["batch_size"]) for row in found]
    assert places == [("blocks", 1, 2), ("blocks", 2, 2), ("detector", 1, 2), ("detector", 2, 2)]
    for row in found:
        ((dense,), (pruned,)) = (row["raw_seconds"][arm] for arm in ("dense", "pruned"))
        images = row["processes"] * row["batch_size"]
        assert row["images_per_second"]["dense"]["median"] == images / dense
        assert row["speed_up"]["median"] == dense / pruned
    assert "Images per second of all processes together" in ran.printed


def test_modules_of_another_checkout_are_found(tmp_path):
    check_origin(str(ROOT))
    with pytest.raises(RuntimeError, match=r"svit_det.* would come from .*, not from this folder"):
        check_origin(str(tmp_path))


def test_more_processes_than_cores(monkeypatch, capsys):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    warn_of_few_cores([1, 2])
    assert capsys.readouterr().err == ""
    warn_of_few_cores([1, 8, 4])
    said = capsys.readouterr().err
    assert said == "--processes 8: this machine has 2 cores, which they will share.\n"


def test_images_per_second_by_hand():
    found = images_per_second(Timings({"dense": [2.0, 4.0], "pruned": [1.0]}), batch_size=8)
    assert found["dense"] == {"mean": 3.0, "std": pytest.approx(2**0.5)}
    assert found["pruned"] == {"mean": 8.0, "std": 0.0}
