"""What is wrong with a folder, an image or a batch is said in one sentence."""

import errno
import logging
import os
import shutil

import pytest
import torch
from PIL import Image

from svit_det.classification.config import load_config
from svit_det.classification.images import seeded, train_transform
from svit_det.classification.log import RunLog
from svit_det.classification.processes import Processes
from svit_det.classification.trainer import Trainer
from svit_det.cli.train_classifier import main
from svit_det.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def folder(generated_images, tmp_path):
    """A copy of the generated images that a test may spoil."""
    return shutil.copytree(generated_images, tmp_path / "images")


def refusal(a_yaml, options):
    said = main(["--config-file", a_yaml, *options])
    assert said and "\n" not in said
    return said


def test_a_folder_that_is_not_there(a_yaml, small, tmp_path):
    said = refusal(a_yaml, small(DATA__ROOT=tmp_path / "nowhere"))
    assert "no folder train in it" in said


def test_images_that_are_not_sorted_into_classes(a_yaml, small, folder):
    for path in list((folder / "train").iterdir()):
        shutil.rmtree(path)
    assert "no class folders in it" in refusal(a_yaml, small(DATA__ROOT=folder))


def test_a_link_that_leads_to_itself_is_no_class(a_yaml, small, folder):
    (folder / "train/purple").symlink_to("purple")
    assert main(["--config-file", a_yaml, *small(DATA__ROOT=folder, SOLVER__EPOCHS=1)]) is None


def test_a_name_that_no_folder_can_have(a_yaml, small):
    assert "no folder train in it" in refusal(a_yaml, small(DATA__ROOT="x" * 300))


def test_one_class_only(a_yaml, small, folder):
    shutil.rmtree(folder / "train/red")
    shutil.rmtree(folder / "train/blue")
    assert "only one class, green" in refusal(a_yaml, small(DATA__ROOT=folder))


def test_labels_beyond_the_head(a_yaml, small):
    said = refusal(a_yaml, small(MODEL__NUM_CLASSES=2))
    assert "3 classes, so that labels go up to 2, but the head has 2" in said


def test_a_class_that_the_other_split_lacks(a_yaml, small, folder):
    (folder / "val/red").rename(folder / "val/pink")
    assert "the class pink is in one only" in refusal(a_yaml, small(DATA__ROOT=folder))


def test_a_class_without_images(a_yaml, small, folder):
    for path in (folder / "val/red").iterdir():
        path.unlink()
    assert "red: no images in this class folder" in refusal(a_yaml, small(DATA__ROOT=folder))


def test_an_odd_batch_with_mixup(a_yaml, small):
    assert "mix pairs; take an even number" in refusal(a_yaml, small(SOLVER__BATCH_SIZE=1))


def test_fewer_images_than_a_batch(a_yaml, small):
    said = refusal(a_yaml, small(SOLVER__BATCH_SIZE=100))
    assert "shows 24 images, fewer than a batch of 100" in said


def test_a_frozen_part_that_is_not_there(a_yaml, small):
    said = refusal(a_yaml, small(SOLVER__FROZEN="['trunk.poss']"))
    assert said == "SOLVER.FROZEN: no parameter begins with trunk.poss."
    said = refusal(a_yaml, small(SOLVER__FROZEN="['trunk', 'norm', 'head']"))
    assert said == "SOLVER.FROZEN: nothing is left to train; remove a part."


def test_a_size_that_does_not_divide(a_yaml, small):
    assert "INPUT.SIZE: 17 pixels do not divide" in refusal(a_yaml, small(INPUT__SIZE=17))


def test_an_unknown_key_and_a_wrong_value(a_yaml, small):
    assert "the nearest is 'SOLVER.EPOCHS'" in refusal(a_yaml, [*small(), "SOLVER.EPOCH", "3"])
    assert "SOLVER.EMA_DECAY: 2.0 must lie in" in refusal(a_yaml, small(SOLVER__EMA_DECAY=2.0))


ODD_WORDS = ["augmix-m5", "rand-x5", "rand-n2.5", "randy-m9", "rand-m-5", "rand-m9-", "rand-mnan"]
ODD_WORDS += ["rand-m", "rand-m99", "rand-n0", "rand-p5", "rand-tx", "rand-m9-mstdnan", "rand-inc2"]


@pytest.mark.parametrize("name", ["train", "train/green", "val/red"])
def test_a_folder_that_may_not_be_read(a_yaml, small, folder, monkeypatch, name):
    scandir = os.scandir

    def refuses(path):
        if path == folder / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    said = refusal(a_yaml, small(DATA__ROOT=folder))
    assert said == f"{folder / name}: cannot be read (Permission denied)."


@pytest.mark.parametrize("word", ODD_WORDS)
def test_a_word_that_is_none_of_rand_augment(a_yaml, small, word):
    said = refusal(a_yaml, small(INPUT__RAND_AUGMENT=word))
    assert said.startswith(f"INPUT.RAND_AUGMENT: '{word}' is no word of timm's")


