"""Files of weights: whole or not at all, readable by others, and saying what they hold."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION, read_checkpoint, write_checkpoint, write_weights

WEIGHTS = {"a.b": torch.arange(3.0)}
SAID = {"classes": ["red", "blue"], "kept": {"block_01": 0.5}, "steps": 3, "config": "A: 1\nB: ü\n"}


def test_both_kinds_of_file(tmp_path):
    write_weights(WEIGHTS, tmp_path / "new" / "w.safetensors")
    write_weights(WEIGHTS, tmp_path / "new" / "w.pth")
    assert torch.equal(load_file(tmp_path / "new/w.safetensors")["a.b"], WEIGHTS["a.b"])
    loaded = torch.load(tmp_path / "new/w.pth", weights_only=True)
    assert torch.equal(loaded["model"]["a.b"], WEIGHTS["a.b"])
    (tmp_path / "new" / "any").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "new").iterdir()}
    assert len(modes) == 1  # safetensors' own files are for their owner only
    assert len(list((tmp_path / "new").iterdir())) == 3


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_in_the_way_stays(tmp_path, suffix):
    to = tmp_path / f"w{suffix}"
    to.mkdir()
    with pytest.raises(InputError, match=f"w{suffix}: cannot be written"):
        write_weights(WEIGHTS, to)
    assert [path.name for path in tmp_path.iterdir()] == [to.name]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_files, suffix):
    """Neither library says it with an OSError."""
    to = tmp_path / f"w{suffix}"
    write_weights(WEIGHTS, to)
    with pytest.raises(InputError, match=rf"w{suffix}: cannot be written \(.*File too large"):
        write_weights({"a.b": torch.zeros(100_000)}, to)
    assert [path.name for path in tmp_path.iterdir()] == [to.name]
    assert torch.equal(read_checkpoint(str(to))["model"]["a.b"], WEIGHTS["a.b"])


# ------------------------------------------------------------------ what a file says of itself


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_description_comes_back(tmp_path, suffix):
    to = tmp_path / f"w{suffix}"
    write_weights(WEIGHTS, to, description=SAID)
    read = read_checkpoint(str(to))
    assert read[DESCRIPTION] == SAID
    assert torch.equal(read["model"]["a.b"], WEIGHTS["a.b"])


def test_a_description_is_plain_values_for_other_programs(tmp_path):
    write_weights(WEIGHTS, tmp_path / "w.pth", description=SAID)
    assert torch.load(tmp_path / "w.pth", weights_only=True)[DESCRIPTION] == SAID
    write_weights(WEIGHTS, tmp_path / "w.safetensors", description=SAID)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()[DESCRIPTION]) == SAID


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_need_not_say_anything(tmp_path, suffix):
    write_weights(WEIGHTS, tmp_path / f"w{suffix}")
    assert read_checkpoint(str(tmp_path / f"w{suffix}")).keys() == {"model"}


def test_what_else_a_checkpoint_holds_stays_where_it_is(tmp_path):
    write_checkpoint({"model": WEIGHTS, "iteration": 7, DESCRIPTION: SAID}, tmp_path / "c.pth")
    read = read_checkpoint(str(tmp_path / "c.pth"))
    assert read.keys() == {"model", "iteration", DESCRIPTION} and read["iteration"] == 7


@pytest.mark.parametrize("said", ["[1]", "3", "no json", '{"a": ' * 100_000])
def test_an_odd_description_is_refused_in_a_sentence(tmp_path, said):
    path = tmp_path / "w.safetensors"
    save_file(WEIGHTS, path, metadata={DESCRIPTION: said})
    with pytest.raises(InputError) as refusal:
        read_checkpoint(str(path))
    assert "w.safetensors" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_share_memory_are_written(tmp_path, suffix):
    one = torch.arange(12.0).reshape(4, 3)
    shared = {"a": one, "b": one, "c": one[1:], "d": torch.ones(1).expand(2, 3), "e": one.t()}
    write_weights(shared, tmp_path / f"w{suffix}")
    read = read_checkpoint(str(tmp_path / f"w{suffix}"))["model"]
    assert all(torch.equal(read[name], value) for name, value in shared.items())


# ------------------------------------------------------------------ names


def test_the_prefix_of_several_processes_goes(tmp_path):
    weights = {"module.a.b": torch.zeros(1), "module.module.c": torch.ones(1), "d": torch.ones(1)}
    torch.save(weights, tmp_path / "w.pth")
    assert read_checkpoint(str(tmp_path / "w.pth"))["model"].keys() == {"a.b", "module.c", "d"}


def test_two_weights_of_one_name_are_refused(tmp_path):
    torch.save({"module.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: holds both a and module\.a"):
        read_checkpoint(str(tmp_path / "w.pth"))


def test_mmdetections_word(tmp_path):
    torch.save({"state_dict": WEIGHTS, "meta": {"epoch": 1}}, tmp_path / "w.pth")
    assert read_checkpoint(str(tmp_path / "w.pth")).keys() == {"model"}


def test_a_refused_file_is_not_read_in_another_way(tmp_path, monkeypatch):
    """Whatever torch's first answer is, there is no second question."""
    torch.save({"model": WEIGHTS}, tmp_path / "w.pth")
    asked = []

    def load(*args, **kwargs):
        asked.append(kwargs["weights_only"])
        raise RuntimeError("refused")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(InputError, match="not a file of plain weights"):
        read_checkpoint(str(tmp_path / "w.pth"))
    assert asked == [True]
