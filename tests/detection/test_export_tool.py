"""tools/export.py as a user runs it: what it writes, what it refuses, and use without PyTorch."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from svit_det import __version__
from svit_det.cli import export
from svit_det.cli.export_calibration import calibration_pictures, fitted
from svit_det.detection.description import describe_run
from svit_det.errors import InputError
from svit_det.export.build import Exported, Wanted
from svit_det.export.checks import Apart, Parity
from svit_det.export.running import load
from svit_det.export.runtimes import check_runtimes
from svit_det.images import read_image
from svit_det.weights.files import write_weights


@pytest.fixture
def weights(tiny_config, tiny_model, tmp_path):
    """Factory: an untrained model's file, that says what it is or, if asked, nothing."""

    def make(*options, silent=False):
        path = tmp_path / "model.safetensors"
        said = {**describe_run(tiny_config(*options)), "classes": ["red", "blue"]}
        state = {n: v.contiguous() for n, v in tiny_model(*options).state_dict().items()}
        write_weights(state, path, description=None if silent else said)
        return path

    return make


def test_from_weights_to_a_picture_without_torch(weights, fork_tool, discs, tmp_path):
    """The config comes from the file; the example draws with numpy, opencv and onnxruntime."""
    output, result = tmp_path / "exported", tmp_path / "drawn.png"
    given = ("--weights", weights(), "--output", output, "--size", 64, 96)
    run = fork_tool("export.py", *given, "--budget", 0.5, "--formats", "onnx")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "the same tokens kept" in run.stdout
    assert [path.name for path in output.iterdir()] == ["detector.onnx"]
    _, about = load(output / "detector.onnx")
    assert about["classes"] == ["red", "blue"] and about["train_sets"] == ["discs_train"]
    assert about["policy"] == "SViT" and about["kept_tokens"] == "fixed"
    assert about["keep_schedule"]["layers"] == [1, 2]
    assert np.mean(about["keep_schedule"]["shares"]) == pytest.approx(0.5)
    assert about["input"]["size"] == [64, 96] and len(about["input"]["mean"]) == 3

    again = fork_tool("export.py", *given, "--budget", 0.5, "--formats", "onnx")
    assert again.returncode == 1 and "give --overwrite" in again.stderr

    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'svit_det', 'PIL')));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    example = export.Path(export.__file__).resolve().parents[2] / "examples/run_onnx.py"
    picture = discs / "images/val_1.png"  # 48 x 72, which fits after a resize
    command = [sys.executable, "-c", code, example, output / "detector.onnx", picture, result]
    drawn = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr
    first, second = (f"{share:.0%}" for share in about["keep_schedule"]["shares"])
    said = f"svit_det {__version__}, trained on: discs_train; kept by schedule: "
    assert f"{said}{first} in block 1, {second} in block 2\n" in drawn.stdout
    assert "SViT: " in drawn.stdout
    assert cv2.imread(str(result)).shape == (48, 2 * 72, 3)


# ------------------------------------------------------------------ what it refuses


@pytest.fixture
def problem(tiny_yaml, tmp_path):
    """Factory: what the tool says, in process, about weights and further arguments."""

    def call(weights, *arguments, config=tiny_yaml, output=tmp_path / "exported"):
        given = ["--weights", weights, "--output", output, "--size", 64, 96]
        if config is not None:
            given += ["--config-file", config]
        said = export.main([str(each) for each in (*given, *arguments)])
        assert said is not None and "\n" not in said
        assert not (tmp_path / "exported").exists()
        return said

    return call


def test_bad_weights(weights, problem, tmp_path):
    assert problem(tmp_path / "none.pth").endswith("none.pth: no such file.")
    silent = weights(silent=True)
    assert "carries no config; give --config-file" in problem(silent, config=None)
    assert "another architecture" in problem(silent, "MODEL.VIT.EMBED_DIM", 64)


def test_untrained_gates_are_refused_unless_asked_for(weights, problem, tiny_config, caplog):
    dense = weights("MODEL.TOKEN_POLICY.NAME", "Dense")
    said = problem(dense)  # under the yaml's SViT
    assert "has no trained weights for" in said and "--allow-untrained" in said
    # What is refused next comes after the model was loaded.
    assert "--opset 23" in problem(dense, "--allow-untrained", "--opset", 23)
    caplog.clear()
    export.load_model(tiny_config("MODEL.TOKEN_POLICY.NAME", "EViT"), str(dense))
    said = [each.getMessage() for each in caplog.records if "class token" in each.getMessage()]
    assert len(said) == 1 and "starts at random" in said[0]


def test_bad_output(weights, problem, tmp_path):
    (tmp_path / "file").write_text("")
    said = problem(weights(), output=tmp_path / "file" / "below")
    assert said.startswith("--output ") and "no folder that may be written to" in said


