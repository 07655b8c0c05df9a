"""Yaml files that explode, repeat themselves or are no yaml: refused at once, in one sentence."""

import os

import pytest

from svit_det.config import yaml_file
from svit_det.config.yaml_file import DEEPEST, MOST_BYTES, read_yaml
from svit_det.detection import load_config
from svit_det.errors import InputError

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))


def said_about(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as refusal:
        load_config(str(path))
    said = str(refusal.value)
    assert said.startswith(f"{path}: ") and "\n" not in said and len(said) < 700, said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("# only a remark\n", "is empty"),
        ("---\n", "keys with values"),
        ("SEED: 1\nSEED: 2\n", "SEED stands twice, in lines 1 and 2"),
        ("MODEL:\n  VIT:\n    DEPTH: 3\n  VIT:\n    DEPTH: 4\n", "MODEL.VIT stands twice"),
        ("MODEL: {VIT: {DEPTH: 3, DEPTH: 4}}\n", "MODEL.VIT.DEPTH stands twice"),
        (BOMB, "aliases written out"),
        (f"MODEL:\n  PIXEL_MEAN: {BOMB.splitlines()[0][4:]}\n", "MODEL.PIXEL_MEAN"),
        (CHAIN, f"aliases nest more than {DEEPEST} deep"),
        ("SEED: &a [*a]\n", "SEED, line 1: an alias leads back to itself"),
        ("MODEL: &m {VIT: *m}\n", "MODEL.VIT, line 1: an alias leads back"),
        ("SEED: " + "[" * 5000, f"nested more than {DEEPEST} deep"),
        ("SEED: " + "[" * 200 + "]" * 200, f"nested more than {DEEPEST} deep"),
        ("".join(" " * i + f"k{i}:\n" for i in range(200)), f"nested more than {DEEPEST} deep"),
        ("{" * 200, f"nested more than {DEEPEST} deep"),
        ("SEED: '" + "[" * 5000 + "'", "SEED"),
        ("SEED: 1\n".encode("utf-16"), "not UTF-8 text (byte 0); save the file as UTF-8"),
        ("OUTPUT_DIR: größe\n".encode("latin-1"), "not UTF-8 text"),
        (b"SEED: 1\0\n", "not a readable yaml config"),
        ("SEED: 1\n---\nSEED: 2\n", "not a readable yaml config"),
        ("SEED: [1\n", "not a readable yaml config"),
        ("SEED: !!int word\n", "SEED, line 1: 'word' is not a whole number, as its tag says"),
        ("SEED: !!int ''\n", "'' is not a whole number"),
        ("SEED: !!float abc\n", "'abc' is not a number"),
        ("SEED: !!bool maybe\n", "'maybe' is not true or false"),
        ("SEED: !!null word\n", "'word' is not null"),
        ("SEED: !!bool [1]\n", "not a readable yaml config"),
        (
            "INPUT: {MIN_SIZE_TEST: 10:40}\n",
            "MIN_SIZE_TEST, line 1: '10:40' is read to the base 60",
        ),
        ("SOLVER: {BASE_LR: 1:30.5}\n", "'1:30.5' is read to the base 60"),
        ("INPUT: {MIN_SIZE_TEST: 0640}\n", "'0640' is read to the base 8; write a plain number"),
        ('_BASE_: "\\ud800.yaml"\n', "no file has a character that no name can hold"),
        ('_BASE_: "a\\0b"\n', "no file has a null byte in its name"),
        ("SEED: " + "9" * 5000, "not a readable yaml config"),
        ("1: 2\n", "line 1: '1' is no name of a key"),
        ("on: 2\n", "'on' is no name of a key"),
        ("? [a, b]\n: 2\n", "a list is no name of a key"),
        ("OUTPUT_DIR: 2020-01-01\n", "OUTPUT_DIR, line 1: 2020-01-01 is read as a date"),
        ("OUTPUT_DIR: !!binary aGVsbG8=\n", "OUTPUT_DIR, line 1: a config holds plain values"),
        ("DATASETS: {TRAIN: !!set {a, b}}\n", "DATASETS.TRAIN, line 1: a config holds plain"),
        ("SEED: !unknown 3\n", "SEED, line 1: a config holds plain values only"),
        ("_BASE_: 3\n", "_BASE_ names a file or a list of files, not 3"),
        ("_BASE_: {a: b}\n", "_BASE_ names a file or a list of files"),
        ("_BASE_: [wrong.yaml, [a]]\n", "_BASE_ names a file or a list of files"),
        ("_BASE_: ''\n", "is a folder; name a yaml file"),
        ("model:\n  vit:\n    depth: 3\n", "keys are in capitals: 'MODEL'"),
        ("MODEL:\n  VIT:\n    depth: 3\n", "keys are in capitals: 'MODEL.VIT.DEPTH'"),
        ("MODEL.VIT.DEPTH: 3\n", "must be written as a key inside nodes: 'MODEL:'"),
        ("MODEL: 3\n", "MODEL holds keys, not '3'"),
        ("MODEL:\n", "MODEL holds keys, not 'None'"),
        ("SEED:\n  A: 3\n", "SEED holds a value, not keys such as 'A'"),
        ("SEED: {}\n", "SEED holds a value, not keys"),
        ("KEY" * 300 + ": 3\n", "the nearest is"),
        ("DEPTH: 3\n", "the nearest is 'MODEL.VIT.DEPTH'"),
        ("S\u0415ED: 3\n", "no config key 'S\\u0415ED'; the nearest is 'SEED'"),
        ("_base_: x.yaml\n", "bases are named by _BASE_, at the top of a file"),
        ("MODEL: {_BASE_: x.yaml}\n", "bases are named by _BASE_, at the top of a file"),
        ("DATA: {ROOT: x}\n", "no config key 'DATA' here; configs of image classifiers"),
        ("DATASETS: {TEST: a}\n", "not of the type of the value it replaces, (); give a list"),
        ("OUTPUT_DIR: '2024'\n", "needs two pairs of quotes, as in \"'2024'\""),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[1e9]]}}\n", "SIZES: 1000000000.0 must lie in"),
        ("SOLVER: {NO_WEIGHT_DECAY: ['']}\n", "a list of words holds an empty one; remove it"),
        ("MODEL:\n  TOKEN_POLICY:\n    LAYERS: [3.0, 6.0]\n", "LAYERS"),
    ],
    ids=lambda each: repr(each)[:30],
)
def test_refused_in_one_sentence(tmp_path, content, said):
    path = tmp_path / "wrong.yaml"
    elsewhere = "_BASE_: ''" in str(content) or '_BASE_: "' in str(content)
    answer = None if elsewhere else said_about(path, content)
    if answer is None:
        path.write_text(content)
        with pytest.raises(InputError) as refusal:
            load_config(str(path))
        answer = str(refusal.value)
    assert said in answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MODEL:\n  TOKEN_POLICY:\n    LAYERS: [3.0, 6.0]\n", "LAYERS: 3.0 is not a whole number"),
        ("MODEL:\n  TOKEN_POLICY:\n    WRAPPERS: [[Monotone]]\n", "WRAPPERS: ['Monotone'] is not"),
        ("MODEL:\n  TOKEN_POLICY:\n    KEEP_RATIOS: [[0.7]]\n", "KEEP_RATIOS: [0.7] is not"),
        ("MODEL:\n  VIT:\n    MLP_RATIO: -1.0\n", "MODEL.VIT.MLP_RATIO: -1.0 must lie"),
        ("MODEL:\n  VIT:\n    PRETRAIN_GRID: [1.5, 2.5]\n", "PRETRAIN_GRID: 1.5 is not a whole"),
        ("MODEL:\n  SIMPLE_PYRAMID:\n    NORM: abc\n", "NORM: no 'abc'; choose one of"),
        ("MODEL:\n  SIMPLE_PYRAMID:\n    OUT_CHANNELS: 0\n", "OUT_CHANNELS: 0 must lie"),
        ("MODEL:\n  ADAPTER:\n    INTERACTIONS: [0, 11]\n", "INTERACTIONS: 0 is not a list"),
        ("MODEL:\n  ADAPTER:\n    INTERACTIONS: [[0, 1, 2]]\n", "must have 2 entries, not 3"),
        ("DATASETS:\n  COCO_FORMAT: null\n", "DATASETS.COCO_FORMAT: None is not a list"),
        ("DATASETS:\n  COCO_FORMAT: [a, b, c]\n", "DATASETS.COCO_FORMAT: 'a' is not a list"),
        ("DATASETS:\n  TRAIN: [[a]]\n", "DATASETS.TRAIN: ['a'] is not a word"),
        ("OUTPUT_DIR: null\n", "OUTPUT_DIR: None is not a word"),
    ],
)
def test_wrong_types_inside_lists(tmp_path, text, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"_BASE_: {os.path.abspath('configs/base/mask_rcnn.yaml')}\n{text}")
    with pytest.raises(InputError) as refusal:
        load_config(str(path))
    assert said in str(refusal.value)


