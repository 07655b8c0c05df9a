"""What a report says of the machine, the commit and TF32."""

import subprocess

import torch

from svit_det import __version__
from svit_det.benchmark import report
from svit_det.benchmark.checkout import commit_of
from svit_det.benchmark.precision import tf32_allowed, without_tf32


def git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True)


def test_the_commit_of_a_checkout(tmp_path):
    assert commit_of(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    clean = commit_of(tmp_path)
    assert clean and not clean.endswith("-dirty")
    (tmp_path / "file").write_text("two")
    assert commit_of(tmp_path) == f"{clean}-dirty"
    (tmp_path / "inside").mkdir()
    assert commit_of(tmp_path / "inside") is None  # as a package that is installed in a checkout


def test_the_report_names_commit_and_runtimes(monkeypatch):
    found = report.describe_machine("cpu")
    assert found["versions"]["onnxruntime"] and found["versions"]["openvino"]
    assert "tf32" not in found
    monkeypatch.setattr(report, "commit_of", lambda: None)
    monkeypatch.setattr(report, "RUNTIMES", ("no_such_package",))
    found = report.describe_machine("cpu")
    assert found["commit"] == f"version {__version__}"
    assert "no_such_package" not in found["versions"] and "torch" in found["versions"]


def test_of_a_gpu_both_kinds_of_tf32_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    with without_tf32():
        found = report.describe_machine("cuda")
    assert found["gpu"] == "some GPU" and found["tf32"] == {"matmul": False, "cudnn": False}


def test_tf32_is_off_inside_and_as_before_outside():
    before = tf32_allowed()
    torch.backends.cudnn.allow_tf32 = True
    try:
        with without_tf32():
            assert tf32_allowed() == {"matmul": False, "cudnn": False}
        assert tf32_allowed()["cudnn"]
    finally:
        torch.backends.cudnn.allow_tf32 = before["cudnn"]
