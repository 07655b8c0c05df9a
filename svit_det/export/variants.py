"""The ways in which one model is exported for a runtime: format, precision, opset."""

from __future__ import annotations

from dataclasses import dataclass

from svit_det.export.formats import BFLOAT16, FLOAT, INT8


@dataclass(frozen=True)
class Variant:
    """One file of a model."""

    format: str
    precision: str = FLOAT
    opset: int = 18


VARIANTS = {
    "onnxruntime": Variant("onnx"),
    "onnxruntime-opset23": Variant("onnx", opset=23),
    "onnxruntime-int8": Variant("onnx", INT8),
    "openvino": Variant("openvino"),
    "openvino-bf16": Variant("openvino", BFLOAT16),
}
