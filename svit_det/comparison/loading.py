"""The trained detectors of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from svit_det.comparison.arms import Arm, Recipe, options_of, run_folder
from svit_det.detection import load_config
from svit_det.detection.predictor import TokenPredictor

KEEP_RATIO = "MODEL.TOKEN_POLICY.TEST_KEEP_RATIO"


def load(
    recipe: Recipe, arm: Arm, seed: int, arms: Sequence[Arm], *, keep_ratio: float | None = None
) -> TokenPredictor:
    """One trained detector, as trained or at another budget."""
    weights = str(run_folder(recipe, arm, seed) / "model_final.pth")
    options = [*options_of(recipe, arm, seed, arms), "MODEL.WEIGHTS", weights]
    if keep_ratio is not None:
        options += [KEEP_RATIO, str(keep_ratio)]
    return TokenPredictor(load_config(str(arm.config_file), options))
