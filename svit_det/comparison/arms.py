"""Arms: the models that a comparison trains, each given by a config file or by a policy's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svit_det.config.policy import unused_keys
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.files import real_path
from svit_det.policies import POLICY_REGISTRY
from svit_det.shipped import find_config


@dataclass(frozen=True)
class Recipe:
    """The settings that all arms share."""

    config_file: Path
    """Task and recipe of the arms that are given by a policy's name alone."""
    weights: Path
    """The dense parent."""
    steps: int
    overrides: tuple[str, ...]
    """Overrides of the command line, KEY VALUE in turn. An arm leaves out keys that only other arms
    use."""
    output: Path


@dataclass(frozen=True)
class Arm:
    """One way to prune, trained once per seed."""

    name: str
    config_file: Path
    options: tuple[str, ...]
    """The overrides that belong to this arm."""
    policy: str
    """The policy's registered name."""


def arm_of(entry: str, recipe: Recipe) -> Arm:
    """The arm of a word on the command line: a yaml file, or a registered policy.

    Raises InputError where the word is neither.
    """
    if entry.endswith((".yaml", ".yml")):
        try:
            path = real_path(find_config(entry))
        except InputError as error:
            raise InputError(f"--policies {error}") from error
        if not os.path.isfile(path):
            raise InputError(f"--policies {entry}: no such file.")
        return Arm(path.stem, path, (), load_config(str(path)).MODEL.TOKEN_POLICY.NAME)
    POLICY_REGISTRY.named(entry, "--policies")
    return Arm(entry, recipe.config_file, ("MODEL.TOKEN_POLICY.NAME", entry), entry)


def arms_of(entries: Sequence[str], recipe: Recipe) -> list[Arm]:
    """The arms of these words. Raises InputError where two arms would have the same name."""
    arms = [arm_of(entry, recipe) for entry in entries]
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise InputError(f"--policies {' '.join(entries)}: names one twice.")
    return arms


def run_folder(recipe: Recipe, arm: Arm, seed: int) -> Path:
    """The folder with the log, weights and results of one training."""
    return recipe.output / f"{arm.name}_seed{seed}"


def options_of(recipe: Recipe, arm: Arm, seed: int, arms: Sequence[Arm]) -> list[str]:
    """The overrides of one training; `arms` are all arms of the comparison."""
    # The rate falls at the same shares of the training as in the demo. A trial of very few steps
    # may have no such step.
    falls = tuple(sorted({int(0.75 * recipe.steps), int(0.9 * recipe.steps)} - {0}))
    options = ["MODEL.WEIGHTS", str(recipe.weights), *arm.options, "SEED", str(seed)]
    options += ["SOLVER.MAX_ITER", str(recipe.steps), "SOLVER.STEPS", str(falls)]
    options += ["SOLVER.CHECKPOINT_PERIOD", str(recipe.steps)]
    options += _overrides_for(arm, recipe, arms)
    return [*options, "OUTPUT_DIR", str(run_folder(recipe, arm, seed))]


def _overrides_for(arm: Arm, recipe: Recipe, arms: Sequence[Arm]) -> list[str]:
    """The command line's overrides, without the keys that only other arms use."""
    unused = {each.policy: set(unused_keys(each.policy)) for each in arms}
    refused = unused[arm.policy] - set.intersection(*unused.values())
    pairs = [recipe.overrides[at : at + 2] for at in range(0, len(recipe.overrides), 2)]
    own = [pair for pair in pairs if pair[0].removeprefix("MODEL.TOKEN_POLICY.") not in refused]
    return [word for pair in own for word in pair]
