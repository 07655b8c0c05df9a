"""What svit-det doctor says of a machine, verdict by verdict."""

import importlib
import re
import sys

import pytest
import torch
import torchvision

from svit_det.cli import doctor
from svit_det.cli.commands import COMMANDS
from svit_det.cli.doctor import BAD, GOOD, NOTE, OPTIONAL
from svit_det.errors import InputError
from svit_det.startup import ALLOCATOR


@pytest.fixture
def without(monkeypatch):
    """Factory: as if the package were not installed."""
    return lambda module: monkeypatch.setitem(sys.modules, module, None)


def test_on_this_machine_every_finding_is_good_or_a_note():
    findings = doctor.run(doctor.build_parser().parse_args([]))["findings"]
    assert {each["verdict"] for each in findings} <= {GOOD, NOTE}
    named = [each["what"] for each in findings]
    assert len(set(named)) == len(named)
    assert {"torch", "detectron2", "OpenCV", "imageio-ffmpeg", "timm", "supervision"} <= set(named)


def test_without_a_need_of_every_model_it_ends_in_a_refusal(without, capsys):
    without("detectron2")
    with pytest.raises(InputError, match=r"^No model runs here without detectron2; see above\.$"):
        doctor.run(doctor.build_parser().parse_args([]))
    assert "[missing] detectron2: no (" in capsys.readouterr().out


# ------------------------------------------------------------------ packages


def test_a_package_without_its_configs(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "config_folder", lambda: tmp_path / "gone")
    found = doctor._package()
    assert found.verdict == BAD and f"no folder {tmp_path / 'gone'}" in found.follows


@pytest.mark.parametrize(("version", "verdict"), [("2.6.1+cu124", BAD), ("2.7.0", GOOD)])
def test_the_age_of_torch(monkeypatch, version, verdict):
    monkeypatch.setattr(torch, "__version__", version)
    assert doctor._torch().verdict == verdict


def test_no_torch(without):
    without("torch")
    found = doctor._torch()
    assert found.verdict == BAD and found.seen.startswith("no (") and "pytorch.org" in found.follows
    assert doctor._device().seen == "none" and doctor._processor().verdict == GOOD
    assert doctor._threads().seen.startswith("unknown of torch")


def test_a_torchvision_of_another_torch(monkeypatch):
    def nms(*_):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr(torchvision.ops, "nms", nms)
    found = doctor._torchvision()
    assert found.verdict == BAD
    assert "Its operators do not run (operator torchvision::nms does not exist)" in found.follows


def test_no_torchvision(without):
    without("torchvision")
    assert doctor._torchvision().verdict == BAD


def test_a_detectron2_that_this_package_cannot_use(monkeypatch):
    real = importlib.import_module

    def imported(name):
        if name == "svit_det.detection":
            raise RuntimeError("a broken\n build")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", imported)
    found = doctor._detectron2()
    assert found.verdict == BAD and "does not import: broken (a broken build)" in found.follows


def test_no_opencv(without):
    without("cv2")
    found = doctor._opencv()
    assert found.verdict == NOTE and "opencv-python-headless" in found.follows
    assert "svit-det predict" in found.follows


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_some_commands_need(without, name):
    module, what = OPTIONAL[name]
    without(module)
    found = doctor._optional(name, module, what)
    assert (found.what, found.verdict) == (name, NOTE)
    assert found.follows == f"Needed for {what}: pip install {name}."


def test_what_is_there_has_a_version():
    found = doctor._optional("timm", *OPTIONAL["timm"])
    assert found.verdict == GOOD and re.match(r"\d+\.\d+", found.seen)
    assert found.follows.startswith("Serves svit-det classify, ")
    runtime = doctor._optional("onnxruntime", *OPTIONAL["onnxruntime"])
    assert "CPUExecutionProvider" in runtime.seen


@pytest.mark.parametrize("text", [doctor.DRAWING, *(what for _, what in OPTIONAL.values())])
def test_the_commands_that_are_named_exist(text):
    if text.startswith("svit-det "):
        listed = re.split(r", and |, | and ", text.removeprefix("svit-det "))
        named = {each.partition(" ")[0] for each in listed if not each.startswith("running")}
        assert named <= set(COMMANDS)


# ------------------------------------------------------------------ the machine


@pytest.mark.parametrize(("policy", "word"), [("PASSIVE", "sleep"), ("ACTIVE", "may spin")])
def test_how_threads_wait(monkeypatch, policy, word):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    found = doctor._threads()
    assert found.verdict == GOOD and word in found.follows


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 100_000)
    found = doctor._threads()
    assert found.verdict == NOTE
    assert "More threads than cores: set OMP_NUM_THREADS=" in found.follows


@pytest.mark.parametrize(
    ("keeps", "words"), [(True, "Freed memory is kept"), (False, "Freed memory goes back")]
)
def test_the_allocator(monkeypatch, keeps, words):
    monkeypatch.setattr(doctor, "keep_freed_memory", lambda: keeps)
    monkeypatch.setenv(ALLOCATOR, "keep" if keeps else "system")
    found = doctor._allocator()
    assert found.seen == f"{ALLOCATOR}={'keep' if keeps else 'system'}" and words in found.follows


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"avx2"}, "It multiplies no bfloat16"),
        ({"avx512_bf16"}, "It multiplies bfloat16"),
        (set(), "is not known here"),
    ],
)
def test_what_the_processor_multiplies(monkeypatch, flags, words):
    monkeypatch.setattr(doctor, "_processor_flags", lambda: flags)
    assert words in doctor._processor().follows


def test_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    found = doctor._device()
    assert found.seen == "card 0; card 1" and "It does not multiply bfloat16." in found.follows
