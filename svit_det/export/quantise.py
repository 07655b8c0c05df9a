"""ONNX with products in 8-bit integers, by onnxruntime's own static quantiser.

Linear layers and convolutions with trained weights are quantised. The following stay in float32,
because one step of an 8-bit number there could move a token or a box: decisions (a policy's own
layers, and all ranking, thresholds and counts), the products of the attention, norms, the
normalising of pixels, and in the heads the last layer of each branch and the decoding of boxes.
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
"""Parts of the names of weights in layers whose outputs are scores, boxes and masks."""


def write_int8(
    source: Path,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    pictures: Sequence[Tensor],
    decisions: Iterable[Tensor],
) -> None:
    """Quantise the ONNX file `source` into `path`.

    The range of an activation runs from its smallest to its largest value on `pictures`; each entry
    is one input of the graph. Weights have one range for each output channel. `decisions` are the
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
    except Exception as error:  # the quantiser and its runtime have exceptions of their own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"onnxruntime cannot quantise this model: {reason[:300]}") from error
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {METADATA: json.dumps(dict(metadata))})
    onnx.save(made, path)


def quantised_nodes(graph: Any, decisions: Iterable[Tensor]) -> list[str]:
    """Names of the nodes of an ONNX graph that are quantised."""
    to_array = need("onnx").numpy_helper.to_array
    weights = {each.name: each for each in graph.initializer}
    # The exporter may have transposed a weight; such a weight has lost its name.
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
