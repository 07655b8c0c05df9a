"""ONNX with products in 8-bit integers, by onnxruntime's own static quantiser.

Quantised are the linear layers and convolutions that have trained weights. In float32 stay what
decides (a policy's own layers, and all that ranks, thresholds and counts), the products of the
attention, norms, the normalising of pixels, and of the heads the last layer of each branch with the
decoding of boxes behind it: a step of an 8-bit number there moves a token or a box.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from svit_det.errors import InputError
from svit_det.export.formats import INPUT, METADATA
from svit_det.export.quiet import quiet
from svit_det.export.runtimes import need

KINDS = ("Gemm", "MatMul", "Conv")
"""ONNX's operators of the layers that are quantised."""
LAST_LAYERS = (
    "objectness_logits",
    "anchor_deltas",
    "cls_score",
    "bbox_pred",
    "mask_head.predictor",
)
"""Parts of the names of weights, of the layers whose numbers are scores, boxes and masks."""


def write_int8(
    source: Path,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    pictures: Sequence[Tensor],
    decisions: Iterable[Tensor],
) -> None:
    """Quantise the ONNX file `source` into `path`.

    The ranges of activations are the smallest and largest value that each takes on `pictures`, what
    the graph takes at a time; weights have one range for each output channel. `decisions` are the
    weights of the policy. Raises InputError where the quantiser fails.
    """
    onnx, tools = need("onnx"), need("onnxruntime.quantization")
    model = onnx.load(source)
    chosen = quantised_nodes(model.graph, decisions)

    class Pictures(tools.CalibrationDataReader):
        def __init__(self) -> None:
            self._rest: Iterator[Tensor] = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self._rest, None)
            return None if picture is None else {INPUT: picture.numpy()}

    try:
        with quiet():
            tools.quantize_static(
                source,
                path,
                Pictures(),
                quant_format=tools.QuantFormat.QDQ,
                per_channel=True,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                nodes_to_quantize=chosen,
            )
    except Exception as error:  # the quantiser's own, and its runtime's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"onnxruntime cannot quantise this model: {reason[:300]}") from error
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {METADATA: json.dumps(dict(metadata))})
    onnx.save(made, path)


def quantised_nodes(graph: Any, decisions: Iterable[Tensor]) -> list[str]:
    """Names of the nodes of an ONNX graph that are quantised."""
    to_array = need("onnx").numpy_helper.to_array
    weights = {each.name: each for each in graph.initializer}
    # The exporter may have transposed a weight, and then it has lost its name.
    own = [each.detach().numpy() for each in decisions]
    deciding = {array.tobytes() for each in own for array in (each, each.T)}
    return [
        node.name
        for node in graph.node
        if node.op_type in KINDS
        and len(node.input) > 1
        and node.input[1] in weights
        and not any(part in node.input[1] for part in LAST_LAYERS)
        and to_array(weights[node.input[1]]).tobytes() not in deciding
    ]