def test_a_file_too_long_and_a_list_too_long(tmp_path, monkeypatch):
    assert "bytes cannot be meant" in said_about(tmp_path / "a.yaml", " " * (MOST_BYTES + 1))
    numbers = f"SOLVER:\n  STEPS: [{', '.join(['1'] * 1500)}]\n"
    said = said_about(tmp_path / "b.yaml", numbers)
    assert "SOLVER.STEPS: (1, 1, 1, 1, 1, 1, 1, 1, ...) must have 0 to 1000 entries" in said
    monkeypatch.setattr(yaml_file, "MOST_VALUES", 1000)
    said = said_about(tmp_path / "b.yaml", numbers)
    assert said.startswith("SOLVER.STEPS, line 2: more than 1,000 values")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "no ordinary file"), ("", "a folder"), ("none", "No such file")):
        with pytest.raises(InputError, match=said):
            load_config(str(tmp_path / name))
    with pytest.raises(InputError, match="null byte"):
        load_config(str(tmp_path / "a\0b"))


def test_bases_in_a_ring_and_a_tower(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\n")
    with pytest.raises(InputError, match="leads back to itself"):
        load_config(str(tmp_path / "a.yaml"))
    for floor in range(DEEPEST + 5):
        (tmp_path / f"{floor}.yaml").write_text(f"_BASE_: {floor + 1}.yaml\n")
    with pytest.raises(InputError, match="bases stand above each other"):
        load_config(str(tmp_path / "0.yaml"))


def test_bases_that_double_from_file_to_file(tmp_path):
    """Thirty files would be read a thousand million times."""
    for floor in range(25):
        again = f"{floor + 1}.yaml"
        (tmp_path / f"{floor}.yaml").write_text(f"_BASE_: [{again}, {again}]\n")
    (tmp_path / "25.yaml").write_text("SEED: 1\n")
    with pytest.raises(InputError, match=r"0\.yaml: its _BASE_ leads to more than 100 files"):
        read_yaml(str(tmp_path / "0.yaml"))
    assert read_yaml(str(tmp_path / "22.yaml")) == {"SEED": 1}


def test_a_whole_number_may_stand_for_any(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("OUTPUT_DIR: \"'2024'\"\nMODEL: {VIT: {MLP_RATIO: 100}, DEVICE: cpu}\n")
    cfg = load_config(str(path), ["SOLVER.GAMMA", "2", "SOLVER.WEIGHT_DECAY", "0", "SEED", "7"])
    got = cfg.MODEL.VIT.MLP_RATIO, cfg.SOLVER.GAMMA, cfg.SOLVER.WEIGHT_DECAY
    assert got == (100.0, 2.0, 0.0) and {type(each) for each in got} == {float}
    assert (cfg.SEED, cfg.OUTPUT_DIR) == (7, "2024")


def test_numbers_that_read_as_written(tmp_path):
    text = "a: 0\nb: 1_000\nc: 0x10\nd: '0640'\ne: -3.5\nf: 0.5\ng: !!float 3\nh: !!str 010\n"
    (tmp_path / "own.yaml").write_text(text)
    wanted = {"a": 0, "b": 1000, "c": 16, "d": "0640", "e": -3.5, "f": 0.5, "g": 3.0, "h": "010"}
    assert read_yaml(str(tmp_path / "own.yaml")) == wanted


def test_good_yaml_is_read_as_before(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 1\nSOLVER: &s {STEPS: [1, 2], GAMMA: 0.5}\n")
    (tmp_path / "other.yaml").write_text("SOLVER: {GAMMA: 0.25}\n")
    (tmp_path / "own.yaml").write_bytes(
        b"\xef\xbb\xbf_BASE_: [base.yaml, other.yaml]\nx: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n"
    )
    assert read_yaml(str(tmp_path / "own.yaml")) == {
        "SEED": 1,
        "SOLVER": {"STEPS": [1, 2], "GAMMA": 0.25},
        "x": {"a": 1, "b": 2},
        "y": {"a": 1, "b": 3},
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["MODEL.VIT", "{'DEPTH': 3}"], "MODEL.VIT holds keys; name one of them"),
        (["SEED", "[" * 10_000], "SEED"),
        (["SEED", "(" * 10_000], "command line"),
        (["SEED", "1" * 30_000], "SEED: a value of 30,000 characters"),
        (["model.vit.depth", "3"], "keys are in capitals: 'MODEL.VIT.DEPTH'"),
        (["SEED", "nan"], "SEED"),
        (["SOLVER.BASE_LR", "1e999"], "SOLVER.BASE_LR: inf must lie in"),
        (["SOLVER.STEPS", "{1, 2}"], "SOLVER.STEPS"),
        (["SEED", "1", "cpu"], "'cpu' stands alone"),
        (["SEED=3"], "write SEED 3, without the sign ="),
        (["VIS_PERIOD", "0", "SEED=3", "x"], "write SEED 3, without the sign ="),
    ],
)
def test_overrides(tiny_yaml, options, said):
    with pytest.raises(InputError) as refusal:
        load_config(str(tiny_yaml), options)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
