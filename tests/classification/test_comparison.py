"""The comparison of classifiers: resumable, refusing other settings; its table."""

import json
import re
from pathlib import Path

import pytest

from svit_det.classification import comparison
from svit_det.classification.build import build_classifier
from svit_det.classification.comparison import (
    Trainings,
    arms_of,
    comparison_table,
    results_of,
    train_all,
)
from svit_det.classification.config import load_config
from svit_det.classification.load import read_trained
from svit_det.classification.weights import load_weights
from svit_det.cli.compare_classifiers import build_parser, main
from svit_det.config.same_settings import refuse_other_training
from svit_det.errors import InputError
from svit_det.files import log_of_one, make_folder
from svit_det.policies import POLICY_REGISTRY
from svit_det.shipped import get_weights_file

ROOT = Path(__file__).resolve().parents[2]
# Settings of an arm that are not those of the others, with the reason in its yaml.
APART = {
    ("digits", "DynamicViT"): {"LOGIT_DISTILL_WEIGHT"},
    ("digits", "SPViT"): {"LOGIT_DISTILL_WEIGHT"},
    ("photographs", "DynamicViT"): {"LOGIT_DISTILL_WEIGHT"},
    ("photographs", "SPViT"): {"LOGIT_DISTILL_WEIGHT"},
    ("photographs", "AViT"): {"BASE_LR", "MIN_LR", "FROZEN"},
}


@pytest.mark.parametrize("images", ["digits", "photographs"])
def test_every_policy_is_an_arm_with_the_same_recipe(images):
    configs = [load_config(str(path)) for path in arms_of([f"{images}/compare"]).values()]
    names = sorted(cfg.MODEL.TOKEN_POLICY.NAME for cfg in configs)
    # A probe only looks; it prunes nothing that could be compared.
    assert names == [name for name in POLICY_REGISTRY.names() if name != "AttentionProbe"]
    dense = next(cfg for cfg in configs if cfg.MODEL.TOKEN_POLICY.NAME == "Dense")
    for cfg in configs:
        apart = {key for key, value in cfg.SOLVER.items() if value != dense.SOLVER[key]}
        assert apart == APART.get((images, cfg.MODEL.TOKEN_POLICY.NAME), set())
        assert (cfg.INPUT, cfg.DATA, cfg.TEST) == (dense.INPUT, dense.DATA, dense.TEST)
        assert (cfg.MODEL.WEIGHTS, cfg.MODEL.VIT) == (dense.MODEL.WEIGHTS, dense.MODEL.VIT)
    assert len({cfg.OUTPUT_DIR for cfg in configs}) == len(configs)


def test_every_command_of_the_page_has_a_folder_of_its_own():
    """Another comparison's folder is refused, because its arms have the same names."""
    page = (ROOT / "docs/classification.md").read_text()
    commands = re.findall(r"^svit-det (compare-classifiers.*)$", page, flags=re.MULTILINE)
    folders = [build_parser().parse_args(each.split()[1:]).output for each in commands]
    assert len(folders) == len(set(folders)) == 3


@pytest.mark.parametrize("arm", ["dynamic_vit", "spvit"])
def test_the_comment_on_a_rate_says_what_the_rate_is(arm):
    path = ROOT / f"configs/digits/compare/{arm}.yaml"
    rate = re.search(r"PREDICTOR_RATE: ([\d.]+)  # ([\d.]+);", path.read_text())
    base = load_config(str(path)).SOLVER.BASE_LR
    assert float(rate.group(1)) * base == pytest.approx(float(rate.group(2)))


