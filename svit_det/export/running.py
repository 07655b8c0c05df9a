"""Runs exported files, each by its own runtime on the CPU, and reads their metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  (its operators, for whole detectors as .pt2)
from torch import Tensor

from svit_det.errors import InputError
from svit_det.export.formats import BFLOAT16, INPUT, METADATA
from svit_det.export.quiet import quiet
from svit_det.export.runtimes import need

Run = Callable[[Tensor], list[np.ndarray]]
"""(B, 3, height, width) pixels -> the outputs in their order."""


def load(path: Path) -> tuple[Run, dict[str, Any]]:
    """A function that runs a file of any format, on as many threads as torch has; its metadata.

    Raises InputError for a file that is missing, or is no exported model of this project.
    """
    readers = {".pt2": _pt2, ".onnx": _onnx, ".xml": _openvino}
    if path.suffix not in readers or not os.path.isfile(path):
        raise InputError(f"{path}: no such file with the end {', '.join(readers)}.")
    try:
        return readers[path.suffix](path)
    except InputError:
        raise
    # A foreign or broken file may make the runtimes raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: not a model that svit-det export wrote ({reason}).") from error


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
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # A waiting thread sleeps, as the threads of torch do in this project.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: branches without rows would cause warnings
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map[METADATA]
    return lambda image: session.run(None, {INPUT: image.numpy()}), json.loads(metadata)


def _openvino(path: Path) -> tuple[Run, dict[str, Any]]:
    core = need("openvino").Core()
    model = core.read_model(path)
    metadata = json.loads(model.get_rt_info([METADATA]).astype(str))
    # The precision is always given: on some processors the default is bfloat16. Waiting threads
    # sleep after a moment; OpenVINO has no setting for this.
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if metadata.get("precision") == BFLOAT16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(model, "CPU", hints)

    def run(image: Tensor) -> list[np.ndarray]:
        found = compiled({INPUT: image.numpy()})
        return [np.array(found[output]) for output in compiled.outputs]

    return run, metadata


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, according to OpenVINO."""
    capabilities = need("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities
