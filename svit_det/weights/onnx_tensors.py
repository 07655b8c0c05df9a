"""The weights of an ONNX file, read as data: its graph is never run.

An exporter turns a linear layer into a product with a constant that has lost its name, and a sum
with a bias that has kept its name. Here the constant gets its name back.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svit_det.errors import InputError


def read_onnx_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every stored tensor by its name; the weight of a linear layer as NAME.weight, (out, in).

    Constants that belong to no linear layer keep the exporter's name, as in onnx::Reshape_12.
    Raises InputError for a file that is no ONNX or keeps its tensors in another file, and where the
    onnx package is missing.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file.")
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise InputError(f"{path}: reading it needs onnx; pip install onnx.") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        tensors = {
            each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy())
            for each in graph.initializer
        }
    # A broken or foreign file may make the parser raise anything.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not an ONNX file with its weights in it ({reason}).") from error
    if not tensors:
        raise InputError(f"{path}: not an ONNX file with its weights in it (it holds none).")
    return _with_linear_names(graph, tensors)


def _with_linear_names(graph: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The constant of each product, named after the bias that is added to the product."""
    named = dict(tensors)
    products = {
        node.output[0]: [name for name in node.input if name in tensors]
        for node in graph.node
        if node.op_type == "MatMul"
    }
    for node in graph.node:
        biases = [name for name in node.input if name in tensors and name.endswith(".bias")]
        if node.op_type != "Add" or not biases:
            continue
        for source in node.input:
            for constant in products.get(source, ()):
                # One constant may serve two layers, so that `tensors` itself keeps it.
                named.pop(constant, None)
                layer = biases[0].removesuffix(".bias")
                named[f"{layer}.weight"] = tensors[constant].t().contiguous()
    return named
