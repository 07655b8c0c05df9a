"""Whole detectors under `--budget`: a fixed number of tokens, and the model's detections.

The tiny model of this folder, exported by the tool itself. Files by image are in test_export.py.
"""

import pytest
import torch

from svit_det.cli import export
from svit_det.detection.description import describe_run
from svit_det.export.bounds import too_far
from svit_det.export.build import made_up_picture
from svit_det.export.checks import compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import FLOAT
from svit_det.export.running import load
from svit_det.weights.files import write_weights

SIZE = (64, 96)
BUDGET = 0.5
FIXED = ("DynamicViT", "EViT", "EvoViT", "Random", "SViT")
"""The policies that keep the same number of tokens in every picture under a budget."""


@pytest.mark.long
@pytest.mark.parametrize("policy", ["Dense", *FIXED])
@torch.no_grad()
def test_whole_detectors_of_a_fixed_count(lively_model, tiny_config, tmp_path, policy):
    named = ("MODEL.TOKEN_POLICY.NAME", policy)
    ratio = ("MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", BUDGET)
    asked = ("--budget", BUDGET) if policy in FIXED else ()
    under = (*ratio, *export.fixed_count_options(policy)) if policy in FIXED else ()
    model = lively_model(*named, *under)
    weights, output = tmp_path / "model.safetensors", tmp_path / "exported"
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_weights(state, weights, description=describe_run(tiny_config(*named)))
    words = ("--weights", weights, "--output", output, "--formats", "onnx", "--size", *SIZE, *asked)
    assert export.main([str(each) for each in words]) is None

    run, about = load(output / "detector.onnx")
    assert about["policy"] == policy and about["kept_tokens"] == "fixed"
    pictures = [made_up_picture(SIZE, seed) for seed in (11, 12)]
    parity = compare(DetectorGraph(model), run, pictures)
    assert too_far(parity, FLOAT) is None and parity.not_compared == (), parity
    first, second = (run(each)[-1][0].sum(axis=(1, 2)) for each in pictures)
    # EViT keeps so many rows: its fused token takes the place of a patch token, or of none.
    assert abs(first - second).max() <= 1
    kept = first[1:].mean() / first[0]  # blocks 1 and 2 decide
    assert abs(kept - (BUDGET if policy in FIXED else 1)) < 0.02
