"""Several policies in one run: the same weights, each against the dense model it is built from."""

import pytest
import torch

from svit_det.benchmark.arms import trunk_of
from svit_det.cli.benchmark_models import build_arms, read_configs
from svit_det.policies import POLICY_REGISTRY
from svit_det.policies.dense import Dense

NAMES = ("SViT", "EViT", "Random")


@pytest.fixture
def arms(tiny_arguments):
    """Factory: models by arm, and pairs, for policies of these names."""

    @torch.no_grad()
    def make(*names):
        args = tiny_arguments("--policies", *names)
        return build_arms(read_configs(args), args, whole=False)

    return make


def test_arms_share_every_weight_but_the_policys(arms):
    models, pairs = arms(*NAMES)
    assert list(models) == ["dense", "dense_class_token", *NAMES]
    assert [(pair.dense, pair.pruned) for pair in pairs] == [
        ("dense", "SViT"),
        ("dense_class_token", "EViT"),
        ("dense", "Random"),
    ]
    weights = {
        arm: {name: p for name, p in model.named_parameters() if ".policy." not in name}
        for arm, model in models.items()
    }
    for arm, own in weights.items():
        has_token = trunk_of(models[arm]).cls_token is not None
        assert has_token == (arm in ("dense_class_token", "EViT"))
        for name, parameter in own.items():
            assert parameter is weights["EViT"][name]
    kinds = {arm: type(trunk_of(model).policy).__name__ for arm, model in models.items()}
    assert kinds["dense"] == kinds["dense_class_token"] == Dense.__name__
    assert all(kinds[name] == name for name in NAMES)


def test_there_are_only_the_dense_models_that_are_needed(arms):
    assert list(arms("EViT")[0]) == ["dense_class_token", "EViT"]
    assert list(arms("SViT")[0]) == ["dense", "SViT"]


def test_every_policy_of_the_registry_in_one_run(tiny):
    names = [name for name in POLICY_REGISTRY.names() if name != Dense.__name__]
    ran = tiny(
        "--parts", "blocks", "--tokens", "4", "6", "--batch-sizes", "2", "--policies", *names
    )
    rows = ran.results["rows"]
    assert [row["policy"] for row in rows] == names == ran.results["policy"]
    for row in rows:
        kind = POLICY_REGISTRY.get(row["policy"])
        assert set(row["raw_seconds_per_batch"]) == {"dense", "pruned"}
        assert row["bound"] > 0 and len(row["kept_tokens_per_block"]) == 12
        assert (row["dense_arm"] == "dense_class_token") or not kind.needs_class_token
    # One dense model, timed once, serves all.
    times = {row["dense_arm"]: row["raw_seconds_per_batch"]["dense"] for row in rows}
    assert all(row["raw_seconds_per_batch"]["dense"] == times[row["dense_arm"]] for row in rows)
    (header,) = [line for line in ran.printed.splitlines() if line.startswith("part")]
    assert "policy" in header
    assert "Dense has a class token beside ATS" in ran.printed


def test_stages_decisions_and_grids_of_several(tiny):
    ran = tiny(
        *("--parts", "blocks", "backbone", "--grids", "2x2", "4x4", "--batch-sizes", "1"),
        *("--policies", "SViT", "ATS", "--stages", "--decisions"),
    )
    places = [(row["part"], row["token_grid"], row["policy"]) for row in ran.results["rows"]]
    assert places == [
        (part, [side, side], policy)
        for part in ("blocks", "backbone")
        for side in (2, 4)
        for policy in ("SViT", "ATS")
    ]
    for row in ran.results["rows"]:
        details = {"blocks": "decision_seconds_per_batch", "backbone": "stage_seconds_per_batch"}
        assert details[row["part"]] in row
    assert "Where the backbone under ATS of 4 x 4 tokens spends its time" in ran.printed


def test_memory_of_an_arm_by_its_name(tiny):
    """The process that measures it is asked for the arm, the batch and the pixels."""
    ran = tiny("--policies", "ATS", "--memory-of", "blocks", "ATS", "2", "32x48")
    assert ran.problem is None and int(ran.printed.split()[-1]) >= 0


@pytest.mark.parametrize(
    "words",
    [
        ("nothing", "ATS", "2", "32x48"),
        ("blocks", "nothing", "2", "32x48"),
        ("blocks", "ATS", "x", "32x48"),
        ("blocks", "ATS", "2", "32"),
    ],
)
def test_memory_of_nothing(tiny, words):
    ran = tiny("--policies", "ATS", "--memory-of", *words)
    assert ran.problem.startswith(f"--memory-of {' '.join(words)}: there is no such part, arm,")
