"""What the benchmark refuses, in a sentence and before anything is built."""

import pytest
import torch

from svit_det.cli import benchmark as program
from svit_det.cli.benchmark_options import grids_of, parse_arguments


@pytest.fixture
def builds_nothing(monkeypatch):
    def build(*_):
        raise AssertionError("something was built")

    monkeypatch.setattr(program, "build", build)


@pytest.mark.usefixtures("builds_nothing")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--processes", "2", "0"], "--processes 0 must lie in [1, 1024]."),
        (["--against", "configs"], "--against configs: no checkout of this project"),
        (["--policies", "SViT", "Svit"], "--policies: 'Svit' is not registered"),
        (["--policies", "SViT", "Dense"], "--policies Dense: the dense model is in every run"),
        (["--policies", "ATS", "ATS"], "--policies ATS ATS: names one twice."),
        (["--policies", "ATS", "MODEL.WEIGHTS", "x"], "--policies MODEL.WEIGHTS: an override"),
        (["--policies", "AViT", "--keep-ratios", "0.5"], "KEEP_RATIOS is set, but AViT"),
        (["--against", ".", "--policies", "ATS"], "--against compares one policy"),
        (["--against", ".", "--parts", "detector"], "take detector out of --parts"),
        (["--against", ".", "--throughput"], "--against belongs to speed-ups"),
        (["--processes", "1", "--parts", "blocks", "training"], "take training out of --parts"),
        (["--throughput", "--stages"], "--stages belongs to speed-ups, which --throughput"),
        (["--grids", "16x16", "32"], "--grids 32: give tokens as HxW"),
        (["--grids", "0x4"], "--grids 0x4"),
        (["--grids", "4x4", "--tokens", "4", "4"], "choose one of them"),
        (["--plot", "--batch-sizes", "1"], "--plot draws over tokens"),
        (["--dtype", "float32", "--warmup", "-1"], "--warmup -1"),
        (["--warmup", f"{10**20}"], f"--warmup {10**20} must lie in [0, 1e6]."),
        (["--height", f"{10**20}"], f"--height {10**20} must lie in [1, 100000]."),
        (["--threads", "2000"], "--threads 2000 must lie in [1, 1024]."),
        (["--tokens", "4", f"{10**9}"], "--tokens 1000000000 must lie in [1, 10000]."),
        (["--grids", f"{10**9}x4"], "--grids 1000000000x4: give tokens as HxW"),
        (["--keep-ratios", "0.5", "nan"], "--keep-ratios nan must lie in (0, 1]."),
        (["--device", ""], "MODEL.DEVICE: no device ''"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_cannot_be_measured(benchmark, arguments, complaint):
    ran = benchmark(*arguments)
    assert complaint in ran.problem
    assert ran.problem.endswith(".") and "\n" not in ran.problem
    assert not ran.folder.exists()


@pytest.mark.usefixtures("builds_nothing")
def test_a_folder_without_pictures(benchmark, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for folder in (tmp_path, tmp_path / "nowhere"):
        ran = benchmark("--image-folder", str(folder))
        assert ran.problem.startswith(f"--image-folder {folder}: no ")


@pytest.mark.usefixtures("builds_nothing")
def test_a_checkout_without_the_config(benchmark, tmp_path):
    (tmp_path / "svit_det").mkdir()
    (tmp_path / "svit_det/__init__.py").touch()
    ran = benchmark("--against", str(tmp_path))
    assert ran.problem == f"--against {tmp_path}: has no configs/plain_svit_s.yaml."


def test_a_checkout_that_cannot_be_run_says_why(tiny, tmp_path):
    """Here of a folder that holds the package and its config, and none of the modules."""
    (tmp_path / "old/svit_det").mkdir(parents=True)
    (tmp_path / "old/svit_det/__init__.py").touch()
    (tmp_path / "old/configs").mkdir()
    (tmp_path / "old/configs/plain_svit_t.yaml").touch()
    ran = tiny("--parts", "blocks", "--tokens", "2", "3", "--against", str(tmp_path / "old"))
    assert ran.problem.startswith(f"--against {tmp_path}/old: ModuleNotFoundError")
    assert "svit_det.detection" in ran.problem and "\n" not in ran.problem


def test_grids():
    assert grids_of(parse_arguments(["--grids", "16x16", "50x84"], "")) == [(16, 16), (50, 84)]
    assert grids_of(parse_arguments(["--tokens", "3", "5"], "")) == [(3, 5)]
    assert grids_of(parse_arguments([], "")) == []


def test_the_default_parts_are_those_without_heads():
    assert parse_arguments([], "").parts == ["blocks", "backbone"]


@pytest.mark.parametrize("grid", [("--tokens", "3", "5"), ("--grids", "3x5")])
@pytest.mark.parametrize("pixels", [("--height", "48"), ("--width", "80")])
def test_a_size_is_given_once(benchmark, grid, pixels):
    ran = benchmark(*grid, *pixels)
    assert ran.problem.startswith("--height and --width are pixels") and "\n" not in ran.problem


def test_the_size_by_default():
    args = parse_arguments(["--width", "640"], "")
    assert (args.height, args.width) == (800, 640)
    assert parse_arguments(["--tokens", "3", "5"], "").height is None


def test_a_dtype_that_the_device_lacks(tiny, monkeypatch):
    linear = torch.nn.functional.linear

    def refuse(rows, *others):
        if rows.dtype == torch.bfloat16:
            raise RuntimeError('"linear"\n not implemented for Half')
        return linear(rows, *others)

    monkeypatch.setattr(torch.nn.functional, "linear", refuse)
    ran = tiny("--parts", "blocks", "--tokens", "2", "3", "--dtype", "bfloat16")
    assert ran.problem == (
        '--dtype bfloat16: the blocks cannot run in it on cpu ("linear" not implemented for '
        "Half); choose another, or other --parts."
    )


def test_a_dtype_that_the_device_has(tiny):
    ran = tiny(
        *("--parts", "blocks", "training", "--tokens", "2", "4", "--batch-sizes", "1"),
        *("--dtype", "bfloat16"),
    )
    assert [row["part"] for row in ran.results["rows"]] == ["blocks", "training"]
    assert ran.results["dtype"] == "bfloat16"


def test_help_tells_of_every_option(capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    said = capsys.readouterr().out
    assert (
        "--against" in said
        and "--memory-of" not in said
        and "--parts training" in " ".join(said.split())
    )
