"""The packages that formats need, imported when asked for, or named where they are missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from svit_det.errors import InputError

PACKAGES = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
PACKAGES |= {"onnxruntime.quantization": "onnxruntime", "openvino": "openvino"}
NEEDED = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
NEEDED["openvino"] = (*NEEDED["onnx"], "openvino")
"""By format: to write it and to check what was written."""


def need(module: str) -> ModuleType:
    """The module. Raises InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"this needs {module}, which is not installed: pip install {PACKAGES[module]}."
        ) from error


def check_runtimes(formats: Iterable[str]) -> None:
    """Raise InputError for the first package that one of the formats lacks."""
    for name in formats:
        check_modules(f"--formats {name}", NEEDED[name])


def check_modules(asked: str, modules: Iterable[str]) -> None:
    """Raise InputError for the first one that is missing; `asked` is the option that needs it."""
    for module in modules:
        try:
            need(module)
        except InputError as error:
            raise InputError(f"{asked}: {error}") from error
