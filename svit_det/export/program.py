"""Makes torch's exported program of a module, with sizes fixed or left open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from svit_det.errors import InputError, says_no_memory
from svit_det.export.backbone import example_image
from svit_det.export.quiet import quiet
from svit_det.vit import Execution, Packed, TokenTrunk
from svit_det.vit.positions import by_running_count, by_top

LARGEST_SIDE = 4096
"""Most pixels of a picture's side for a program of open size."""
LEAST_STEPS = 2
"""Least steps of a side for a program of open size: torch takes a side of 1 for a constant."""


@contextmanager
def rows_for_graphs(trunk: TokenTrunk, *, topk: bool = True) -> Iterator[None]:
    """Inside the with-block the trunk finds its rows by operators that all formats have."""
    before = trunk.execution
    trunk.execution = Execution(hard=Packed(find=by_top if topk else by_running_count))
    try:
        yield
    finally:
        trunk.execution = before


@torch.no_grad()
def export_program(
    graph: nn.Module,
    trunk: TokenTrunk,
    example: Tensor,
    *,
    open_step: int | None = None,
    topk: bool = True,
) -> ExportedProgram:
    """The program of `graph`, traced with `example`, for tensors of the example's shape alone.

    With `open_step` the example is (B, 3, height, width), and height and width stay open: any
    multiples of `open_step` pixels. `trunk` is the trunk inside the graph. Raises InputError where
    torch cannot make one graph of the module.
    """
    shapes = None
    if open_step is not None:
        least, largest = (side // open_step for side in open_sides(open_step))
        rows, columns = (Dim(name, min=least, max=largest) for name in ("rows", "columns"))
        shapes = ({2: open_step * rows, 3: open_step * columns},)
    with rows_for_graphs(trunk, topk=topk), quiet():
        try:
            program = torch.export.export(graph, (example,), strict=False, dynamic_shapes=shapes)
            if open_step is not None:
                # The program asserts what the graph took for constant; running it on another size
                # shows the mistake, which other formats would not report.
                height, width = other_size((example.shape[2], example.shape[3]), open_step)
                program.module()(example_image((height, width), len(example)))
            return _without_folders(program)
        except InputError:
            raise
        except Exception as error:  # the exporter may raise anything for code it cannot follow
            if says_no_memory(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if reason.startswith("Guard failed"):  # at the second size
                reason = "torch takes a number that depends on the size for a constant"
            policy = type(trunk.policy).__name__
            sizes = "" if open_step is None else " with --dynamic-size"
            raise InputError(
                f"{policy} does not export as one graph{sizes}: {reason.rstrip('.')[:300]}."
            ) from error


def _without_folders(program: ExportedProgram) -> ExportedProgram:
    """The program without stack traces, which hold the folders of this machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def open_sides(step: int) -> tuple[int, int]:
    """The least and the most pixels of a side, for a program of open size."""
    return LEAST_STEPS * step, LARGEST_SIDE // step * step


def other_size(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """A larger (height, width) with another aspect ratio."""
    return size[0] + divisor, size[1] + 3 * divisor
