"""Files to resume from: hostile, damaged or foreign ones are refused in a sentence of ours."""

import math
import os
import pickle
import zipfile

import pytest
import torch

from svit_det.classification.config import load_config
from svit_det.classification.processes import Processes
from svit_det.classification.run_files import LAST
from svit_det.classification.run_state import read_state
from svit_det.classification.trainer import Trainer
from svit_det.errors import InputError

CPU = torch.device("cpu")
F64 = torch.float64


@pytest.fixture
def trainer(a_yaml, small):
    """A training before its first step, with averaged weights."""
    return Trainer(load_config(a_yaml, small(SOLVER__EMA_DECAY=0.5)), Processes(), CPU)


@pytest.fixture
def last(trainer, tmp_path):
    """A checkpoint after one step."""
    images, labels = next(trainer._batches(trainer.loader))
    trainer.step(images, labels, number=0, time=0, times=1)
    trainer.epoch = 1
    trainer._save()
    return tmp_path / "run" / LAST


def refusal(path):
    with pytest.raises(InputError) as refused:
        read_state(path)
    said = str(refused.value)
    assert said.startswith(f"{path}: not a checkpoint to resume from: ") and said.isprintable()
    assert said.endswith("; begin anew with --overwrite, or name another OUTPUT_DIR.")
    # PyTorch's own first line advises to load the file all the same.
    assert "weights_only" not in said and "PyTorch" not in said and "torch.load" not in said
    return said


def test_a_good_one(last):
    assert read_state(last)["epoch"] == 1


def test_damaged_and_foreign_files(last):
    content = last.read_bytes()
    for wrong in (b"", b"nothing", content[: len(content) // 2], b"PK" + content[2:500]):
        last.write_bytes(wrong)
        refusal(last)
    last.unlink()
    assert "no such file" in refusal(last)
    os.mkfifo(last)
    assert "a device or a pipe" in refusal(last)


def test_nothing_is_executed(last, tmp_path):
    class Calls:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was_here"),)

    last.write_bytes(pickle.dumps(Calls()))
    assert "it asks for more than tensors and plain values" in refusal(last)
    torch.save({"model": {"a": torch.ones(1)}, "more": Calls()}, last)
    assert "code" in refusal(last)
    assert not (tmp_path / "was_here").exists()


def test_an_archive_is_not_unpacked(last, monkeypatch):
    """Ten megabytes of zeros in ten kilobytes never reach PyTorch's reader."""
    with zipfile.ZipFile(last) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(last, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(10**6))

    def never(*given, **options):
        raise AssertionError("PyTorch was asked to read it")

    monkeypatch.setattr(torch, "load", never)
    assert "a compressed archive, which no training writes" in refusal(last)


SPOILED = {
    "weights alone": (lambda s: {"model": s["model"]}, "it holds no optimizer"),
    "no epoch": (lambda s: s | {"epoch": "1"}, "it holds no epoch"),
    "a true epoch": (lambda s: s | {"epoch": True}, "it holds no epoch"),
    "no config": (lambda s: s | {"config": None}, "it holds no config"),
    "averaged": (lambda s: s | {"ema": {"a": 3}}, "it holds no averaged weights"),
    "optimiser": (lambda s: s | {"optimizer": {}}, "it holds no state of an optimiser"),
    "no tensors": (lambda s: s | {"model": {}, "ema": None}, "holds no tensors by name"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_parts_that_are_missing(last, case):
    change, said = SPOILED[case]
    torch.save(change(torch.load(last, weights_only=True)), last)
    assert said in refusal(last)


UNUSUAL = {
    "an empty ('meta') tensor": lambda value: value.to("meta"),
    "an 8-bit tensor": lambda value: value.to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("said", UNUSUAL)
def test_tensors_without_plain_values(last, said):
    good = torch.load(last, weights_only=True)
    state = torch.load(last, weights_only=True)
    state["ema"]["head.bias"] = UNUSUAL[said](state["ema"]["head.bias"])
    torch.save(state, last)
    assert f"head.bias (averaged) is {said}; begin" in refusal(last)
    entry = good["optimizer"]["state"][0]
    entry["exp_avg"] = UNUSUAL[said](entry["exp_avg"])
    torch.save(good, last)
    assert f"parameter 0 exp_avg is {said}; begin" in refusal(last)


def test_numbers_that_are_not_finite(last):
    good = torch.load(last, weights_only=True)

    def spoiled(spoil):
        state = torch.load(last, weights_only=True)
        spoil(state)
        torch.save(state, last)
        said = refusal(last)
        torch.save(good, last)
        return said

    nan, inf = math.nan, math.inf
    assert "finite in head.bias;" in spoiled(lambda s: s["model"]["head.bias"].fill_(nan))
    assert "head.bias (averaged)" in spoiled(lambda s: s["ema"]["head.bias"].fill_(inf))
    state = good["optimizer"]["state"]
    number = next(iter(state))
    said = spoiled(lambda s: s["optimizer"]["state"][number]["exp_avg"].fill_(-inf))
    assert f"finite in parameter {number} exp_avg;" in said


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s["model"].pop("norm.bias"), "norm.bias is not in the file"),
        (lambda s: s["ema"].pop("norm.bias"), "averaged weights: norm.bias is not in the file"),
        (lambda s: s.pop("ema"), "averaged weights: trunk"),
        (lambda s: s.update(ema=None), "averaged weights: trunk"),
        (lambda s: s["model"].update(more=torch.ones(1)), "more is not in the model"),
        (
            lambda s: s["model"].update({"norm.bias": torch.ones(24, dtype=torch.int64)}),
            "norm.bias holds whole numbers for real numbers",
        ),
        (lambda s: s["optimizer"]["param_groups"].pop(), "optimiser's state is of other param"),
        (lambda s: s["optimizer"].pop("param_groups"), "optimiser's state is of other param"),
        (lambda s: s["optimizer"]["param_groups"][0].update(lr=math.nan), "a 'lr' that cannot"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(7)), "a 'exp_avg' of ano"),
        (lambda s: s.update(scaler={"scale": "x"}), "its loss scaler holds a 'scale' that cannot"),
        (lambda s: s.update(epoch=-1), "stands after epoch -1, where there are 2"),
        (lambda s: s.update(epoch=10**9), "stands after epoch 1000000000, where there are 2"),
        (
            lambda s: s["model"].update({"norm.bias": torch.full((24,), 1e300, dtype=F64)}),
            "norm.bias that are too large for the model's precision",
        ),
    ],
)
def test_parts_of_another_model(trainer, last, spoil, said):
    state = torch.load(last, weights_only=True)
    spoil(state)
    torch.save(state, last)
    with pytest.raises(InputError) as refused:
        trainer.resume()
    assert said in str(refused.value) and str(refused.value).startswith(str(last))
