"""One model as checked files in a folder: the program, each format of it, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.export.backbone import BackboneGraph
from svit_det.export.checks import Parity, check_other_size, compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import FORMATS, write_onnx, write_openvino, write_pt2
from svit_det.export.metadata import describe
from svit_det.export.program import export_program, other_size
from svit_det.export.running import load
from svit_det.export.runtimes import check_runtimes
from svit_det.vit import TokenNet, find_token_net

PARTS = {"detector": DetectorGraph, "backbone": BackboneGraph}
MOST = 1e-2
"""The largest difference from the model that is taken for rounding, on maps and in pixels."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be exported, and how."""

    part: str
    """One of `PARTS`."""
    size: tuple[int, int]
    """(height, width) in pixels."""
    formats: tuple[str, ...] = tuple(FORMATS)
    dynamic_size: bool = False
    topk: bool = True
    """Positions may come from ONNX's TopK."""
    opset: int = 18
    image_format: str = "RGB"
    sides: tuple[int, int] = (0, 0)
    """The shorter side that pictures are resized to, and the most that the longer may have."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the checkpoint says of itself."""

    def files(self) -> list[str]:
        """Names of the files that come out, one that refers to another after it."""
        return [f"{self.part}{end}" for name in self.formats for end in FORMATS[name]]


@dataclass(frozen=True)
class Exported:
    """Files of one model, and how far each is from it."""

    metadata: dict[str, Any]
    parity: dict[str, Parity]
    """By format."""


def export_files(model: nn.Module, wanted: Wanted, folder: Path) -> Exported:
    """Write the files of `wanted` into `folder` and check each on other pictures and sizes.

    Raises InputError where the model, a format or a missing package stands in the way.
    """
    check_runtimes(list(wanted.formats))
    graph, net = PARTS[wanted.part](model.eval()), find_token_net(model)
    divisor = model.backbone.size_divisibility
    check_size(wanted.size, divisor)
    if not wanted.topk and wanted.part == "detector":
        raise InputError(
            "--no-topk: the detector's proposals are chosen by TopK; give --part backbone."
        )
    if wanted.opset > 18 and wanted.part == "detector":
        raise InputError(
            f"--opset {wanted.opset}: onnxruntime has no RoiAlign of this opset; give --opset 18, "
            "or --part backbone."
        )
    metadata = describe(
        model,
        net,
        part=wanted.part,
        outputs=graph.outputs,
        size=wanted.size,
        divisor=divisor,
        dynamic_size=wanted.dynamic_size,
        fixed_count=has_fixed_count(net, wanted.size),
        image_format=wanted.image_format,
        sides=wanted.sides,
        said=wanted.said,
        opset=wanted.opset,
        topk=wanted.topk,
    )
    program = export_program(
        graph,
        net,
        size=wanted.size,
        divisor=divisor,
        dynamic_size=wanted.dynamic_size,
        topk=wanted.topk,
    )
    parity = {}
    for name in wanted.formats:
        path = _write(program, name, folder / wanted.part, metadata, graph.outputs, wanted)
        parity[name] = _checked(path, graph, wanted, divisor)
    if "onnx" not in wanted.formats:
        (folder / f"{wanted.part}.onnx").unlink(missing_ok=True)  # only a step to OpenVINO
    return Exported(metadata, parity)


def _write(
    program: torch.export.ExportedProgram,
    name: str,
    stem: Path,
    metadata: Mapping[str, Any],
    outputs: list[str],
    wanted: Wanted,
) -> Path:
    if name == "pt2":
        path = stem.with_suffix(".pt2")
        write_pt2(program, path, metadata)
        return path
    source = stem.with_suffix(".onnx")
    if not source.exists():
        write_onnx(program, source, metadata, outputs=outputs, opset=wanted.opset, topk=wanted.topk)
    if name == "onnx":
        return source
    write_openvino(source, stem.with_suffix(".xml"), metadata)
    return stem.with_suffix(".xml")


def _checked(path: Path, graph: nn.Module, wanted: Wanted, divisor: int) -> Parity:
    """Compared on two pictures, and on another size: refused there, or the same as the model."""
    try:
        run, _ = load(path)
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())[-200:]
        raise InputError(f"{path.name}: its runtime does not take it ({reason}).") from error
    elsewhere = other_size(wanted.size, divisor)
    images = [made_up_picture(wanted.size, seed) for seed in (1, 2)]
    if wanted.dynamic_size:
        images.append(made_up_picture(elsewhere, 3))
    else:
        check_other_size(run, made_up_picture(elsewhere, 3), file=path.name)
    parity = compare(graph, run, images)
    if not parity.same_kept or parity.difference > MOST:
        raise InputError(
            f"{path.name} does not compute what the model computes ({parity}), so that it is not "
            "written; choose another of --formats."
        )
    return parity


def made_up_picture(size: tuple[int, int], seed: int) -> Tensor:
    """(1, 3, height, width) smooth blobs of pixels, 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(size[0] // 12, 2), max(size[1] // 12, 2), generator=generator)
    return 255 * F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def has_fixed_count(net: TokenNet, size: tuple[int, int]) -> bool:
    """Every block of the network promises its number of rows, whatever the image."""
    _, record = net(made_up_picture(size, 1))
    return all(block.selection.total is not None for block in record.blocks)


def check_size(size: tuple[int, int], divisor: int) -> None:
    """Raise InputError for sides that the network cannot take as they are."""
    if any(side < divisor or side % divisor for side in size):
        raise InputError(
            f"--size {size[0]} {size[1]}: both sides must be multiples of {divisor} pixels."
        )
