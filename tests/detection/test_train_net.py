"""tools/train_net.py: train, resume, evaluate, in one process and in two, and what it refuses."""

import json
import shutil

import pytest
import torch
import yaml
from torch.multiprocessing import ProcessRaisedException

from svit_det.detection.processes import what_was_said
from svit_det.errors import InputError

SETS = {"all", "inside_gt", "outside_gt", "inside_pred", "outside_pred"}


@pytest.fixture(scope="module")
def trained(run_tool, tiny_yaml, tmp_path_factory):
    """The folder that a real run of three iterations leaves, with the process that did it."""
    folder = tmp_path_factory.mktemp("trained") / "not" / "yet" / "there"
    run = run_tool("train_net.py", "--config-file", tiny_yaml, "OUTPUT_DIR", folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, run


def metrics_of(folder):
    """What was written in training, and what after it: detectron2 counts one on for the latter."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line], lines[-1]


def strictly(text):
    """Parse JSON as other programs do: without NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------ one process


def test_a_run_leaves_weights_metrics_and_results(trained):
    folder, run = trained
    assert run.stderr == ""
    assert "Results written to" in run.stdout
    assert list(folder.glob("events.out.tfevents.*"))
    (training,), evaluation = metrics_of(folder)
    assert training["iteration"] == 2
    assert {"loss_mask", "loss_keep_ratio", "token_usage/block_01"} <= set(training)
    assert {"bbox/AP", "segm/AP50", "token_usage/inside_gt"} <= set(evaluation)

    results = strictly((folder / "results.json").read_text())
    assert set(results) == {"bbox", "segm", "token_usage"}
    for task in ("bbox", "segm"):
        assert {"AP", "AP50", "AP75", "AP-red", "AP-blue"} <= set(results[task])
        assert 0 <= results[task]["AP"] <= 100
    assert set(results["token_usage"]) == SETS
    written = strictly((folder / "token_usage.json").read_text())
    assert written["kept_share_per_block"]["all"][0] == 1.0
    assert [image["image_id"] for image in written["images"]] == [200, 201, 202, 203]

    weights = torch.load(folder / "model_final.pth", weights_only=True)
    assert weights["iteration"] == 2
    assert weights["model"]["backbone.net.net.trunk.policy.budget.num_batches_tracked"] == 3


def test_resume_goes_on_where_it_stopped(trained, tiny_yaml, fork_tool, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(trained[0], folder)
    before = torch.load(folder / "model_final.pth", weights_only=True)
    arguments = ["--config-file", tiny_yaml, "--resume", "OUTPUT_DIR", folder]
    run = fork_tool("train_net.py", *arguments, "SOLVER.MAX_ITER", 5, "DATASETS.TEST", "()")
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line["iteration"] for line in metrics_of(folder)[0]] == [2, 4]
    assert "Starting training from iteration 3" in (folder / "log.txt").read_text()
    after = torch.load(folder / "model_final.pth", weights_only=True)
    # Weights and statistics are those of five steps, and so is the optimiser's count.
    assert after["iteration"] == 4
    assert after["model"]["backbone.net.net.trunk.policy.budget.num_batches_tracked"] == 5
    steps = [state["step"] for state in after["trainer"]["_trainer"]["optimizer"]["state"].values()]
    assert {float(step) for step in steps} == {5.0}
    name = "roi_heads.box_predictor.cls_score.weight"
    moved = (after["model"][name] - before["model"][name]).abs().max()
    assert 0 < moved < 0.01  # two steps at 0.001, not another start


def test_evaluation_only_gives_the_same_results_again(trained, tiny_yaml, fork_tool, tmp_path):
    weights = trained[0] / "model_final.pth"
    arguments = ["--config-file", tiny_yaml, "--eval-only", "MODEL.WEIGHTS", weights]
    run = fork_tool("train_net.py", *arguments, "OUTPUT_DIR", tmp_path / "again")
    assert run.returncode == 0, run.stdout + run.stderr
    first = strictly((trained[0] / "results.json").read_text())
    again = strictly((tmp_path / "again/results.json").read_text())
    assert str(weights) in (tmp_path / "again/config.yaml").read_text()
    assert set(again) == set(first)
    for task, values in first.items():
        assert again[task] == pytest.approx(values, abs=0.1), task


def test_an_evaluation_that_misses_what_is_expected(trained, tiny_yaml, fork_tool, tmp_path):
    """The program fails with a sentence; the results are written all the same."""
    weights = trained[0] / "model_final.pth"
    for expected, said in (
        (["bbox", "AP", 200.0, 1.0], ", not 200 to 1."),
        (["bbox", "NOSUCH", 1.0, 1.0], " is not among the results; there are bbox AP, AP50, "),
        (["nosuch", "AP", 1.0, 1.0], " is not among the results; there are bbox AP, AP50, "),
    ):
        folder = tmp_path / "-".join(expected[:2])
        run = fork_tool(
            *("train_net.py", "--config-file", tiny_yaml, "--eval-only", "MODEL.WEIGHTS", weights),
            *("OUTPUT_DIR", folder, "TEST.EXPECTED_RESULTS", str([expected])),
        )
        assert run.returncode == 1
        last = run.stderr.splitlines()[-1]
        begin = f"train_net.py: TEST.EXPECTED_RESULTS: {' '.join(expected[:2])}"
        assert last.startswith(begin) and said in last
        assert "AP" in strictly((folder / "results.json").read_text())["bbox"]


def test_a_training_that_misses_what_is_expected(tiny_yaml, fork_tool, tmp_path):
    run = fork_tool(
        *("train_net.py", "--config-file", tiny_yaml, "OUTPUT_DIR", tmp_path, "SOLVER.MAX_ITER"),
        *(2, "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 200.0, 1.0]]"),
    )
    assert run.returncode == 1 and run.stderr.splitlines()[-1].endswith(", not 200 to 1.")
    assert "AP" in strictly((tmp_path / "results.json").read_text())["bbox"]


def test_evaluation_of_what_was_trained_last(trained, tiny_yaml, fork_tool, tmp_path):
    """--resume names no file: the output folder knows its last checkpoint."""
    shutil.copytree(trained[0], tmp_path / "copy")
    (tmp_path / "copy/results.json").unlink()
    arguments = ["--config-file", tiny_yaml, "--eval-only", "--resume"]
    run = fork_tool("train_net.py", *arguments, "OUTPUT_DIR", tmp_path / "copy")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "model_final.pth" in run.stdout
    assert (tmp_path / "copy/results.json").is_file()


def test_a_refused_run_leaves_results_and_config_of_the_run_before(
    trained, tiny_yaml, refused, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    before = {name: (folder / name).read_bytes() for name in ("results.json", "config.yaml")}
    weights = folder / "model_final.pth"
    for said, given in (
        ("cannot go on with Random", ["--resume", "MODEL.TOKEN_POLICY.NAME", "Random"]),
        ("MODEL.VIT.EMBED_DIM 32 cannot go on with 48", ["--resume", "MODEL.VIT.EMBED_DIM", 48]),
        (
            "another architecture",
            ["--eval-only", "MODEL.WEIGHTS", weights, "MODEL.VIT.EMBED_DIM", 48],
        ),
        ("no such file", ["--overwrite", "MODEL.WEIGHTS", "nowhere.pth"]),
    ):
        arguments = ["--config-file", tiny_yaml, *given, "OUTPUT_DIR", folder]
        assert said in refused("train_net.py", *arguments)
        assert {name: (folder / name).read_bytes() for name in before} == before, given


def test_another_budget_and_several_sets(trained, tiny_yaml, fork_tool, tmp_path):
    """The knob works from the command line; results are kept apart by set."""
    arguments = ["--config-file", tiny_yaml, "--eval-only"]
    arguments += ["MODEL.WEIGHTS", trained[0] / "model_final.pth", "OUTPUT_DIR", tmp_path / "two"]
    arguments += ["DATASETS.TEST", "('discs_val', 'discs_train')"]
    arguments += ["MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", 1.0]
    run = fork_tool("train_net.py", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    results = strictly((tmp_path / "two/results.json").read_text())
    assert set(results) == {"discs_val", "discs_train"}
    for name, images in (("discs_val", 4), ("discs_train", 8)):
        assert results[name]["token_usage"]["all"] == pytest.approx(100)
        written = strictly((tmp_path / "two" / name / "token_usage.json").read_text())
        assert len(written["images"]) == images


def test_a_model_that_finds_nothing(trained, tiny_yaml, fork_tool, tmp_path):
    """Its AP is 0 for boxes and masks; a share inside predicted objects does not exist."""
    arguments = ["--config-file", tiny_yaml, "--eval-only", "OUTPUT_DIR", tmp_path]
    arguments += ["MODEL.WEIGHTS", trained[0] / "model_final.pth"]
    run = fork_tool("train_net.py", *arguments, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0)
    assert run.returncode == 0, run.stdout + run.stderr
    results = strictly((tmp_path / "results.json").read_text())
    assert results["bbox"]["AP"] == results["segm"]["AP"] == 0
    assert results["token_usage"]["inside_pred"] is None
    assert results["token_usage"]["outside_pred"] == results["token_usage"]["all"]


def test_mixed_precision_on_a_cpu_is_bfloat16_in_the_trunk(tiny_yaml, fork_tool, tmp_path):
    arguments = ["--config-file", tiny_yaml, "OUTPUT_DIR", tmp_path / "amp"]
    arguments += ["SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()"]
    run = fork_tool("train_net.py", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    used = yaml.safe_load((tmp_path / "amp/config.yaml").read_text())
    assert used["MODEL"]["VIT"]["CPU_PRECISION"] == "bfloat16"
    assert used["SOLVER"]["AMP"]["ENABLED"] is False
    assert torch.tensor(metrics_of(tmp_path / "amp")[0][0]["total_loss"]).isfinite()
    saved = torch.load(tmp_path / "amp/model_final.pth", weights_only=True)["model"]
    assert saved["backbone.net.net.trunk.blocks.0.mlp.fc1.weight"].dtype == torch.float32


# ------------------------------------------------------------------ two processes


ADAPTER = {
    "MODEL.BACKBONE.NAME": "build_vit_adapter_fpn_backbone",
    "MODEL.ADAPTER.INTERACTIONS": "[[0, 0], [1, 2]]",
    "MODEL.ADAPTER.DEFORM_NUM_HEADS": 2,
    "MODEL.ADAPTER.STEM_WIDTH": 4,
    "MODEL.ADAPTER.FINEST_MAP": False,
    "MODEL.ADAPTER.TOP_BLOCK": False,
    "MODEL.FPN.OUT_CHANNELS": 16,
}


@pytest.mark.long
@pytest.mark.parametrize("mouth", [{}, ADAPTER], ids=["pyramid", "adapter"])
def test_two_processes_do_what_one_does(fork_tool, tiny_yaml, discs, tmp_path, mouth):
    """The same global batch gives the same RPN losses and, averaged, the same RPN gradients.

    With the adapter that holds only where its batch norms see the batch of both processes.

    Nothing is drawn by chance: no flips, and so many anchors sampled that all are. The RPN's losses
    are divided by a fixed number, unlike those of the heads, and its weights learn from them alone.
    """
    equal = f"[['equal', '{discs.as_posix()}/equal.json', '{discs.as_posix()}/images']]"
    arguments = ["--config-file", tiny_yaml.with_name("dense.yaml"), "--dist-url", "auto"]
    options = {
        "DATASETS.COCO_FORMAT": equal,
        "DATASETS.TRAIN": "('equal',)",
        "DATASETS.TEST": "('equal',)",
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100_000,
        "INPUT.RANDOM_FLIP": "none",
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.CHECKPOINT_PERIOD": 1,
    }
    pairs = [part for pair in (options | mouth).items() for part in pair]
    one, two = tmp_path / "one", tmp_path / "two"
    runs = [
        fork_tool("train_net.py", *arguments, "OUTPUT_DIR", one, *pairs),
        fork_tool("train_net.py", *arguments, "--num-gpus", 2, "OUTPUT_DIR", two, *pairs),
    ]
    for run in runs:
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stderr == ""

    first, second = (metrics_of(folder)[0][0] for folder in (one, two))
    for name in ("loss_rpn_cls", "loss_rpn_loc"):
        assert second[name] == pytest.approx(first[name], rel=1e-3), name
    weights = [  # after the first step
        torch.load(folder / "model_0000000.pth", weights_only=True)["model"]
        for folder in (one, two)
    ]
    names = [name for name in weights[0] if name.startswith("proposal_generator.rpn_head")]
    assert len(names) == 6
    for name in names:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-5, atol=1e-7)
    for folder in (one, two):
        written = strictly((folder / "token_usage.json").read_text())
        assert sorted(image["image_id"] for image in written["images"]) == list(range(300, 305))
        assert strictly((folder / "results.json").read_text())["token_usage"]["all"] == 100


@pytest.mark.long
def test_svit_trains_in_two_processes(fork_tool, tiny_yaml, tmp_path):
    """Every gate takes part in every step, and both processes agree on what was kept."""
    arguments = ["--config-file", tiny_yaml, "--dist-url", "auto", "--num-gpus", 2]
    options = ["SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path]
    run = fork_tool("train_net.py", *arguments, *options)
    assert run.returncode == 0, run.stdout + run.stderr
    (training,), _ = metrics_of(tmp_path)
    assert 0 < training["token_usage/block_01"] < 1
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    budget = {
        name.split("budget.")[1]: value for name, value in weights.items() if "budget" in name
    }
    assert budget["num_batches_tracked"] == 2
    # The mean share of both processes in two steps: 2 x 4 images of 64 tokens or a little less.
    assert all(0.3 < share < 0.7 for share in budget["kept_share"].tolist())


# ------------------------------------------------------------------ refused


def test_no_config_file(refused):
    assert "--config-file is missing" in refused("train_net.py")
    assert "nowhere.yaml" in refused("train_net.py", "--config-file", "nowhere.yaml")


@pytest.mark.parametrize(
    ("flags", "options", "said"),
    [
        ([], ["MODEL.VIT.DEPHT", 3], "'MODEL.VIT.DEPTH'"),
        ([], ["MODEL.VIT.DEPTH"], "KEY VALUE"),
        ([], ["DATASETS.TRAIN", "('discs',)"], "'discs'"),
        ([], ["DATASETS.COCO_FORMAT", "[['a', 'b']]"], "DATASETS.COCO_FORMAT"),
        ([], ["MODEL.TOKEN_POLICY.NAME", "SVT"], "MODEL.TOKEN_POLICY.NAME"),
        ([], ["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth: no such file"),
        ([], ["MODEL.WEIGHTS", "detectron2://a.pkl"], "detectron2://a.pkl: a file is wanted, not"),
        (["--eval-only"], ["MODEL.WEIGHTS", "https://e.org/w.pth"], "download it first"),
        (["--num-gpus", 3], [], "SOLVER.IMS_PER_BATCH 4"),
        (["--num-gpus", 0], [], "--num-gpus"),
        (["--eval-only"], ["MODEL.ROI_HEADS.NUM_CLASSES", 5], "NUM_CLASSES 5"),
        (["--eval-only"], [], "MODEL.WEIGHTS is empty"),
        (["--eval-only", "--resume"], [], "MODEL.WEIGHTS is empty"),
    ],
)
def test_refused_in_one_sentence(refused, tiny_yaml, tmp_path, flags, options, said):
    arguments = ["--config-file", tiny_yaml, *flags, "OUTPUT_DIR", tmp_path / "out", *options]
    assert said in refused("train_net.py", *arguments)


@pytest.mark.parametrize("below", ["", "folder"])
def test_output_folder_that_cannot_be_made(refused, tiny_yaml, tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below
    said = refused("train_net.py", "--config-file", tiny_yaml, "OUTPUT_DIR", folder)
    assert f"OUTPUT_DIR {folder}" in said and "cannot be written" in said
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def set_with_a_cut_image(discs, tmp_path):
    """Options for an evaluation of which the second image is not there."""
    (tmp_path / "images").mkdir()
    for index in range(4):
        shutil.copy(discs / "images" / f"val_{index}.png", tmp_path / "images")
    cut = tmp_path / "images" / "val_1.png"
    cut.write_bytes(cut.read_bytes()[:-60])  # its size can be read, its pixels cannot
    entry = f"[['gap', '{discs.as_posix()}/val.json', '{tmp_path.as_posix()}/images']]"
    return ["DATASETS.COCO_FORMAT", entry, "DATASETS.TEST", "('gap',)"]


@pytest.mark.parametrize("workers", [0, 1])
def test_cut_image_at_evaluation(
    refused, trained, tiny_yaml, set_with_a_cut_image, tmp_path, workers
):
    """One sentence, also where it comes out of a process that loads images."""
    arguments = ["--config-file", tiny_yaml, "--eval-only", "OUTPUT_DIR", tmp_path / "out"]
    arguments += ["MODEL.WEIGHTS", trained[0] / "model_final.pth"]
    arguments += [*set_with_a_cut_image, "DATALOADER.NUM_WORKERS", workers]
    image = tmp_path / "images" / "val_1.png"
    said = refused("train_net.py", *arguments)
    assert said.startswith(f"train_net.py: {image}: the image cannot be decoded")


def test_an_evaluation_that_fails_leaves_the_older_results(
    refused, trained, tiny_yaml, set_with_a_cut_image, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    before = {name: (folder / name).read_bytes() for name in ("results.json", "config.yaml")}
    arguments = ["--config-file", tiny_yaml, "--eval-only", "--resume", "OUTPUT_DIR", folder]
    assert "cannot be decoded" in refused("train_net.py", *arguments, *set_with_a_cut_image)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_sentence_from_a_training_process_is_found():
    sent = """

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "x.py", line 1, in <module>
svit_det.errors.InputError: Caught InputError in DataLoader worker process 0.
Original Traceback (most recent call last):
svit_det.errors.InputError: a.png: no such image.

"""
    assert what_was_said(ProcessRaisedException(sent, 1, 2)) == "a.png: no such image."
    assert what_was_said(InputError("b.png: no such image.")) == "b.png: no such image."
    ours = ProcessRaisedException("\nTraceback\nZeroDivisionError: division by zero\n", 1, 2)
    assert what_was_said(ours) is None
