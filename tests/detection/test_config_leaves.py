"""configs/: leaves say which bases and policy, and where they write; the rest is in the bases."""

from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg

from svit_det.detection import (
    add_svit_config,
    get_weights_file,
    load_config,
    read_trained,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSIFICATION = {"imagenet", "digits", "photographs"}
LEAVES = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "base" and not CLASSIFICATION & {*path.parts}
)
TOP = [path for path in LEAVES if path.parent == CONFIGS]
# Words of a name that the dense parent has too.
KEPT = ("plain", "t", "s", "cascade", "retinanet")


def named(path):
    return path.relative_to(CONFIGS).as_posix().removesuffix(".yaml")


def plainly(path):
    """As any detectron2 program reads it: no code of ours but the keys."""
    cfg = get_cfg()
    add_svit_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("path", LEAVES, ids=named)
def test_the_output_follows_from_the_name(path):
    folder = path.parent.name
    prefix = f"{folder}_" if folder in ("demo", "compare", "custom") else ""
    assert f"output/{prefix}{path.stem}" == plainly(path).OUTPUT_DIR


@pytest.mark.parametrize("path", [each for each in TOP if "dense" not in each.stem], ids=named)
def test_the_parent_follows_from_the_name(path):
    """Of a fine-tuning: the dense model of the same network, size and heads."""
    words = [word for word in path.stem.split("_") if word in KEPT]
    at = words.index("plain") + 1 if "plain" in words else 0
    parent = "_".join([*words[:at], "dense", *words[at:]])
    assert f"output/{parent}/model_final.pth" == plainly(path).MODEL.WEIGHTS
    assert f"output/{parent}" == plainly(CONFIGS / f"{parent}.yaml").OUTPUT_DIR


@pytest.mark.parametrize("path", [each for each in TOP if "dense" in each.stem], ids=named)
def test_a_dense_model_begins_from_the_deit_of_its_size(path):
    """So that a training for COCO without such a file says so, and does not begin from nothing."""
    size = "small" if "s" in path.stem.split("_") else "tiny"
    assert f"weights/deit_{size}.pth" == plainly(path).MODEL.WEIGHTS


@pytest.mark.parametrize("path", [each for each in LEAVES if "ablation" in each.parts], ids=named)
def test_an_ablation_has_the_parent_of_what_it_changes(path):
    assert plainly(path).MODEL.WEIGHTS == "output/plain_dense_t/model_final.pth"


@pytest.mark.parametrize("path", LEAVES, ids=named)
def test_a_plain_program_reads_what_ours_read(path):
    ours = load_config(str(path), ["MODEL.DEVICE", "cpu"])
    other = plainly(path)
    other.MODEL.DEVICE = "cpu"
    assert ours.dump() == other.dump()


@pytest.mark.parametrize("path", TOP, ids=named)
def test_a_leaf_is_three_lines(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 3
    content = yaml.safe_load("\n".join(lines))
    assert {"_BASE_", "OUTPUT_DIR"} <= set(content) <= {"_BASE_", "OUTPUT_DIR", "MODEL"}
    assert set(content.get("MODEL", {})) <= {"TOKEN_POLICY", "WEIGHTS"}


@pytest.mark.parametrize("name", ["demo/dense", "demo/svit", "demo/adapter_svit"])
def test_the_weights_that_ship_are_named_by_their_config_and_carry_it(name, tmp_path, monkeypatch):
    """In any folder, and whether one names the yaml or the weights."""
    monkeypatch.chdir(tmp_path)
    by_config = read_trained(config_file=name)
    by_weights = read_trained(get_weights_file(name))
    assert by_config.cfg.MODEL.WEIGHTS == by_weights.cfg.MODEL.WEIGHTS == get_weights_file(name)
    assert by_config.class_names == by_weights.class_names == ["nucleus"]
    for trained in (by_config, by_weights):
        trained.cfg.TEST.WEIGHTS = ""  # what a training leaves names no other weights
    one, other = (yaml.safe_load(each.cfg.dump()) for each in (by_config, by_weights))
    assert one == other