def test_arms_by_yaml_by_folder_and_by_the_names_that_ship(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").touch()
    assert arms_of(["."]) == {"one": Path("one.yaml"), "two": Path("two.yaml")}
    shipped = arms_of(["photographs/compare"])
    assert shipped == arms_of(["configs/photographs/compare"]) and len(shipped) == 11
    assert arms_of(["photographs/compare/svit", "one.yaml"]) == {
        "svit": shipped["svit"],
        "one": Path("one.yaml"),
    }
    with pytest.raises(InputError, match="the nearest is 'photographs/compare/svit'"):
        arms_of(["photographs/compare/svi"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: there is no yaml in this folder"):
        arms_of(["empty"])


def test_a_parent_that_is_not_there_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = main(["--policies", "photographs/compare", "--output", "compared"])
    assert said.endswith(
        "photographs/compare/a_vit.yaml: MODEL.WEIGHTS output/photographs/dense/model_final.pth: "
        "no such file; train the parent first."
    )
    assert not (tmp_path / "compared").exists()


def test_a_shipped_parent_is_found_from_any_folder(tmp_path, monkeypatch):
    """The arms of digits begin from weights that ship; the training reads them by this name."""
    monkeypatch.chdir(tmp_path)
    arms = arms_of(["digits/compare"])
    begun = []
    monkeypatch.setattr(comparison, "_train", lambda _, arm, *rest: begun.append(arm))
    train_all(Trainings(arms, [1], [], tmp_path / "out"), program=["never"])
    assert begun == list(arms)
    cfg = load_config(str(arms["dense"]), ["MODEL.DEVICE", "cpu"])
    model = build_classifier(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS, for_training=True)
    _, shipped = read_trained(get_weights_file("digits/dense"), ["MODEL.DEVICE", "cpu"])
    assert model.head.weight.equal(shipped.head.weight)
    with pytest.raises(InputError, match=r"No weights 'digits/dens' ships.*'digits/dense'"):
        load_weights(model, "digits/dens", for_training=True)


@pytest.mark.parametrize("images", ["digits", "photographs"])
def test_no_arm_writes_to_its_parents_folder(images):
    parent = load_config(str(ROOT / f"configs/{images}/dense.yaml")).OUTPUT_DIR
    for path in arms_of([f"{images}/compare"]).values():
        assert parent != load_config(str(path)).OUTPUT_DIR


def test_a_comparison_goes_on_where_it_was_cut_short(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arms = []
    for name in ("Dense", "EViT"):
        path = tmp_path / f"{name.lower()}.yaml"
        path.write_text(f"MODEL:\n  TOKEN_POLICY:\n    NAME: {name}\n")
        arms.append(str(path))
    options = small(SOLVER__EPOCHS=1)
    output = tmp_path / "compared"
    argv = ["--policies", *arms, "--seeds", "7", "--output", str(output)]
    assert main([*argv, "--", *options]) is None
    table = capsys.readouterr().out
    assert "dense" in table and "evit" in table
    written = json.loads((output / "results.json").read_text())["policies"]
    assert written["evit"]["runs"]["7"]["images"] == 12
    assert (output / "top1_over_cost.png").is_file() and (output / "kept_tokens.png").is_file()
    before = (output / "evit/seed_7/model_final.pth").stat().st_mtime_ns
    assert main([*argv, "--", *options]) is None
    assert (output / "evit/seed_7/model_final.pth").stat().st_mtime_ns == before
    said = main([*argv, "--", *options, "SOLVER.BASE_LR", "1e-3"])
    assert "holds a training with other settings" in said


def test_a_training_of_another_comparison_keeps_its_folder(small, a_yaml, tmp_path):
    """The other comparison was killed, and its training still writes."""
    trainings = Trainings(arms_of([a_yaml]), [1], small(), tmp_path / "out")
    log = make_folder(trainings.folder("empty", 1)) / "output.txt"
    with (
        log_of_one(log),
        pytest.raises(InputError, match=f"^{log}: a training of another comparison still writes"),
    ):
        train_all(trainings, program=["never"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory), and the training has ended; remove "),
        ('{"top1": 9', "cannot be read (not a readable JSON file), and"),
        ("[1]", "cannot be read (not a JSON object), and"),
        ('{"images": 9}', "has no 'unreadable'; remove "),
    ],
)
def test_an_ended_training_without_its_results(a_yaml, tmp_path, content, said):
    trainings = Trainings({"one": Path(a_yaml)}, [1], [], tmp_path)
    path = make_folder(trainings.folder("one", 1)) / "results.json"
    if content:
        path.write_text(content)
    with pytest.raises(InputError) as refusal:
        results_of(trainings)
    assert str(refusal.value).startswith(f"{path}: {said}")
    assert f"remove {path.with_name('trained_with.json')}, and the next" in str(refusal.value)


def test_the_table_tells_means_and_spreads():
    def run(top1):
        return {"top1": top1, "top5": 99.0, "gmacs": 0.07, "tokens_per_block": [196.0, 98.0]}

    results = {
        "svit": {"runs": {"1": run(90.0), "2": run(92.0)}},
        "dense": {"runs": {"1": run(95.0), "2": run(95.0)}},
    }
    lines = comparison_table(results, "dense").splitlines()
    assert lines[2].split()[:2] == ["dense", "95.0"]
    assert "91.0 (90.0-92.0)" in lines[3] and "-4.0" in lines[3] and "147" in lines[3]


def test_two_arms_of_one_name_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    paths = [tmp_path / "x.yaml", tmp_path / "a/x.yaml"]
    said = main(["--policies", *map(str, paths)])
    assert "another arm is called x too" in said


def test_a_seed_twice_is_refused():
    assert "names one twice" in main(["--seeds", "1", "1"])


@pytest.mark.parametrize("name", ["sparse_start", "dense", "finetune"])
def test_the_parents_yamls_can_be_read(name):
    cfg = load_config(str(ROOT / f"configs/digits/{name}.yaml"))
    assert cfg.MODEL.NUM_CLASSES == 10 and cfg.MODEL.VIT.EMBED_DIM <= 192
    assert (cfg.INPUT.SIZE // cfg.MODEL.VIT.PATCH_SIZE) ** 2 == 196


def test_a_moved_folder_holds_the_same_training(tmp_path):
    """The place of a training's folder is none of its settings; every other key is."""
    record = tmp_path / "trained_with.json"
    before, now = "OUTPUT_DIR: here\nSEED: {}", "OUTPUT_DIR: there\nSEED: 1"
    record.write_text(json.dumps({"config": before.format(1)}))
    refuse_other_training(record, now)
    record.write_text(json.dumps({"config": before.format(2)}))
    with pytest.raises(InputError, match=r"\(SEED 2, not 1\): name another --output"):
        refuse_other_training(record, now)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"config": 3}', b'{"config": "a: ["}', b"\xff"])
def test_a_broken_record_is_named(tmp_path, content):
    (tmp_path / "trained_with.json").write_bytes(content)
    with pytest.raises(InputError, match=r"trained_with\.json"):
        refuse_other_training(tmp_path / "trained_with.json", "SEED: 1")
