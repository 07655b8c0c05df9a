"""Trainings on generated images: the same after an interruption and in two processes; warm-ups."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svit_det.classification.config import default_config, load_config
from svit_det.classification.diary import Diary
from svit_det.classification.model import TokenClassifier
from svit_det.classification.processes import Processes
from svit_det.classification.recipe import (
    build_optimizer,
    build_schedule,
    frozen_at,
    policy_time,
    schedule_time,
)
from svit_det.classification.run_files import FINAL, LAST
from svit_det.classification.trainer import Trainer
from svit_det.classification.weights import load_weights
from svit_det.cli.train_classifier import main
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
HERE = Processes()
CPU = torch.device("cpu")


def trained(a_yaml, options):
    trainer = Trainer(load_config(a_yaml, options), HERE, CPU)
    return trainer, trainer.train()


def weights_of(folder):
    return torch.load(folder / FINAL, weights_only=True)["model"]


def test_a_small_classifier_learns_colours(a_yaml, small, tmp_path, capsys):
    options = small(
        SOLVER__BASE_LR=1e-2,
        SOLVER__RATE_BATCH=0,
        SOLVER__EPOCHS=12,
        SOLVER__EMA_DECAY=0.0,
        SOLVER__EVAL_EPOCHS=12,
        INPUT__REPEATS=1,
        INPUT__MIXUP=0.0,
        INPUT__CUTMIX=0.0,
        INPUT__RAND_AUGMENT='""',
        INPUT__COLOR_JITTER=0.0,
    )
    assert main(["--config-file", a_yaml, *options]) is None
    said = capsys.readouterr().out
    assert "top-1 100.00 %" in said
    run = tmp_path / "run"
    assert {"results.json", FINAL, LAST, "config.yaml", "log.txt"} <= {
        p.name for p in run.iterdir()
    }
    assert any(path.name.startswith("events.") for path in run.iterdir())
    again = [*options, "MODEL.WEIGHTS", str(run / FINAL)]
    assert main(["--config-file", a_yaml, "--eval-only", *again]) is None
    assert "top-1 100.00 %" in capsys.readouterr().out


@pytest.mark.parametrize("name", POLICY_REGISTRY.names())
def test_every_policy_goes_on_exactly_after_an_interruption(name, a_yaml, small, tmp_path):
    """Weights, averaged weights, statistics, thresholds: everything that is kept."""
    options = small(
        MODEL__TOKEN_POLICY__NAME=name,
        SOLVER__EMA_DECAY=0.5,
        SOLVER__BASE_LR=0.05,
        SOLVER__EVAL_EPOCHS=2,
    )
    whole, found = trained(a_yaml, options)
    stopped = tmp_path / "stopped"
    first = Trainer(load_config(a_yaml, [*options, "OUTPUT_DIR", str(stopped)]), HERE, CPU)
    with Diary(stopped, HERE) as diary:
        first._run_epoch(diary)
    first.epoch = 1
    first._save()
    second = Trainer(load_config(a_yaml, [*options, "OUTPUT_DIR", str(stopped)]), HERE, CPU)
    second.resume()
    assert second.train().top1 == found.top1
    for key, value in weights_of(tmp_path / "run").items():
        assert torch.equal(value, weights_of(stopped)[key]), key
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[key]), key


def test_a_resume_with_other_settings_is_refused(a_yaml, small):
    options = small(SOLVER__EPOCHS=1)
    trained(a_yaml, options)
    other = Trainer(load_config(a_yaml, [*options, "SOLVER.BASE_LR", "1e-3"]), HERE, CPU)
    said = r"last\.pth: a training with SOLVER\.BASE_LR 1e-05 cannot go on with 0\.001; set it back"
    with pytest.raises(InputError, match=said):
        other.resume()


def test_a_training_is_replaced_only_when_asked(a_yaml, small, tmp_path):
    options = small(SOLVER__EPOCHS=1)
    begin = ["--config-file", a_yaml]
    assert main([*begin, *options]) is None
    run = tmp_path / "run"
    before = (run / FINAL).read_bytes()
    said = main([*begin, *options, "SOLVER.SEED", "8"])
    assert said.startswith(f"OUTPUT_DIR {run}: holds a training already ({FINAL})")
    assert "--overwrite" in said and (run / FINAL).read_bytes() == before
    # A training that cannot begin removes nothing.
    assert main([*begin, "--overwrite", *options, "MODEL.NUM_CLASSES", "2"]) is not None
    assert (run / FINAL).read_bytes() == before
    own = main([*begin, "--overwrite", *options, "MODEL.WEIGHTS", str(run / FINAL)])
    assert own.startswith(f"MODEL.WEIGHTS {run / FINAL}: the training would write over the file")
    assert (run / FINAL).read_bytes() == before
    elsewhere = (run / FINAL).rename(tmp_path / "parent.pth")
    assert main([*begin, "--overwrite", *options, "MODEL.WEIGHTS", str(elsewhere)]) is None
    assert (run / FINAL).read_bytes() != before == elsewhere.read_bytes()


def test_reading_in_other_processes_changes_nothing(a_yaml, small):
    """The draws of an image do not depend on where it is read."""
    batches = []
    for workers in (0, 2):
        trainer = Trainer(load_config(a_yaml, small(DATA__NUM_WORKERS=workers)), HERE, CPU)
        trainer.loader.sampler.set_epoch(1)
        batches.append([images for images, _, _ in trainer.loader])
    assert len(batches[0]) == len(batches[1]) > 0
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one, two)


# These policies sample nothing while they train. The others draw in each process for itself.
DRAWS_NOTHING = ["ATS", "AViT", "AttentionProbe", "Dense", "EViT", "EvoViT"]


@pytest.mark.parametrize("name", POLICY_REGISTRY.names())
def test_which_policies_draw_nothing(name, classifier, make_policy, images):
    """So that the next test runs over all of them."""
    model, batch = classifier(make_policy(name)).train(), images(2)
    before = torch.get_rng_state()
    model(batch)
    assert torch.equal(torch.get_rng_state(), before) == (name in DRAWS_NOTHING)


@pytest.mark.long
@pytest.mark.parametrize("name", DRAWS_NOTHING)
def test_two_processes_come_to_what_one_comes_to(name, a_yaml, small, tmp_path):
    """Policies that draw nothing, without mixing, which happens inside each process."""
    options = small(
        MODEL__TOKEN_POLICY__NAME=name,
        SOLVER__EMA_DECAY=0.0,
        INPUT__MIXUP=0.0,
        INPUT__CUTMIX=0.0,
        SOLVER__BASE_LR=1e-3,
        SOLVER__RATE_BATCH=0,
    )
    trained(a_yaml, options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = tmp_path / "both"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    command += [str(ROOT / "tools/train_classifier.py"), "--config-file", a_yaml, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "OUTPUT_DIR", str(both)], check=True, env=environment)
    one = weights_of(tmp_path / "run")
    for key, value in weights_of(both).items():
        # Where a gradient is rounding alone, as that of a key's bias, AdamW divides it by its own
        # size: a few entries may differ, all together by no hundredth of a step of 1e-3.
        off = (value.double() - one[key].double()).abs()
        if key.endswith("attn.qkv.bias"):
            off = torch.cat([off[:24], off[48:]])
        assert off.mean() < 1e-5, key


def test_mixed_precision_trains(a_yaml, small):
    trainer, _ = trained(a_yaml, small(SOLVER__AMP=True, MODEL__TOKEN_POLICY__NAME="SViT"))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.net.parameters())


# ------------------------------------------------------------------ the recipe, by hand


def solver(**changed):
    node = default_config().SOLVER
    for key, value in changed.items():
        setattr(node, key, value)
    return node


def test_rate_and_warm_up_go_by_the_epoch(classifier, make_policy):
    """Batch 1,024 at 5e-4 per 512: 1e-3, after five epochs from 1e-6; then half of a cosine."""
    given = solver(
        BASE_LR=5e-4, MIN_LR=1e-5, WARMUP_EPOCHS=5, EPOCHS=300, BATCH_SIZE=1024, WEIGHT_DECAY=0.05
    )
    optimizer = build_optimizer(given, classifier())
    schedule = build_schedule(given, optimizer, 1251)

    def rate(epoch, step=0):
        schedule.step(schedule_time(given, epoch * 1251 + step, 1251))
        return optimizer.param_groups[0]["lr"]

    assert rate(0) == rate(0, step=1250) == pytest.approx(1e-6)
    assert rate(1) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 5)
    assert rate(150) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate(299) == pytest.approx(1e-5, rel=0.01)


def test_predictors_learn_at_their_own_rate_and_the_trunk_stands_still_for_five_epochs(
    classifier, make_policy
):
    policy = make_policy("DynamicViT", predictor_rate=100.0, frozen_steps=5 * 1251)
    model = classifier(policy)
    given = solver(BASE_LR=1e-5, RATE_BATCH=0, POLICY_STEPS_PER_EPOCH=1251, EPOCHS=30)
    rates = {}
    optimizer = build_optimizer(given, model)
    build_schedule(given, optimizer, 10).step(0)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        rates |= {names[id(p)]: group["lr"] for p in group["params"]}
    assert rates["trunk.policy.predictors.3.fc1.weight"] == pytest.approx(1e-3)
    assert rates["head.weight"] == rates["trunk.blocks.0.mlp.fc1.weight"] == pytest.approx(1e-5)
    # Ten steps an epoch here, 1,251 on the recipe's clock.
    frozen = [frozen_at(given, model, policy_time(given, step, 10), 37530) for step in (0, 49, 50)]
    assert frozen[0] == frozen[1] and "head" in frozen[0] and "trunk.cls_token" in frozen[0]
    assert frozen[2] == []


def test_a_warm_up_of_keep_rates_ends_after_its_epochs(make_policy):
    """EViT from nothing: every token for 10 epochs, .7 from epoch 110 on, half way at 60."""
    given = solver(POLICY_STEPS_PER_EPOCH=1251)
    policy = make_policy("EViT", warmup_start=10 * 1251, warmup_steps=100 * 1251).train()

    def rates(epoch):
        policy.set_step(policy_time(given, epoch * 7, 7))
        return policy.keep_rates()[0]

    assert rates(9) == 1
    assert rates(60) == pytest.approx(0.85)
    assert rates(110) == pytest.approx(0.7)


# ------------------------------------------------------------------ weights and teachers


def test_a_policy_and_a_head_for_other_classes_may_start_fresh_in_training(
    classifier, make_policy, tmp_path
):
    dense = classifier(num_classes=5)
    path = tmp_path / "dense.pth"
    torch.save({"model": dense.state_dict()}, path)
    model = classifier(make_policy("SViT"), num_classes=7)
    load_weights(model, str(path), for_training=True)
    assert torch.equal(model.trunk.cls_token, dense.trunk.cls_token)
    with pytest.raises(InputError, match="no weights of SViT in it"):
        load_weights(model, str(path), for_training=False)
    with pytest.raises(InputError, match="another number of classes than 7"):
        load_weights(classifier(num_classes=7), str(path), for_training=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["head.bias", "trunk.policy.budget.kept_share"])
def test_weights_that_are_not_finite_are_not_loaded(classifier, make_policy, tmp_path, name, value):
    weights = classifier(make_policy("SViT")).state_dict()
    weights[name][0] = value
    torch.save({"model": weights}, tmp_path / "bad.pth")
    for model in (classifier(make_policy("SViT")), classifier()):  # also a part that is left out
        before = model.head.weight.clone()
        with pytest.raises(InputError) as refused:
            load_weights(model, str(tmp_path / "bad.pth"), for_training=True)
        assert str(refused.value) == (
            f"{tmp_path}/bad.pth: holds numbers that are not finite in {name}."
        )
        assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(torch.bool, "true or false"), (torch.int64, "whole numbers"), (torch.cfloat, "complex")],
)
def test_weights_of_another_kind_are_not_cast(classifier, tmp_path, kind, said):
    weights = classifier().state_dict()
    weights["head.weight"] = weights["head.weight"].to(kind)
    torch.save({"model": weights}, tmp_path / "bad.pth")
    with pytest.raises(InputError) as refused:
        load_weights(classifier(), str(tmp_path / "bad.pth"), for_training=True)
    assert str(refused.value).startswith(f"{tmp_path}/bad.pth: head.weight holds {said}")
    assert str(refused.value).endswith("; nothing is cast, so store the model's kind.")


def test_half_precision_is_of_the_same_kind(classifier, tmp_path):
    weights = {name: value.half() for name, value in classifier().state_dict().items()}
    torch.save({"model": weights}, tmp_path / "half.pth")
    load_weights(classifier(), str(tmp_path / "half.pth"), for_training=False)


def test_a_teacher_of_another_width_is_refused(a_yaml, small, tiny_trunk, tmp_path):
    wide = TokenClassifier(trunk=tiny_trunk(class_token=True, embed_dim=48), num_classes=3)
    torch.save({"model": wide.state_dict()}, tmp_path / "wide.pth")
    options = small(SOLVER__LOGIT_DISTILL_WEIGHT=0.5, SOLVER__TEACHER=tmp_path / "wide.pth")
    said = main(["--config-file", a_yaml, *options])
    assert said.startswith("The teacher does not fit the model it teaches.")
    assert "another width or depth" in said and "\n" not in said


def test_distillation_needs_a_teacher(a_yaml, small):
    said = main(["--config-file", a_yaml, *small(SOLVER__LOGIT_DISTILL_WEIGHT=0.5)])
    assert said.startswith("SOLVER.TEACHER and MODEL.WEIGHTS are empty")


def test_a_teacher_that_nothing_learns_from_is_refused(a_yaml, small, classifier, tmp_path):
    torch.save({"model": classifier(num_classes=3).state_dict()}, tmp_path / "dense.pth")
    options = small(SOLVER__TEACHER=tmp_path / "dense.pth")
    for name in ("Dense", "DynamicViT"):
        said = main(["--config-file", a_yaml, *options, "MODEL.TOKEN_POLICY.NAME", name])
        assert said.startswith(f"SOLVER.TEACHER {tmp_path}/dense.pth: nothing learns from a ")
        assert "DISTILL_WEIGHT" in said and "\n" not in said
    assert not (tmp_path / "run").exists()
