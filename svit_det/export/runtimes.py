"""The packages that formats need: imported when needed, and named in an error if missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from svit_det.errors import InputError

PACKAGES = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
PACKAGES |= {"onnxruntime.quantization": "onnxruntime", "openvino": "openvino"}
NEEDED = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
NEEDED["openvino"] = (*NEEDED["onnx"], "openvino")
"""By format, the packages for writing a file and for checking it."""


def need(module: str) -> ModuleType:
    """The module. If it is missing, raises InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"this needs {module}, which is not installed: pip install {PACKAGES[module]}."
        ) from error


def check_runtimes(formats: Iterable[str]) -> None:
    """Raise InputError for the first missing package of the formats."""
    for name in formats:
        check_modules(f"--formats {name}", NEEDED[name])


def check_modules(asked: str, modules: Iterable[str]) -> None:
    """Raise InputError for the first missing module; `asked` is the option that needs it."""
    for module in modules:
        try:
            need(module)
        except InputError as error:
            raise InputError(f"{asked}: {error}") from error
