"""Checkpoints are written whole, or the old ones stay; and they say what they are."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage
from safetensors import safe_open
from torch import nn

from svit_det import __version__
from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.description import describe_run
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION, read_checkpoint, write_weights

PROJECT = Path(__file__).resolve().parents[2]


def linear(value):
    """A model whose weights are all `value`; 40 kB of them."""
    model = nn.Linear(100, 100)
    nn.init.constant_(model.weight, value)
    return model


def names(folder):
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------ whole or not at all


def test_a_checkpoint_and_its_name(tmp_path):
    checkpointer = TokenCheckpointer(linear(1.0), str(tmp_path))
    checkpointer.save("model_0000009", iteration=9)
    assert names(tmp_path) == ["last_checkpoint", "model_0000009.pth"]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
    loaded = torch.load(tmp_path / "model_0000009.pth", weights_only=True)
    assert loaded["iteration"] == 9 and DESCRIPTION not in loaded
    model = linear(0.0)
    TokenCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert (model.weight == 1).all()


def test_nothing_is_saved_without_a_folder_or_in_other_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TokenCheckpointer(linear(1.0)).save("model_final")
    TokenCheckpointer(linear(1.0), str(tmp_path), save_to_disk=False).save("model_final")
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys, torch
from svit_det.detection.checkpoint import TokenCheckpointer

def save(content, file):
    import io
    whole = io.BytesIO()
    write(content, whole)
    half = whole.getvalue()[: whole.tell() // 2]
    if isinstance(file, (str, os.PathLike)):
        file = open(file, "wb")
    file.write(half)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write, torch.save = torch.save, save
TokenCheckpointer(torch.nn.Linear(100, 100), sys.argv[1]).save("model_final", iteration=20)
"""


def test_killed_while_it_rewrites_the_last_checkpoint(tmp_path):
    TokenCheckpointer(linear(7.0), str(tmp_path)).save("model_final", iteration=10)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    model = linear(0.0)
    loaded = TokenCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert loaded["iteration"] == 10
    assert (model.weight == 7).all()


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(tmp_path, small_files):
    small = nn.Linear(1, 1)
    checkpointer = TokenCheckpointer(small, str(tmp_path))
    checkpointer.save("model_final", iteration=10)
    checkpointer.model = linear(1.0)
    for name in ("model_final", "model_0000019"):
        with pytest.raises(InputError, match=rf"{name}\.pth: cannot be written \(File too large\)"):
            checkpointer.save(name, iteration=19)
    assert names(tmp_path) == ["last_checkpoint", "model_final.pth"]
    again = TokenCheckpointer(nn.Linear(1, 1), str(tmp_path))
    assert again.resume_or_load("", resume=True)["iteration"] == 10
    assert torch.equal(again.model.weight, small.weight)


@pytest.mark.parametrize("name", ["model_final.pth", "last_checkpoint"])
def test_a_folder_in_the_way(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be written"):
        TokenCheckpointer(linear(1.0), str(tmp_path)).save("model_final")
    assert not [each for each in names(tmp_path) if each.endswith(".partial")]


@pytest.mark.parametrize(
    ("content", "said"),
    [("model_0000123.pth", "names .*, which is no file"), ("", "names no file of its folder")],
)
def test_a_last_checkpoint_that_names_no_file(tmp_path, content, said):
    (tmp_path / "last_checkpoint").write_text(content)
    with pytest.raises(InputError, match=rf"last_checkpoint: {said}"):
        TokenCheckpointer(linear(1.0), str(tmp_path)).resume_or_load("other.pth", resume=True)


# ------------------------------------------------------------------ what it says of itself


def test_a_run_describes_itself(tiny_config):
    cfg = tiny_config()
    prepare_datasets(cfg, training=True)
    DatasetCatalog.get("discs_train")  # as the loader does; the names are known from then on
    said = describe_run(cfg)
    assert said["version"] == __version__
    assert said["policy"] == "SViT"
    assert said["train_sets"] == ["discs_train"]
    assert said["classes"] == ["red", "blue"] and said["category_ids"] == [1, 2]
    assert yaml.safe_load(said["config"])["MODEL"]["VIT"]["EMBED_DIM"] == 32
    assert not [key for key in said if key.startswith("kept_share")]  # nothing was measured


def test_sets_that_nobody_registered_have_no_classes(tiny_config):
    for options in ((), ("DATASETS.TRAIN", "()")):
        assert "classes" not in describe_run(tiny_config(*options))


def test_kept_shares_are_those_of_the_last_twenty_steps(tiny_config):
    with EventStorage() as storage:
        for step in range(50):
            storage.put_scalar("token_usage/block_02", 0.25 if step % 2 else 0.75)
            storage.put_scalar("token_usage/block_01", float(step < 30))
            storage.put_scalar("token_usage/all", 60.0)  # an evaluation's, in percent
            storage.step()
        said = describe_run(tiny_config())
    assert said["kept_share_per_block"] == {"block_01": 0.0, "block_02": 0.5}
    assert "training" in said["kept_share_source"] and "20" in said["kept_share_source"]


def test_a_training_leaves_it_in_every_checkpoint(tiny_config, tmp_path):
    options = ("OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 2)
    cfg = tiny_config(*options, "SOLVER.CHECKPOINT_PERIOD", 1)
    prepare_datasets(cfg, training=True)
    TokenTrainer(cfg).train()
    for name in ("model_0000000.pth", "model_final.pth"):
        said = torch.load(tmp_path / name, weights_only=True)[DESCRIPTION]
        assert said["classes"] == ["red", "blue"] and said["policy"] == "SViT"
        assert yaml.safe_load(said["config"])["OUTPUT_DIR"] == str(tmp_path)
        assert said["kept_share_per_block"].keys() == {"block_01", "block_02"}
        assert all(0 < share < 1 for share in said["kept_share_per_block"].values())

    trained = read_checkpoint(str(tmp_path / "model_final.pth"))
    write_weights(trained["model"], tmp_path / "w.safetensors", description=trained[DESCRIPTION])
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()[DESCRIPTION]) == said
    model = TokenTrainer.build_model(cfg)
    assert TokenCheckpointer(model).load(str(tmp_path / "w.safetensors"))[DESCRIPTION] == said


@pytest.mark.parametrize("name", ["dense", "svit", "adapter_svit"])
def test_weights_that_ship_load_as_before(name):
    path = PROJECT / f"configs/demo/{name}.safetensors"
    cfg = load_config(str(path.with_suffix(".yaml")), ["MODEL.DEVICE", "cpu"])
    model = TokenTrainer.build_model(cfg)
    TokenCheckpointer(model).load(str(path))
    with safe_open(path, "pt") as file:
        for key, value in model.state_dict().items():
            assert torch.equal(value, file.get_tensor(key).to(value.dtype)), key