def test_an_image_of_which_no_bit_is_kept(a_yaml, small):
    """RandAugment at its full strength: DeiT's recipe draws it once in a few hundred images."""
    given = load_config(a_yaml, small(INPUT__RAND_AUGMENT="rand-m10-inc1-n9")).INPUT
    transform, picture = train_transform(given), Image.new("RGB", (16, 16), "white")
    for seed in range(20):
        with seeded(seed):
            assert transform(picture).shape == (3, 16, 16)
    ops = [each for part in transform.transforms for each in getattr(part, "ops", ())]
    keep = next(each for each in ops if each.name == "PosterizeIncreasing")
    keep.prob = 1.0
    assert keep(picture).getextrema() == ((0, 0),) * 3
    keep.magnitude = 5
    assert keep(picture).getextrema() == ((192, 192),) * 3


def test_a_key_that_the_policy_does_not_use(a_yaml, small):
    said = refusal(a_yaml, [*small(), "MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7]"])
    assert said.startswith(
        "On the command line: MODEL.TOKEN_POLICY.KEEP_RATIOS is set, but Dense does not use it: "
        "remove it, or choose a policy that does ("
    )
    users = said.rpartition("(")[2].removesuffix(").").split(", ")
    assert {"EViT", "SViT"} <= set(users) and not {"Dense", "AViT"} & set(users)


def test_names_of_unreadable_images_are_only_shown(a_yaml, small, folder):
    name = os.fsdecode(b"a\x1b[2J\xff.png")
    for split in ("train", "val"):
        (folder / split / "red/0.png").rename(folder / split / "red" / name).write_bytes(b"none")
    options = small(DATA__ROOT=folder, INPUT__REPEATS=1, SOLVER__EPOCHS=1)
    assert main(["--config-file", a_yaml, *options]) is None
    lines = (folder.parent / "run/log.txt").read_text(encoding="utf-8").splitlines()
    for then in ("; another image takes its place", " and is left out."):
        assert sum(rf"red/a\x1b[2J\udcff.png cannot be read{then}" in each for each in lines) == 1


def test_a_line_that_is_no_text_is_in_the_log(tmp_path):
    log = RunLog(Processes())
    logging.getLogger("a").info("b\udcff ü")
    log.keep_in(tmp_path)
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("b\\udcff ü\n")


def test_unreadable_images_are_named_counted_and_replaced(a_yaml, small, folder, caplog):
    (folder / "train/red/0.png").write_bytes(b"no picture")
    (folder / "val/red/1.png").write_bytes(b"no picture")
    cfg = load_config(a_yaml, small(DATA__ROOT=folder, INPUT__REPEATS=1))
    trainer = Trainer(cfg, Processes(), CPU)
    found = trainer.train()
    said = [record.getMessage() for record in caplog.records]
    assert (
        sum("train/red/0.png cannot be read; another image takes its place (1" in s for s in said)
        == 1
    )
    assert any(s.endswith("val/red/1.png cannot be read and is left out.") for s in said)
    assert (found.images, found.unreadable) == (11, 1)
    assert len(trainer.unreadable) == 1


def test_not_one_readable_image(a_yaml, small, folder):
    for path in (folder / "val").glob("*/*.png"):
        path.write_bytes(b"no picture")
    cfg = load_config(a_yaml, small(DATA__ROOT=folder))
    with pytest.raises(InputError, match="val: not one of its images can be read"):
        Trainer(cfg, Processes(), CPU).evaluate()


def test_a_broken_checkpoint_to_resume_from(a_yaml, small, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pth").write_bytes(b"nothing")
    said = main(["--config-file", a_yaml, "--resume", *small()])
    assert "last.pth: not a checkpoint to resume from: not a file of plain weights" in said


# ------------------------------------------------------------------ processes and exports


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', no number from 1 to 100000"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2', no number from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "29500"}, "MASTER_ADDR is not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1", "MASTER_ADDR": "no.such.invalid"},
            "MASTER_ADDR is 'no.such.invalid', where no machine is",
        ),
    ],
)
def test_processes_that_cannot_join(a_yaml, small, monkeypatch, variables, said):
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = main(["--config-file", a_yaml, *small()])
    assert answer.startswith(f"the environment variable {said}") and "torchrun" in answer


def test_an_export_replaces_nothing_in_silence(a_yaml, small, tmp_path):
    there = tmp_path / "w.safetensors"
    there.write_text("mine")
    words = ["--config-file", a_yaml, "--eval-only", "--export", str(there)]
    said = main([*words, *small(MODEL__WEIGHTS="none.pth")])
    assert said == f"--export {there}: is there already; give --overwrite."
    said = main([*words, "--overwrite", *small(MODEL__WEIGHTS=there)])
    assert said.startswith(f"--export {there}: is one of the files that are read")
    assert there.read_text() == "mine"
