"""Figure 2: the command at toy size on generated pictures, and its drawing by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.weights import describe
from svit_det.cli.attention_figure import Watched, main, origin_of, shown
from svit_det.cli.train_classifier import main as train
from svit_det.errors import InputError
from svit_det.tokens import TokenGrid
from svit_det.visualization.attention_figure import (
    AttentionPanel,
    draw_attention_figure,
    paint_block,
)
from svit_det.weights.files import DESCRIPTION, write_checkpoint

QUICK = {"SOLVER__EPOCHS": 1, "INPUT__REPEATS": 1, "SOLVER__EMA_DECAY": 0.0}


@pytest.fixture
def trained(a_yaml, small, tmp_path):
    """Factory: the file of a small model trained for an epoch, `trained(name, KEY=VALUE)`."""

    def make(name, **changed):
        folder = tmp_path / name
        options = small(**QUICK, **changed, OUTPUT_DIR=folder)
        assert train(["--config-file", a_yaml, *options]) is None
        return str(folder / "model_final.pth")

    return make


@pytest.fixture
def pictures(generated_images):
    """Two generated pictures."""
    return [str(generated_images / "val" / name / "0.png") for name in ("blue", "red")]


def draw(dense, pruned, pictures, output):
    return main(["--dense", dense, "--pruned", pruned, *pictures, "--output", str(output)])


def test_a_sheet_for_each_picture(trained, pictures, tmp_path):
    dense = trained("dense")
    pruned = trained("svit", MODEL__WEIGHTS=dense, MODEL__TOKEN_POLICY__NAME="SViT")
    output = tmp_path / "sheets"
    assert draw(dense, pruned, pictures, output) is None
    assert sorted(path.name for path in output.iterdir()) == [
        "0.png",
        "0_2.png",
        "attention_figure.json",
    ]
    told = json.loads((output / "attention_figure.json").read_text())
    assert told["command"].startswith("python tools/attention_figure.py --dense")
    assert dense in told["caption"] and pruned in told["caption"]
    assert f"trained on {pictures[0].split('/')[-4]}/train" in told["caption"]
    for path in pictures:
        each = told["pictures"][path]
        assert each["dense"]["kept_per_block"] == [16] * 12
        assert each["dense"]["answer"] in ("blue", "green", "red")
        kept, seen = (
            each["pruned"][key] for key in ("kept_per_block", "attention_on_patches_per_block")
        )
        assert kept[:3] == [16] * 3 and len(kept) == 12
        assert all(0 <= share <= 1 for share in seen)
        assert all((share > 0) == (count > 0) for share, count in zip(seen, kept, strict=True))
        with Image.open(output / each["sheet"]) as sheet:
            assert 1900 < sheet.width <= 2048 and 1000 < sheet.height < 1400


def test_two_models_that_do_not_belong_together(trained, pictures, tmp_path):
    dense = trained("dense")
    assert "give the dense model" in draw(
        trained("evit", MODEL__TOKEN_POLICY__NAME="EViT"), dense, pictures, tmp_path / "x"
    )
    smaller = trained("smaller", INPUT__SIZE=12)
    assert "sees pictures with INPUT.SIZE 12" in draw(dense, smaller, pictures, tmp_path / "x")
    assert "no such file" in draw(dense, "nowhere.pth", pictures, tmp_path / "x")
    assert "no such image or folder" in draw(dense, dense, ["nowhere.png"], tmp_path / "x")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (5, "holds no list of names under 'classes'"),
        (["a"], "names 1 classes in its description, where its config has 3"),
    ],
)
def test_no_usable_names_of_classes(a_yaml, small, tmp_path, classes, said):
    cfg = load_config(a_yaml, small())
    path = tmp_path / "odd.pth"
    write_checkpoint(
        {
            "model": build_classifier(cfg).state_dict(),
            DESCRIPTION: describe(cfg) | {"classes": classes},
        },
        path,
    )
    with pytest.raises(InputError, match=f"^{path}: {said}"):
        Watched.read(str(path), None)


def test_no_sheet_replaces_what_is_there_or_what_is_read(pictures, tmp_path):
    """Said before the models are read."""
    (tmp_path / "0.png").write_text("mine")
    assert "0.png is there already" in draw("gone.pth", "gone.pth", pictures, tmp_path)
    assert (tmp_path / "0.png").read_text() == "mine"
    own = tmp_path / "own"
    own.mkdir()
    picture = shutil.copy(pictures[0], own / "0.png")
    before = (own / "0.png").read_bytes()
    said = draw("gone.pth", "gone.pth", ["--overwrite", str(picture)], own)
    assert "0.png is one of the files that are read" in said
    assert (own / "0.png").read_bytes() == before


def test_weights_say_what_they_go_back_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = "MODEL:\n  TOKEN_POLICY: {}\n  WEIGHTS: %s\n"
    for name, said in {
        "start.pth": {"origin": "ViT of our own"},
        "dense.pth": {"config": config % "start.pth"},
        "svit.pth": {"config": config % "dense.pth"},
        "circle.pth": {"config": config % "circle.pth"},
    }.items():
        write_checkpoint({"model": {"w": torch.zeros(1)}, "svit_det": said}, tmp_path / name)
    assert origin_of("svit.pth") == "ViT of our own"
    assert origin_of("circle.pth") == "circle.pth"
    assert origin_of("gone/deit.pth") == "deit.pth"
    assert origin_of("") == ""


def test_the_picture_is_the_part_that_the_network_sees(a_yaml, small, tmp_path):
    given = load_config(a_yaml, small(INPUT__SIZE=8, INPUT__CROP_SHARE=1.0)).INPUT
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (200, 100, 50)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    seen = shown(given, tmp_path / "wide.png")
    assert seen.shape == (560, 560, 3)
    assert np.abs(seen[20:-20, 30:-30].astype(int) - (200, 100, 50)).max() <= 12  # bicubic


GRID = TokenGrid.of_tokens(2, 2)


def test_the_colours_of_a_block_by_hand():
    """A token that is no key is pale whatever its weight; the brightest key is yellow."""
    grey = np.full((4, 4, 1), 128.0)
    weights = np.array([[0.0, 0.2], [0.4, 0.0]])
    keys = np.array([[True, True], [True, False]])
    tile = paint_block(grey, weights, keys, GRID).astype(int)
    assert (tile[2:, 2:] > 220).all()  # skipped
    dark, middle, bright = tile[0, 0], tile[0, 2], tile[2, 0]
    assert bright[0] > 200 and bright[1] > 180 and bright[2] < 90
    assert dark[1] < middle[1] < bright[1] and dark[2] > 100
    assert (tile == tile.repeat(2, 0)[::2]).all()


def test_a_block_without_keys_is_pale_all_over():
    nobody = np.zeros((2, 2), bool)
    tile = paint_block(np.full((4, 4, 1), 128.0), np.zeros((2, 2)), nobody, GRID)
    assert (tile > 220).all()


def test_panels_must_fit():
    maps = np.ones((3, 2, 2))
    with pytest.raises(ValueError, match=r"must be \(L, H, W\)"):
        AttentionPanel(title="", attention=maps, keys=maps[0] > 0, class_token=np.ones(3, bool))
    with pytest.raises(ValueError, match="is not a class token for each block"):
        AttentionPanel(title="", attention=maps, keys=maps > 0, class_token=np.ones(2, bool))


def test_a_long_caption_keeps_the_sheet_within_its_width():
    maps = np.ones((12, 2, 2))
    panel = AttentionPanel(
        title="a" * 500, attention=maps, keys=maps > 0, class_token=np.ones(12, bool)
    )
    image = np.full((8, 8, 3), 90, np.uint8)
    short, long = (
        draw_attention_figure(image, [panel, panel], grid=GRID, caption=words)
        for words in ("short", "word " * 300)
    )
    assert short.shape[1] == long.shape[1] <= 2048 and long.shape[0] > short.shape[0]
