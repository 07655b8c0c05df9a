"""An exported program as files: torch's .pt2, ONNX, and OpenVINO's pair made from the ONNX file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from svit_det.errors import InputError
from svit_det.export.operators import rewritten
from svit_det.export.quiet import quiet
from svit_det.export.runtimes import need

METADATA = "svit_det"
"""The name under which a file says what it is, as JSON."""
INPUT = "image"
FORMATS = {"pt2": (".pt2",), "onnx": (".onnx",), "openvino": (".bin", ".xml")}
"""Endings of the files of each format; a file that refers to another comes after it."""
OPSETS = (18, 23)
FLOAT, INT8, BFLOAT16 = "float32", "int8", "bfloat16"
"""What a file computes its products in."""


def write_pt2(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """torch's own format. Whole detectors use torchvision's operators: import it before loading."""
    extra = {f"{METADATA}.json": json.dumps(dict(metadata))}
    try:
        with quiet():
            torch.export.save(program, path, extra_files=extra)
    except Exception as error:  # such as a rounding of an open size, which it cannot write down
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"torch.export cannot save this model: {reason.rstrip('.')}.") from error


@torch.no_grad()  # as the program was made: with gradients, maps are laid out otherwise
def write_onnx(
    program: ExportedProgram,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    outputs: Sequence[str],
    opset: int = 18,
    topk: bool = True,
) -> None:
    """ONNX by torch's exporter, with operators that it lacks written out. Raises InputError."""
    need("onnx")
    need("onnxscript")
    try:
        with quiet():
            made = torch.onnx.export(
                rewritten(program, topk=topk),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(outputs),
                custom_translation_table=_numbers_of_sizes(),
                verbose=False,
            )
    except Exception as error:  # whatever the exporter raises for what it cannot translate
        # The last sentence says which operator; before it stand general instructions.
        lines = [line for line in str(error).splitlines() if "Error" in line] or [str(error)]
        raise InputError(f"ONNX cannot express this model: {lines[0].strip()[:300]}") from error
    assert made is not None
    made.model.metadata_props[METADATA] = json.dumps(dict(metadata))
    # Stack traces with the folders of this machine.
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()
    made.save(path)


def write_openvino(source: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """OpenVINO's own converter, from an ONNX file. Writes `path` .xml and its .bin.

    The weights are in float32 whatever the file is to be computed in: OpenVINO chooses that when it
    compiles a model, by a hint of whoever loads it.
    """
    openvino = need("openvino")
    try:
        model = openvino.convert_model(source)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"OpenVINO cannot convert this model: {reason}") from error
    model.set_rt_info(json.dumps(dict(metadata)), [METADATA])
    openvino.save_model(model, path, compress_to_fp16=False)


def _numbers_of_sizes() -> dict[Any, Callable[..., Any]]:
    """Python's roundings of numbers that follow from an open size."""
    op = need("onnxscript").opset18
    whole = 7  # ONNX's number of int64
    return {
        round: lambda value, digits=None: op.Cast(op.Round(value), to=whole),
        math.trunc: lambda value: op.Cast(value, to=whole),
        math.ceil: lambda value: op.Cast(op.Ceil(value), to=whole),
    }
