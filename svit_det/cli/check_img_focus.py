"""Compares the converted trunk with the original file in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from svit_det.classification.config import default_config
from svit_det.classification.images import test_transform
from svit_det.errors import InputError
from svit_det.export.runtimes import need
from svit_det.images import read_image
from svit_det.policies.dense import Dense
from svit_det.vit import build_trunk

SIDE, PATCH, HEADS = 224, 14, 6
LAST = "backbone.layernorm.bias"


@torch.no_grad()
def largest_difference(onnx_file: Path, weights: Mapping[str, Tensor], picture: Path) -> float:
    """The largest difference of a feature after the final norm, over all tokens of the picture.

    The class token is one of them. weights: the file's weights, for 16 x 16 tokens. Both the file's
    graph and the converted trunk are run.
    """
    onnx: Any = need("onnx")
    model = onnx.load(str(onnx_file))
    outputs = [node.output[0] for node in model.graph.node if LAST in node.input]
    if not outputs:
        raise InputError(f"{onnx_file}: nothing in it uses {LAST}.")
    features = onnx.helper.make_tensor_value_info(outputs[-1], onnx.TensorProto.FLOAT, None)
    model.graph.output.append(features)
    session = need("onnxruntime").InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = test_transform(default_config().INPUT)(Image.fromarray(read_image(picture, "RGB")))
    given = {session.get_inputs()[0].name: pixels[None].numpy()}
    theirs = torch.from_numpy(session.run([outputs[-1]], given)[0])
    return float((_features(weights, pixels[None]) - theirs).abs().max())


def _features(weights: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """The features (1, 1 + N, C) of the converted trunk."""
    width = weights["norm.weight"].numel()
    trunk = build_trunk(
        policy=Dense(),
        patch_size=PATCH,
        embed_dim=width,
        num_heads=HEADS,
        pretrain_grid=(SIDE // PATCH, SIDE // PATCH),
        class_token=True,
    ).eval()
    beginning = "trunk."
    inside = {name.removeprefix(beginning): value for name, value in weights.items()}
    trunk.load_state_dict({name: inside[name] for name in trunk.state_dict()})
    tokens = trunk(pixels).tokens
    return F.layer_norm(tokens, (width,), weights["norm.weight"], weights["norm.bias"], 1e-6)
