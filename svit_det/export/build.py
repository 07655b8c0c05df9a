"""Exports one model as checked files in a folder: the program in each format, and its metadata."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.export.backbone import BackboneGraph, example_image
from svit_det.export.bounds import too_far
from svit_det.export.checks import Parity, check_refused, compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import (
    BFLOAT16,
    FLOAT,
    FORMATS,
    INT8,
    check_rounding,
    write_onnx,
    write_openvino,
    write_pt2,
)
from svit_det.export.metadata import describe
from svit_det.export.pictures import (
    made_up_picture,
    made_up_pictures,
    where_something_is_found,
)
from svit_det.export.program import export_program, open_sides, other_size
from svit_det.export.quantise import write_int8
from svit_det.export.running import load
from svit_det.export.runtimes import check_runtimes
from svit_det.vit import TokenNet, find_token_net

PARTS = {"detector": DetectorGraph, "backbone": BackboneGraph}
MOST_SIDE, MOST_BATCH = 16_384, 1024
"""Pixels of a side, and pictures at a time: more fit no memory."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The export that is wanted."""

    part: str
    """One of `PARTS`."""
    size: tuple[int, int]
    """(height, width) in pixels."""
    formats: tuple[str, ...] = tuple(FORMATS)
    batch: int = 1
    """Number of pictures at a time."""
    dynamic_size: bool = False
    topk: bool = True
    """Positions may come from ONNX's TopK."""
    opset: int = 18
    image_format: str = "RGB"
    sides: tuple[int, int] = (0, 0)
    """The shorter side that pictures are resized to, and the largest longer side."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's description."""
    int8: Sequence[Tensor] = ()
    """Pictures (B, 3, height, width) for quantising the ONNX file. Empty: it stays in float32."""
    bf16: bool = False
    """Runtimes shall compute the OpenVINO file in bfloat16."""

    def files(self) -> list[str]:
        """Names of the resulting files; a file that refers to another file comes after it."""
        return [f"{self.part}{end}" for name in self.formats for end in FORMATS[name]]

    def precision(self, name: str) -> str:
        """The precision in which the file of this format computes products."""
        if name == "onnx" and self.int8:
            return INT8
        return BFLOAT16 if name == "openvino" and self.bf16 else FLOAT


@dataclass(frozen=True)
class Exported:
    """The exported files of one model: their metadata, and their differences from the model."""

    metadata: dict[str, Any]
    parity: dict[str, Parity]
    """The comparison of each format with the model."""


def export_files(
    model: nn.Module, wanted: Wanted, folder: Path, *, source: Path | None = None
) -> Exported:
    """Write the files of `wanted` into `folder` and check each on other pictures and sizes.

    `source`: an ONNX file in float32 of the same model and size, which need not be made again.
    Raises InputError where the model or a format cannot be exported, or a package is missing.
    """
    check_runtimes(wanted.formats)
    graph, net = PARTS[wanted.part](model.eval()), find_token_net(model)
    divisor = model.backbone.size_divisibility
    check_wanted(wanted, net, divisor)
    metadata = describe(
        model,
        net,
        part=wanted.part,
        outputs=graph.outputs,
        size=wanted.size,
        batch=wanted.batch,
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
        net.trunk,
        example_image(wanted.size, wanted.batch),
        open_step=divisor if wanted.dynamic_size else None,
        topk=wanted.topk,
    )
    files = _Files(program, net.trunk.policy, folder / wanted.part, metadata, wanted)
    if source is not None:
        shutil.copyfile(source, files.source)
    images = _compared_pictures(graph, wanted, divisor)
    parity = {
        name: _checked(files.write(name), graph, images, wanted, divisor) for name in wanted.formats
    }
    files.source.unlink(missing_ok=True)
    return Exported(metadata, parity)


@dataclass(frozen=True)
class _Files:
    """Writes one program in each format."""

    program: torch.export.ExportedProgram
    policy: nn.Module
    stem: Path
    metadata: Mapping[str, Any]
    wanted: Wanted

    @property
    def source(self) -> Path:
        """The ONNX file in float32, from which the other files are made."""
        return self.stem.with_name(f"{self.stem.name}.float32.onnx")

    def write(self, name: str) -> Path:
        """Write the file of this format; return its path."""
        about = {**self.metadata, "precision": self.wanted.precision(name)}
        path = self.stem.with_suffix(FORMATS[name][-1])
        if name == "pt2":
            write_pt2(self.program, path, about)
            return path
        if name == "openvino":
            check_rounding(self.program)
        if not self.source.exists():
            self._write_source({**self.metadata, "precision": FLOAT})
        if name == "openvino":
            write_openvino(self.source, path, about)
        elif self.wanted.int8:
            weights = self.policy.parameters()
            write_int8(self.source, path, about, pictures=self.wanted.int8, decisions=weights)
        else:
            shutil.copyfile(self.source, path)
        return path

    def _write_source(self, about: Mapping[str, Any]) -> None:
        outputs, wanted = self.metadata["outputs"], self.wanted
        opset, topk = wanted.opset, wanted.topk
        write_onnx(self.program, self.source, about, outputs=outputs, opset=opset, topk=topk)