def test_what_cannot_be_exported_as_asked(weights, problem):
    sample = ("MODEL.TOKEN_POLICY.SVIT.MODE", "sample")
    assert "SViT in the mode sample draws numbers" in problem(weights(*sample), *sample)
    ats = ("MODEL.TOKEN_POLICY.NAME", "ATS")
    assert problem(weights(*ats), "--budget", 0.5, *ats).startswith(
        "--budget 0.5: how many tokens ATS keeps depends on the image"
    )
    assert "--no-topk" in problem(weights(), "--no-topk")
    assert "multiples of 16" in problem(weights(), "--size", 64, 90)
    assert "--opset 23" in problem(weights(), "--opset", 23)
    assert "--batch 2" in problem(weights(), "--batch", 2)


def test_a_precision_needs_its_format_and_its_pictures(weights, problem, tmp_path):
    assert problem(weights(), "--int8", "--formats", "pt2") == (
        "--int8 is for onnx: name it in --formats."
    )
    assert problem(weights(), "--bf16", "--formats", "onnx").startswith("--bf16 is for openvino")
    assert problem(weights(), "--opset", 23, "--formats", "pt2") == (
        "--opset 23 is for onnx and for openvino, which is made of it: name one in --formats."
    )
    assert "belongs to --int8" in problem(weights(), "--calibration", tmp_path)
    nowhere = ("DATASETS.COCO_FORMAT", f"[['discs_train', 'x.json', '{tmp_path}/none']]")
    said = problem(weights(), "--formats", "onnx", "--int8", *nowhere)
    assert said.startswith("--int8: the pictures of the training set (discs_train) are not here")
    (tmp_path / "empty").mkdir()
    said = problem(weights(), "--int8", "--formats", "onnx", "--calibration", tmp_path / "empty")
    assert said.startswith("--calibration ") and "empty" in said


def test_a_processor_without_bfloat16_is_said(monkeypatch, capsys):
    for has, words in ((False, "no instructions for bfloat16"), (True, "")):
        monkeypatch.setattr(export, "multiplies_bfloat16", lambda has=has: has)
        args = export.build_parser().parse_args(["--weights", "w", "--output", "o", "--bf16"])
        export.check_precisions(args, ("openvino",))
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == (not has)


def test_what_was_not_compared_is_said(capsys, tmp_path):
    wanted = Wanted(part="detector", size=(64, 96), formats=("pt2",))
    about = {"policy": "SViT", "kept_tokens": "fixed"}
    nothing = Parity({name: Apart(compared=False) for name in ("boxes", "scores")}, 1.0, (96, 48))
    export.report(Exported(about, {"pt2": nothing}), wanted, tmp_path)
    said = capsys.readouterr().out
    assert "nothing was found in any picture: boxes, scores NOT COMPARED." in said
    assert "difference" not in said


def test_calibration_pictures_are_what_the_detector_is_given(tiny_config, discs):
    cfg = tiny_config()
    found = calibration_pictures(cfg, None, size=(64, 96), batch=1)
    assert len(found) == len(list((discs / "images").iterdir()))
    assert all(each.shape == (1, 3, 64, 96) for each in found)
    pixels = read_image(discs / "images/train_0.png", cfg.INPUT.FORMAT)  # 64 x 64 as it is
    given = fitted(pixels, cfg, (64, 96))
    assert np.array_equal(given[:, :, :64].numpy(), pixels.transpose(2, 0, 1))
    mean = np.array(cfg.MODEL.PIXEL_MEAN, np.float32)[:, None, None]
    assert np.allclose(given[:, :, 64:].numpy(), mean)
    tall = read_image(discs / "images/train_6.png", cfg.INPUT.FORMAT)  # 72 x 48: 96 x 64 by rule
    assert np.allclose(fitted(tall, cfg, (64, 96))[:, :, 43:].numpy(), mean)
    pairs = calibration_pictures(cfg, str(discs / "images"), size=(64, 96), batch=3)
    assert all(each.shape == (3, 3, 64, 96) for each in pairs)
    with pytest.raises(InputError, match=r"fewer than --batch 99"):
        calibration_pictures(cfg, None, size=(64, 96), batch=99)


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime", "openvino"])
def test_a_missing_runtime_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"^--formats .*pip install {module}"):
        check_runtimes(["pt2", "onnx", "openvino"])
    check_runtimes(["pt2"])


@pytest.fixture
def pair(tmp_path):
    """Two finished files that belong together, and the folder that they go to."""
    made, output = tmp_path / "made", tmp_path / "exported"
    made.mkdir()
    for name in ("a.bin", "a.xml"):
        (made / name).write_text("new")
    return made, output


def test_nothing_half_written_stays(pair):
    """The second of two files cannot be written: the first one goes too, if it was not there."""
    made, output = pair
    (output / "a.xml").mkdir(parents=True)  # a folder stands in its place
    with pytest.raises(InputError, match=r"a\.xml: cannot be written"):
        export.publish(made, output, ["a.bin", "a.xml"])
    assert [path.name for path in output.iterdir()] == ["a.xml"]


def test_old_files_stay_together(pair):
    """The second of two files cannot be written: the first one is not replaced either."""
    made, output = pair
    output.mkdir()
    for name in ("a.bin", "a.xml"):
        (output / name).write_text("old")
    (made / "a.xml").unlink()
    with pytest.raises(InputError, match=r"a\.xml: cannot be written"):
        export.publish(made, output, ["a.bin", "a.xml"])
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        "a.bin": "old",
        "a.xml": "old",
    }
