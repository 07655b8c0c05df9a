"""The packages that formats need, imported when asked for, or named where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from svit_det.errors import InputError

PACKAGES = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
PACKAGES["openvino"] = "openvino"
NEEDED = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
NEEDED["openvino"] = (*NEEDED["onnx"], "openvino")
"""By format: to write it and to check what was written."""


def need(module: str) -> ModuleType:
    """The module. Raises InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"this format needs {module}, which is not installed: pip install {PACKAGES[module]}."
        ) from error


def check_runtimes(formats: list[str]) -> None:
    """Raise InputError for the first package that one of the formats lacks."""
    for name in formats:
        for module in NEEDED[name]:
            try:
                need(module)
            except InputError as error:
                raise InputError(f"--formats {name}: {error}") from error