def _compared_pictures(graph: nn.Module, wanted: Wanted, divisor: int) -> list[Tensor]:
    """Pictures that the exporter has not seen, with another size where the size is open."""
    images = [made_up_pictures(wanted.size, seed, wanted.batch) for seed in (1, 2)]
    if wanted.dynamic_size:
        images.append(made_up_pictures(other_size(wanted.size, divisor), 3, wanted.batch))
    return where_something_is_found(graph, images, wanted.int8)


def _checked(
    path: Path, graph: nn.Module, images: Sequence[Tensor], wanted: Wanted, divisor: int
) -> Parity:
    """Compare the file with the model on these pictures.

    A file must refuse another number of pictures, and a file of fixed size must refuse other sizes.
    Raises InputError where the file differs.
    """
    try:
        run, about = load(path)
    except Exception as error:  # each runtime has exceptions of its own
        reason = " ".join(str(error).split())[-200:]
        raise InputError(f"{path.name}: its runtime does not take it ({reason}).") from error
    if not wanted.dynamic_size:
        other = made_up_pictures(other_size(wanted.size, divisor), 3, wanted.batch)
        check_refused(run, other, file=path.name, what="a picture of another size")
    more = made_up_pictures(wanted.size, 4, wanted.batch + 1)
    check_refused(run, more, file=path.name, what="another number of pictures")
    parity = compare(graph, run, images)
    problem = too_far(parity, about["precision"])
    if problem is not None:
        raise InputError(
            f"{path.name} does not compute what the model computes ({problem}), so that it is not "
            "written; choose another of --formats."
        )
    return parity


@torch.no_grad()
def has_fixed_count(net: TokenNet, size: tuple[int, int]) -> bool:
    """Whether every block of the network knows its number of rows beforehand, for any image."""
    _, record = net(made_up_picture(size, 1))
    return all(block.selection.total is not None for block in record.blocks)


def check_wanted(wanted: Wanted, net: TokenNet, divisor: int) -> None:
    """Raise InputError for an export that this network does not allow, before work begins."""
    if any(side < divisor or side % divisor for side in wanted.size):
        raise InputError(
            f"--size {wanted.size[0]} {wanted.size[1]}: both sides must be multiples of {divisor} "
            "pixels."
        )
    if max(wanted.size) > MOST_SIDE:
        raise InputError(
            f"--size {wanted.size[0]} {wanted.size[1]}: sides have at most {MOST_SIDE:,} pixels."
        )
    least, most = open_sides(divisor)
    second = other_size(wanted.size, divisor)
    if wanted.dynamic_size and (min(wanted.size) < least or max(second) > most):
        raise InputError(
            f"--size {wanted.size[0]} {wanted.size[1]}: with --dynamic-size, sides have {least:,} "
            f"to {most:,} pixels, at the second compared size ({second[0]} {second[1]}) too."
        )
    if wanted.batch < 1:
        raise InputError(f"--batch {wanted.batch}: give 1 or more.")
    if wanted.batch > MOST_BATCH:
        raise InputError(f"--batch {wanted.batch}: give {MOST_BATCH:,} at the most.")
    whole = wanted.part == "detector"
    if not wanted.topk and whole:
        raise InputError(
            "--no-topk: the detector's proposals are chosen by TopK; give --part backbone."
        )
    if wanted.opset > 18 and whole:
        raise InputError(
            f"--opset {wanted.opset}: onnxruntime has no RoiAlign of this opset; give --opset 18, "
            "or --part backbone."
        )
    if wanted.batch > 1 and whole:
        raise InputError(
            f"--batch {wanted.batch}: a detector's file takes one picture at a time; give --part "
            "backbone."
        )
    if wanted.batch > 1 and not has_fixed_count(net, wanted.size):
        raise InputError(
            f"--batch {wanted.batch}: how many tokens {type(net.trunk.policy).__name__} keeps "
            "depends on the image, and a graph counts those of one picture; give --batch 1, or "
            "--budget where the policy has one."
        )
