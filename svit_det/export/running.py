"""Running exported files, each by its own runtime on the CPU, and reading what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  (its operators, for whole detectors as .pt2)
from torch import Tensor

from svit_det.export.formats import INPUT, METADATA
from svit_det.export.quiet import quiet
from svit_det.export.runtimes import need

Run = Callable[[Tensor], list[np.ndarray]]
"""(1, 3, height, width) pixels -> the outputs in their order."""


def load(path: Path) -> tuple[Run, dict[str, Any]]:
    """How to run a file of any format, and its metadata."""
    return {".pt2": _pt2, ".onnx": _onnx, ".xml": _openvino}[path.suffix](path)


def _pt2(path: Path) -> tuple[Run, dict[str, Any]]:
    extra = {f"{METADATA}.json": ""}
    with quiet():
        module = torch.export.load(path, extra_files=extra).module()

    @torch.no_grad()
    def run(image: Tensor) -> list[np.ndarray]:
        return [each.numpy() for each in module(image)]

    return run, json.loads(extra[f"{METADATA}.json"])


def _onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone: a graph of ours has branches of no rows
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map[METADATA]
    return lambda image: session.run(None, {INPUT: image.numpy()}), json.loads(metadata)


def _openvino(path: Path) -> tuple[Run, dict[str, Any]]:
    core = need("openvino").Core()
    model = core.read_model(path)
    metadata = model.get_rt_info([METADATA]).astype(str)
    # Some processors would compute in bfloat16 by default.
    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = core.compile_model(model, "CPU", hints)

    def run(image: Tensor) -> list[np.ndarray]:
        found = compiled({INPUT: image.numpy()})
        return [np.array(found[output]) for output in compiled.outputs]

    return run, json.loads(metadata)
