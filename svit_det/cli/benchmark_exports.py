"""One arm of the benchmark, exported for another runtime, and the call that runs the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svit_det.benchmark.arms import trunk_of
from svit_det.cli.benchmark_models import DENSE
from svit_det.cli.benchmark_parts import Part
from svit_det.detection.exported import ExportedDetector
from svit_det.errors import InputError
from svit_det.export.backbone import KEEP_MAPS, BackboneGraph
from svit_det.export.blocks import BlocksGraph
from svit_det.export.checks import Parity, compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import INT8, write_onnx, write_openvino
from svit_det.export.program import export_program
from svit_det.export.quantise import write_int8
from svit_det.export.running import load
from svit_det.export.variants import VARIANTS, Variant

Call = Callable[[Any], Any]
"""Runs an exported arm on one of the part's inputs."""


class Graph:
    """The module that one arm of a part is exported from, and the tensors that the module takes."""

    def __init__(
        self,
        part: Part,
        arm: str,
        images: Sequence[Tensor],
        inputs: Sequence[Any],
        *,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        """`calibration`: images as `images`, on which the ranges of 8-bit files are chosen."""
        self.part = part.name
        model = part.models[arm]
        self.trunk = trunk_of(model)
        self.size = tuple(images[0].shape[2:])
        if part.name == "blocks":
            self.module: nn.Module = BlocksGraph(self.trunk, inputs[0][DENSE])
            self._tensor_of = lambda given: given[DENSE].tokens
        elif part.name == "backbone":
            self.module = BackboneGraph(model)
            self._tensor_of = lambda given: given
        else:
            self.module = DetectorGraph(model)
            self._tensor_of = lambda given: given[0]["image"].unsqueeze(0)
        self.tensors = [self._tensor_of(each) for each in inputs]
        self.calibration = [self._tensor_of(part.prepare(each)) for each in calibration]

    @torch.no_grad()
    def kept_share(self) -> float:
        """The share of patch tokens that the blocks keep, as the mean over blocks and inputs."""
        at = self.module.outputs.index(KEEP_MAPS)
        shares = [self.module(each)[at].float().mean().item() for each in self.tensors]
        return sum(shares) / len(shares)

    def exported(self, names: Sequence[str], folder: Path) -> Iterator[tuple[str, Call, Parity]]:
        """For each runtime: its name, the call that runs its file, and the file's parity."""
        for name in names:
            variant = VARIANTS[name]
            if variant.opset > 18 and self.part == "detector":
                raise InputError(f"--runtime {name}: onnxruntime has no RoiAlign of this opset.")
            path = self._write(variant, folder)
            run, _ = load(path)
            parity = compare(self.module, run, self.tensors)
            if not parity.finite:
                raise InputError(f"--runtime {name}: computes no numbers ({parity}).")
            yield name, self._call(path), parity

    def _write(self, variant: Variant, folder: Path) -> Path:
        about = {"precision": variant.precision, "input": {"size": list(self.size)}}
        source = folder / f"opset{variant.opset}.onnx"
        if not source.exists():
            # Every file gets a program of its own: torch can rewrite a program with open counts
            # only once.
            program = export_program(self.module, self.trunk, self.tensors[0])
            outputs = self.module.outputs
            write_onnx(program, source, about, outputs=outputs, opset=variant.opset)
        if variant.precision == INT8:
            path, weights = folder / "int8.onnx", self.trunk.policy.parameters()
            write_int8(source, path, about, pictures=self.calibration, decisions=weights)
            return path
        if variant.format == "openvino":
            path = folder / f"{variant.precision}.xml"
            write_openvino(source, path, about)
            return path
        return source

    def _call(self, path: Path) -> Call:
        """The file's call; a whole detector answers as detectron2's does, with pasted masks."""
        if self.part == "detector":
            return ExportedDetector(path).eval()
        run, _ = load(path)
        return lambda given: run(self._tensor_of(given))
