"""benchmarks/by_hand.py at toy sizes: every measurement, and what becomes of its file."""

import json
import re

import pytest
import torch

from svit_det.policies import POLICY_REGISTRY, TrunkShape

SIZES = {"toy": (24, 3)}
TIMED = re.compile(r"[0-9]+\.[0-9]{2} \([0-9]+\.[0-9]{2}-[0-9]+\.[0-9]{2}\)")


def timed(cell):
    return all(TIMED.fullmatch(each) for each in cell.split(" / "))


def test_sampling(by_hand_program):
    sampled = {"toy": (2, [(4, 6), (2, 3)], 5, 3, 8, 2)}
    head, ((name, *cells),) = by_hand_program.sampling(sampled, repeats=2)
    assert head == ["ms", "maps, forward", "rows, forward", "maps, both", "rows, both"]
    assert name == "toy" and len(cells) == 4 and all(map(timed, cells))


def test_masking(by_hand_program):
    head, ((name, tokens, *cells),) = by_hand_program.masking(SIZES, (4,), repeats=2)
    assert head[2:] == [f"keep {share}" for share in by_hand_program.SHARES]
    assert (name, tokens) == ("toy", 16) and len(cells) == 6
    assert all(timed(cell) and " / " in cell for cell in cells)


def test_joined(by_hand_program):
    head, lines = by_hand_program.joined(SIZES, (10, 20), repeats=2)
    assert head[-2:] == ["at once", "alone"]
    assert [line[:3] for line in lines] == [["toy", 10, "0.0"], ["toy", 20, "0.0"]]
    assert all(timed(cell) for line in lines for cell in line[3:])


def test_alone(by_hand_program):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        head, lines = by_hand_program.alone(SIZES, (10, 20), depth=2, repeats=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert head[-2:] == ["one thread", "all threads"]
    assert [line[:3] for line in lines] == [["toy", 10, "0.1"], ["toy", 20, "0.2"]]
    assert all(timed(cell) for line in lines for cell in line[3:])


def test_one_thread_is_not_compared_with_itself(by_hand_program, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert by_hand_program.main(["alone"]) == (
        "by_hand.py: --threads 1: there is nothing to compare; give 2 or more."
    )


@pytest.mark.parametrize("folder", ["here", "elsewhere"])
def test_allocator_finds_the_config_from_any_folder(by_hand_program, folder, tmp_path, monkeypatch):
    if folder == "elsewhere":
        monkeypatch.chdir(tmp_path)
    head, lines = by_hand_program.allocator("demo/dense", (64, 96), pictures=2)
    assert head == ["picture", "s", "page faults"]
    assert [line[0] for line in lines] == [0, 1, "peak"]
    assert all(float(line[1]) >= 0 and line[2] >= 0 for line in lines[:2])
    assert lines[2][1].endswith(" MiB")


def test_operations(by_hand_program):
    _, lines = by_hand_program.operations(TrunkShape(24, 12, 3), 3)
    found = {name: counts for name, *counts in lines}
    assert set(found) == set(POLICY_REGISTRY.names())
    assert all(every > outer > 0 for every, outer in found.values())
    assert found["Dense"] == min(found.values())


# ------------------------------------------------------------------ the command


@pytest.fixture
def toy(by_hand_program, monkeypatch):
    """Factory: the program with one measurement, which takes no time."""

    def measured():
        return ["", "ms"], [["toy", "1.00"]]

    monkeypatch.setitem(by_hand_program.MEASUREMENTS, "joined", measured)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return lambda *words: by_hand_program.main(["joined", *map(str, words)])


def test_the_table_is_printed_and_kept(toy, tmp_path, capsys):
    path = tmp_path / "found.json"
    assert toy("--output", path) is None
    written = json.loads(path.read_text())
    assert written["command"] == f"python benchmarks/by_hand.py joined --output {path}"
    assert written["rows"] == [["toy", "1.00"]] and written["machine"]["python"]
    assert "toy" in capsys.readouterr().out


def test_a_file_that_is_there_is_replaced_if_asked_for(toy, tmp_path, capsys):
    path = tmp_path / "found.json"
    path.write_text("precious")
    assert toy("--output", path) == (
        f"by_hand.py: --output {path}: is there already; give --overwrite."
    )
    assert path.read_text() == "precious" and capsys.readouterr().out == ""  # nothing was measured
    assert toy("--output", path, "--overwrite") is None
    assert json.loads(path.read_text())["rows"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threads", "0"], "by_hand.py: --threads 0 must lie in [1, 1024]."),
        (["--output", "found.txt"], "by_hand.py: --output found.txt: name a .json file."),
    ],
)
def test_bad_input(toy, words, sentence):
    assert toy(*words) == sentence
