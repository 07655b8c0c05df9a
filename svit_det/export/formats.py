"""Writes an exported program as torch's .pt2, as ONNX, or as OpenVINO's two files made of ONNX."""

from __future__ import annotations

import json
import math
import operator
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
"""The name under which a file holds its metadata, as JSON."""
INPUT = "image"
FORMATS = {"pt2": (".pt2",), "onnx": (".onnx",), "openvino": (".bin", ".xml")}
"""Endings of the files of each format; a file that refers to another comes after it."""
OPSETS = (18, 23)
FLOAT, INT8, BFLOAT16 = "float32", "int8", "bfloat16"
"""The precisions in which a file computes products."""
ROUNDINGS = (round, math.trunc, math.floor, math.ceil)
"""Operators of a program by which a count of tokens follows from an open size."""


def write_pt2(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write torch's own format.

    Whole detectors use torchvision's operators: import torchvision before loading such a file.
    """
    extra = {f"{METADATA}.json": json.dumps(dict(metadata))}
    try:
        with quiet():
            torch.export.save(program, path, extra_files=extra)
    except Exception as error:  # torch may raise anything for an operator that it cannot save
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if rounds_a_size(program):
            reason = "torch cannot save the rounding of an open size; choose another of --formats"
        raise InputError(f"torch.export cannot save this model: {reason.rstrip('.')}.") from error


def rounds_a_size(program: ExportedProgram) -> bool:
    """Whether the program computes a count of tokens from an open size, by a rounding."""
    return any(node.target in ROUNDINGS for node in program.graph.nodes)


def check_rounding(program: ExportedProgram) -> None:
    """Raise InputError for a program that OpenVINO would compute with other counts."""
    if rounds_a_size(program):
        raise InputError(
            "OpenVINO computes a count of tokens that depends on an open size in single precision, "
            "and may round it otherwise than the model does; choose another of --formats, or leave "
            "--dynamic-size out."
        )


@torch.no_grad()  # as when the program was made: with gradients, maps have another memory layout
def write_onnx(
    program: ExportedProgram,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    outputs: Sequence[str],
    opset: int = 18,
    topk: bool = True,
) -> None:
    """Write ONNX by torch's exporter; missing operators are written out. Raises InputError."""
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
    except Exception as error:  # the exporter may raise anything for a model it cannot translate
        # The line with the error names the operator; the other lines are general instructions.
        lines = [line for line in str(error).splitlines() if "Error" in line] or [str(error)]
        raise InputError(f"ONNX cannot express this model: {lines[0].strip()[:300]}") from error
    assert made is not None
    made.model.metadata_props[METADATA] = json.dumps(dict(metadata))
    # The nodes' metadata are stack traces with the folders of this machine.
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()
    made.save(path)


def write_openvino(source: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Convert an ONNX file by OpenVINO's own converter. Writes `path`, an .xml file, and its .bin.

    The weights are always in float32. OpenVINO chooses the precision of computation when it
    compiles a model, by a hint of the program that loads the file.
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
    """ONNX translations of Python's arithmetic and rounding of numbers that depend on an open size.

    Python's floats are doubles: 0.7 * 180 is below 126 in double precision and 126 in single
    precision, so that its floor is another count. Each float is therefore a double for arithmetic
    and rounding, and beside it a single for tensors, which torch's exporter takes it for.
    """
    onnxscript = need("onnxscript")
    op, types = onnxscript.opset18, onnxscript.ir.DataType
    doubles: dict[int, Any] = {}  # by the identity of the single

    def single(double: Any) -> Any:
        value = op.Cast(double, to=types.FLOAT)
        doubles[id(value)] = double
        return value

    def double(number: Any) -> Any:
        if isinstance(number, (int, float)):
            return op.Constant(value=onnxscript.ir.tensor(float(number), dtype=types.DOUBLE))
        found = doubles.get(id(number))
        return op.Cast(number, to=types.DOUBLE) if found is None else found

    def arithmetic(translated: Callable[..., Any]) -> Callable[..., Any]:
        def of_floats_or_not(one: Any, other: Any) -> Any:
            if any(isinstance(each, float) or id(each) in doubles for each in (one, other)):
                return single(translated(double(one), double(other)))
            return translated(one, other)

        return of_floats_or_not

    def whole(rounded: Any) -> Any:
        return op.Cast(rounded, to=types.INT64)

    return {
        torch.sym_float: lambda value: single(op.Cast(value, to=types.DOUBLE)),
        operator.mul: arithmetic(op.Mul),
        operator.add: arithmetic(op.Add),
        operator.sub: arithmetic(op.Sub),
        operator.truediv: lambda one, other: single(op.Div(double(one), double(other))),
        round: lambda value, digits=None: whole(op.Round(double(value))),
        math.trunc: lambda value: whole(double(value)),
        math.floor: lambda value: whole(op.Floor(double(value))),
        math.ceil: lambda value: whole(op.Ceil(double(value))),
    }
