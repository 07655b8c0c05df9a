"""What a run writes: whole or not at all, also at a full disk; finished folders are left alone."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from svit_det.cli import train_net
from svit_det.detection import run_files
from svit_det.detection.run_files import (
    MetricsWriter,
    WholeCOCOEvaluator,
    check_folder,
    said_about_the_disk,
)
from svit_det.errors import InputError
from svit_det.results import replace_results
from svit_det.training.run_folder import only_training_in


def names(folder):
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------ metrics.json


def write(writer, *steps, first=0):
    with EventStorage(first) as storage:
        for step in steps:
            storage.put_scalar("loss", 1.0 + step, cur_iter=step, smoothing_hint=False)
            writer.write()


def steps_in(path):
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


def test_metrics_are_taken_up_where_a_checkpoint_left_them(tmp_path):
    path = tmp_path / "metrics.json"
    write(MetricsWriter(path), 0, 1, 2, 3)
    with open(path, "a") as file:
        file.write('{"iteration": 4, "lo')  # killed inside a line
    writer = MetricsWriter(path)
    writer.keep_until(1)
    assert steps_in(path) == [0, 1] and writer.last_step == 1
    write(writer, 1, 2, first=2)  # step 1 is there already
    assert steps_in(path) == [0, 1, 2]
    assert names(tmp_path) == ["metrics.json"]


def test_a_number_that_does_not_exist_is_null(tmp_path):
    with EventStorage() as storage:
        storage.put_scalar("bbox/APl", float("nan"), smoothing_hint=False)
        MetricsWriter(tmp_path / "metrics.json").write()
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"iteration": 0, "bbox/APl": None}


ODD_LINES = [
    b'{"iteration": Infinity}\n',
    b'{"iteration": 1e400}\n',
    b'{"iteration": NaN}\n',
    b'{"iteration": [0]}\n',
    b"[" * 100_000 + b"\n",
    b"\xff\xfe\n",
    b"null\n",
]


@pytest.mark.parametrize("line", ODD_LINES, ids=lambda line: str(line[:20]))
def test_a_line_that_no_run_wrote_is_dropped(tmp_path, line):
    path = tmp_path / "metrics.json"
    write(MetricsWriter(path), 0, 1)
    good = path.read_bytes()
    path.write_bytes(line + good)
    MetricsWriter(path).keep_until(1)
    assert path.read_bytes() == good


def test_nothing_new_writes_nothing(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.json")
    writer.keep_until(5)
    with EventStorage():
        writer.write()
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_lines_before(tmp_path, small_files):
    path = tmp_path / "metrics.json"
    writer = MetricsWriter(path)
    write(writer, 0)
    with EventStorage(1) as storage:
        storage.put_scalar("x" * 5000, 1.0)
        with pytest.raises(
            InputError, match=r"metrics\.json: cannot be written \(File too large\)"
        ):
            writer.write()
    assert steps_in(path) == [0]
    other = MetricsWriter(tmp_path / "other.json")
    with EventStorage() as storage, pytest.raises(InputError, match=r"other\.json: cannot be"):
        storage.put_scalar("x" * 5000, 1.0)
        other.write()
    assert names(tmp_path) == ["metrics.json"]


# ------------------------------------------------------------------ predictions


@pytest.fixture
def evaluator(tiny_config, tmp_path):
    """Of the drawn validation set, with a prediction for each of its images."""
    from svit_det.detection.datasets import register_datasets

    register_datasets(tiny_config())
    made = WholeCOCOEvaluator("discs_val", tasks=("bbox",), output_dir=str(tmp_path / "out"))
    made.reset()
    box = {"category_id": 0, "bbox": [1.0, 2.0, 9.0, 9.0], "score": 0.5}
    made._predictions = [
        {"image_id": image, "instances": [{"image_id": image, **box}]} for image in range(200, 204)
    ]
    return made


WRITTEN = ["coco_instances_results.json", "instances_predictions.pth"]


def test_predictions_appear_whole(evaluator, tmp_path):
    assert set(evaluator.evaluate()) == {"bbox"}
    assert names(tmp_path / "out") == WRITTEN
    assert len(json.loads((tmp_path / "out" / WRITTEN[0]).read_text())) == 4
    assert len(torch.load(tmp_path / "out" / WRITTEN[1], weights_only=True)) == 4


def test_a_full_disk_leaves_the_older_predictions(evaluator, tmp_path, request):
    evaluator.evaluate()
    before = {name: (tmp_path / "out" / name).read_bytes() for name in WRITTEN}
    evaluator._predictions *= 200
    request.getfixturevalue("small_files")
    with pytest.raises(InputError, match=r"out: predictions cannot be written \(File too large\)"):
        evaluator.evaluate()
    assert names(tmp_path / "out") == WRITTEN
    assert {name: (tmp_path / "out" / name).read_bytes() for name in WRITTEN} == before


def test_an_interrupted_evaluation_leaves_the_older_predictions(evaluator, tmp_path, monkeypatch):
    evaluator.evaluate()
    before = (tmp_path / "out" / WRITTEN[1]).read_bytes()

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(WholeCOCOEvaluator, "_eval_predictions", interrupted)
    evaluator._predictions *= 2
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate()
    assert names(tmp_path / "out") == WRITTEN
    assert (tmp_path / "out" / WRITTEN[1]).read_bytes() == before


# ------------------------------------------------------------------ the folder


def test_a_finished_folder_asks_for_a_word(tmp_path):
    folder = tmp_path / "run"
    check_folder(str(folder), resume=False, overwrite=False)
    assert names(folder) == []  # nothing is left of the question whether it can be written to
    (folder / "metrics.json").write_text("")
    check_folder(str(folder), resume=False, overwrite=False)
    (folder / "model_0000001.pth").write_text("")
    with pytest.raises(InputError, match=r"model_0000001\.pth.*--resume.*--overwrite"):
        check_folder(str(folder), resume=False, overwrite=False)
    for flag in ("resume", "overwrite", "evaluates"):
        words = {"resume": False, "overwrite": False, flag: True}
        check_folder(str(folder), **words)


def test_a_training_does_not_write_over_what_it_begins_from(tmp_path):
    weights = tmp_path / "run/model_final.pth"
    weights.parent.mkdir()
    weights.write_text("mine")
    (tmp_path / "link.pth").symlink_to(weights)
    anew = {"resume": False, "overwrite": True}
    without_checkpoint = {"resume": True, "overwrite": False}
    for path in (weights, tmp_path / "link.pth"):
        for words in (anew, without_checkpoint):
            with pytest.raises(InputError, match="the training would write over the file that it"):
                check_folder(str(weights.parent), **words, begins_from=str(path))
    check_folder(str(weights.parent), **anew, evaluates=True, begins_from=str(weights))
    check_folder(str(weights.parent), resume=True, overwrite=False)
    check_folder(str(tmp_path / "other"), **anew, begins_from=str(weights))
    check_folder(str(weights.parent), **anew)


@pytest.mark.parametrize("folder", ["", "a\0b", "no text \udcff", "n" * 300])
def test_what_is_no_folder(folder):
    with pytest.raises(InputError, match="OUTPUT_DIR"):
        check_folder(folder, resume=False, overwrite=False)


@pytest.mark.parametrize("name", run_files.WRITTEN)
@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.name),
    ],
    ids=["folder", "pipe", "device", "loop"],
)
def test_what_stands_where_a_run_has_a_file(tmp_path, name, make):
    """Opening a pipe would wait for ever, and a folder would fail after the training."""
    make(tmp_path / name)
    for flag in ("resume", "overwrite", "evaluates"):
        words = {"resume": False, "overwrite": False, flag: True}
        with pytest.raises(InputError, match=f"OUTPUT_DIR {tmp_path}: {name} is no file"):
            check_folder(str(tmp_path), **words)


def test_a_run_without_resume_into_a_finished_folder(refused, tiny_yaml, tmp_path):
    (tmp_path / "model_final.pth").write_text("the work of a week")
    arguments = ["--config-file", tiny_yaml, "OUTPUT_DIR", tmp_path]
    assert "begin anew with --overwrite" in refused("train_net.py", *arguments)
    assert names(tmp_path) == ["model_final.pth"]


def test_a_folder_in_which_a_training_goes_on(refused, tiny_yaml, tmp_path):
    """Refused before the sets are read; an evaluation comes as far as to its weights."""
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    arguments = ["--config-file", tiny_yaml, "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", "none.pth"]
    with only_training_in(tmp_path):
        for flag in ("--overwrite", "--resume"):
            said = refused("train_net.py", flag, *arguments, "DATASETS.TRAIN", "('none',)")
            assert f"OUTPUT_DIR {tmp_path}: another training is going on" in said
        assert "none.pth: no such file" in refused("train_net.py", "--eval-only", *arguments)
    assert names(tmp_path) == ["last_checkpoint", run_files.LOCK]
    assert "no data set 'none'" in refused(
        "train_net.py", "--overwrite", *arguments, "DATASETS.TRAIN", "('none',)"
    )


def test_a_training_keeps_its_folder(refused, tiny_yaml, tmp_path, monkeypatch):
    said = []
    arguments = ["--config-file", str(tiny_yaml), "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", ""]

    def start_another(main, args):
        said.append(refused("train_net.py", "--overwrite", *arguments))

    monkeypatch.setattr(train_net, "run_processes", start_another)
    train_net.run(train_net.build_parser().parse_args(arguments))
    assert len(said) == 1 and "another training is going on" in said[0]


def test_overwrite_forgets_the_older_run(tiny_config, tmp_path):
    old = ["last_checkpoint", "metrics.json", "model_0000001.pth", "model_final.pth"]
    late = "model_123456789.pth"
    mine = ["model_0000001_copy.pth", "model_000001.pth", "model_backup.pth", "notes.txt"]
    for name in [*old, late, *mine]:
        (tmp_path / name).write_text("old")
    weights = tmp_path / "model_final.pth"
    run_files.clear_folder(tiny_config("OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", weights))
    assert names(tmp_path) == sorted([*mine, "model_final.pth"])
    run_files.clear_folder(tiny_config("OUTPUT_DIR", tmp_path))
    assert names(tmp_path) == mine
    check_folder(str(tmp_path), resume=False, overwrite=False)
    own = str(tmp_path / "model_backup.pth")  # no training writes over it
    check_folder(str(tmp_path), resume=False, overwrite=False, begins_from=own)


def test_a_run_that_begins_replaces_the_older_config_and_results(tiny_config, tmp_path):
    for name in ("config.yaml", "results.json", "metrics.json"):
        (tmp_path / name).write_text("old")
    cfg = tiny_config("OUTPUT_DIR", tmp_path)
    run_files.begin_results(cfg)
    assert names(tmp_path) == ["config.yaml", "metrics.json"]
    assert (tmp_path / "config.yaml").read_text() == cfg.dump()


def test_an_evaluation_replaces_the_older_config_and_results(tiny_config, tmp_path, request):
    """Both or none of them."""
    for name in ("config.yaml", "results.json"):
        (tmp_path / name).write_text("old")
    cfg = tiny_config("OUTPUT_DIR", tmp_path)
    replace_results(tmp_path, {"bbox": {"AP": float("nan")}}, config=cfg.dump())
    assert (tmp_path / "config.yaml").read_text() == cfg.dump()
    assert json.loads((tmp_path / "results.json").read_text()) == {"bbox": {"AP": None}}
    request.getfixturevalue("small_files")
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="cannot be written"):
        replace_results(tmp_path, {"x": 5000 * "x"}, config="SEED: 9")
    assert names(tmp_path) == ["config.yaml", "results.json"]
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_only_the_disk_is_blamed_on_the_disk(tmp_path):
    said = r"^out: cannot be written \(No space left"
    with pytest.raises(InputError, match=said), said_about_the_disk("out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), said_about_the_disk("out"):
        Path(tmp_path / "nowhere").read_text()
