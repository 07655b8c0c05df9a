"""Every way of running images of different lengths gives what packed rows give."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from svit_det.benchmark.arms import settle
from svit_det.benchmark.throughput import speed_of_batches
from svit_det.benchmark.timing import Timings
from svit_det.benchmark.unequal import WAYS, run_in
from svit_det.classification.config import load_config
from svit_det.classification.model import TokenClassifier
from svit_det.errors import InputError
from svit_det.policies import TrunkShape, build_policy
from svit_det.vit import build_trunk

SIZES = {"embed_dim": 32, "depth": 12, "num_heads": 2}


def classifier(name):
    torch.manual_seed(3)
    policy = build_policy(name, shape=TrunkShape(**SIZES))
    trunk = build_trunk(policy=policy, class_token=True, patch_size=4, **SIZES)
    settle(trunk)
    return TokenClassifier(trunk=trunk, num_classes=5).eval()


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_the_same_logits_and_tokens(way):
    model, images = classifier("SViT"), torch.randn(3, 3, 32, 32)
    outputs, record = model(images)
    counts = torch.stack([block.selection.keep.sum(dim=1) for block in record.blocks])
    assert (counts != counts[:, :1]).any(), "all images keep equally many tokens"
    found = run_in(way, model)(images)
    if way == "one_by_one":
        logits = torch.cat([each["logits"] for each, _ in found])
        kept = torch.stack(
            [
                torch.cat([one.blocks[layer].selection.keep for _, one in found])
                for layer in range(12)
            ]
        )
    else:
        logits = found[0]["logits"]
        kept = torch.stack([block.selection.keep for block in found[1].blocks])
    torch.testing.assert_close(logits, outputs["logits"], rtol=0, atol=1e-5)
    assert torch.equal(kept, torch.stack([block.selection.keep for block in record.blocks]))


@torch.no_grad()
def test_nested_images_without_any_row_stay_as_they_are():
    from svit_det.benchmark.unequal import run_nested

    block = classifier("SViT").trunk.block(0)
    rows = torch.randn(7, 32)
    some = run_nested(block, rows, [3, 0, 4])
    assert torch.equal(some, run_nested(block, rows, [3, 4]))
    assert run_nested(block, rows[:0], [0, 0]).shape == (0, 32)


def test_nested_is_refused_where_a_policy_looks_inside_the_block():
    with pytest.raises(InputError, match=r"EViT .* 'nested'"):
        run_in("nested", classifier("EViT"))


def test_speeds_are_of_whole_batches():
    # Two batches of 4 images, three calls each: 1 s each, and 1, 2 and 3 s.
    timings = Timings({"a": [1.0, 1.0, 1.0, 2.0, 1.0, 3.0]})
    found = speed_of_batches(timings, 4, 2)["a"]
    assert found["mean"] == pytest.approx(3.0)  # (4 + 2) / 2
    assert found["std"] == pytest.approx(2**0.5)


YAML = """
MODEL:
  NUM_CLASSES: 5
  VIT: {EMBED_DIM: 32, DEPTH: 12, NUM_HEADS: 2, PATCH_SIZE: 4, PRETRAIN_GRID: [4, 4]}
  TOKEN_POLICY: {NAME: SViT}
  DEVICE: cpu
INPUT: {SIZE: 32}
"""


def test_the_tool_measures_a_classifier(tmp_path, capsys):
    from svit_det.cli.benchmark_classifier import main

    config, output = tmp_path / "svit.yaml", tmp_path / "out"
    config.write_text(YAML)
    start = ["--config-file", str(config), "--output", str(output), "--threads", "1"]
    small = ["--batch-sizes", "1", "3", "--batches", "2", "--repeats", "2"]
    assert main([*start, *small, "--plot"]) is None
    found = json.loads((output / "results.json").read_text())
    assert found["policy"] == "SViT" and len(found["throughput"]) == 2
    row = found["throughput"][1]
    assert row["batch_size"] == 3 and row["token_grid"] == [8, 8]
    assert set(row["images_per_second"]) == {"dense", *WAYS}
    assert all(len(each) == 4 for each in row["raw_seconds_per_batch"].values())
    printed = capsys.readouterr().out
    assert all(way in printed for way in WAYS)
    assert (output / "classifier_throughput_64_tokens.png").stat().st_size > 5000
    for wrong, said in (
        (["--batch-sizes", "0"], "--batch-sizes 0 must lie in [1, 1e6]."),
        (["--plot", "--batch-sizes", "2"], "--plot draws over batch sizes"),
        (["--weights", "no.pth"], "no.pth"),
        (["--image-folder", str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert said in main([*start, "--overwrite", *wrong])


def test_batches_of_pictures_are_random_and_the_same_in_every_run(tmp_path, capsys):
    """Four classes, black to white, of eight pictures each."""
    from svit_det.cli.benchmark_classifier import batches_of, build_parser

    config = tmp_path / "svit.yaml"
    config.write_text(YAML)
    cfg = load_config(str(config))
    for shade in range(4):
        (tmp_path / f"set/{shade}").mkdir(parents=True)
        for number in range(8):
            pixels = np.full((32, 32, 3), 80 * shade + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"set/{shade}/{number}.png")
    args = build_parser().parse_args(["--image-folder", str(tmp_path / "set"), "--batches", "4"])
    batches = batches_of(cfg, args, 8)
    shades = [[round(float(image[0, 0, 0]), 4) for image in batch] for batch in batches]
    assert len({shade for batch in shades for shade in batch}) == 32  # every picture, once
    assert all(max(batch) - min(batch) > 2 for batch in shades)  # of more than one class
    assert all(a.equal(b) for a, b in zip(batches, batches_of(cfg, args, 8), strict=True))
    assert "repeat" not in capsys.readouterr().err
    repeated = torch.cat(batches_of(cfg, args, 9))[:, 0, 0, 0]
    assert len(repeated) == 36 and len(repeated.unique()) == 32
    assert "4 batches of 9 take 36 pictures, and the folder has 32" in capsys.readouterr().err
