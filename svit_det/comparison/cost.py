"""Equal cost: the budget at which a trained arm spends a given number of multiply-adds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from svit_det.comparison.arms import Arm, Recipe, options_of, run_folder
from svit_det.comparison.loading import KEEP_RATIO, load
from svit_det.detection.datasets import pictures_of_set
from svit_det.detection.predictor import TokenPredictor
from svit_det.errors import InputError
from svit_det.files import make_folder, open_log
from svit_det.images import read_image, spread_out
from svit_det.policies.base import TokenPolicy
from svit_det.results import write_json
from svit_det.vit import TokenNet, find_token_net
from svit_det.vit.flops import trunk_macs

CLOSE = 0.01
"""An arm whose cost differs from the wanted cost by at most this share stays as it was trained."""
STEPS = 9
"""Number of halvings of the interval of budgets, down to about a thousandth of the tokens."""
NUM_IMAGES = 16


@torch.no_grad()
def trunk_share(net: TokenNet, images: Sequence[torch.Tensor]) -> float:
    """The trunk's cost on (1, 3, height, width) images, over the cost with every token kept."""
    passes = [trunk_macs(net.trunk, net(image)[1]) for image in images]
    return sum(each.total.item() for each in passes) / sum(each.dense_total for each in passes)


def budget_at_share(model: nn.Module, images: Sequence[torch.Tensor], share: float) -> float | None:
    """The keep ratio in [.05, 1] at which the trunk of `model` spends `share` of its dense cost.

    None where the model, as it is, already spends this share on these images (up to one percent),
    and where its policy has no budget. Where no ratio spends the share, the nearest end of the
    interval. The model is left unchanged.
    """
    net = find_token_net(model)
    policy, own = net.trunk.policy, net.trunk.policy.keep_ratio
    if not _has_budget(policy) or abs(trunk_share(net, images) / share - 1) <= CLOSE:
        return None
    low, high = 0.05, 1.0
    try:
        for _ in range(STEPS):
            middle = (low + high) / 2
            policy.set_keep_ratio(middle)
            low, high = (middle, high) if trunk_share(net, images) < share else (low, middle)
    finally:
        policy.set_keep_ratio(own)
    return round((low + high) / 2, 3)


def _has_budget(policy: TokenPolicy) -> bool:
    """Whether this policy, with its settings, accepts a budget."""
    own = policy.keep_ratio
    try:
        policy.set_keep_ratio(0.5)
    except InputError:
        return False
    policy.set_keep_ratio(own)
    return True


@dataclass(frozen=True)
class Reading:
    """The folder with one training's AP and usage, and the budget of this evaluation."""

    folder: Path
    keep_ratio: float | None = None
    """None: as trained."""


def read_at_cost(
    gmacs: float, arm: Arm, seed: int, recipe: Recipe, arms: Sequence[Arm], program: Sequence[str]
) -> Reading:
    """One training's reading at this cost. `program`, the command that trains, evaluates if needed.

    The budget is found on training images, as a share of the dense trunk's cost, because images of
    the two sets may differ in size. The evaluation is done once and stays in a folder of the
    training.
    """
    trained = run_folder(recipe, arm, seed)
    record = trained / f"at_{gmacs:g}_gmacs.json"
    if not record.is_file():
        predictor = load(recipe, arm, seed, arms)
        images = [_network_input(predictor, path) for path in _training_images(predictor)]
        usage = json.loads((trained / "token_usage.json").read_text())
        ratio = budget_at_share(predictor.model, images, gmacs / usage["dense_trunk_gmacs"])
        if ratio is not None:
            _evaluate_at(ratio, arm, seed, recipe, arms, program)
        write_json(record, {"keep_ratio": ratio})
    ratio = json.loads(record.read_text())["keep_ratio"]
    return Reading(trained if ratio is None else _folder_at(trained, ratio), ratio)


def _training_images(predictor: TokenPredictor) -> list[Path]:
    """A few pictures, spread evenly over the training set."""
    return spread_out(pictures_of_set(predictor.cfg.DATASETS.TRAIN[0]), NUM_IMAGES)


def _network_input(predictor: TokenPredictor, path: Path) -> torch.Tensor:
    """(1, 3, height, width), resized as in an evaluation, normalised and padded."""
    given = predictor.model_input(read_image(path, "RGB"))
    return predictor.model.preprocess_image([given]).tensor


def _folder_at(trained: Path, ratio: float) -> Path:
    return trained / f"kept_{ratio:g}"


def _evaluate_at(
    ratio: float, arm: Arm, seed: int, recipe: Recipe, arms: Sequence[Arm], program: Sequence[str]
) -> None:
    """Evaluate one training at another budget, in a folder of its own."""
    trained = run_folder(recipe, arm, seed)
    folder = _folder_at(trained, ratio)
    make_folder(folder)
    settings = [*options_of(recipe, arm, seed, arms), KEEP_RATIO, str(ratio)]
    settings += ["MODEL.WEIGHTS", str(trained / "model_final.pth"), "OUTPUT_DIR", str(folder)]
    command = [*program, "--eval-only", "--config-file", str(arm.config_file)]
    log = folder / "output.txt"
    with open_log(log) as written:
        done = subprocess.run([*command, *settings], stdout=written, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InputError(
            f"Evaluating {arm.name} with seed {seed} at {KEEP_RATIO} {ratio} failed: {log}."
        )
