"""From a module of tensors to torch's exported program, with sizes fixed or left open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from svit_det.errors import InputError
from svit_det.export.backbone import example_image
from svit_det.export.quiet import quiet
from svit_det.vit import Execution, Packed, TokenNet
from svit_det.vit.positions import by_running_count, by_top

LARGEST_SIDE = 4096
"""Pixels, of a picture that a program of open size is made for."""


@contextmanager
def rows_for_graphs(net: TokenNet, *, topk: bool = True) -> Iterator[None]:
    """Inside the with-block the trunk finds its rows by operators that every format has."""
    before = net.trunk.execution
    net.trunk.execution = Execution(hard=Packed(find=by_top if topk else by_running_count))
    try:
        yield
    finally:
        net.trunk.execution = before


@torch.no_grad()
def export_program(
    graph: nn.Module,
    net: TokenNet,
    *,
    size: tuple[int, int],
    divisor: int,
    dynamic_size: bool = False,
    topk: bool = True,
) -> ExportedProgram:
    """The program of `graph` for one picture of `size` (height, width), or of any size.

    `net` is the network inside it. Raises InputError where torch cannot make one graph of it.
    """
    shapes = None
    if dynamic_size:
        # At least two steps a side: torch takes a side of one for a size that is always one.
        largest = LARGEST_SIDE // divisor
        rows, columns = (Dim(name, min=2, max=largest) for name in ("rows", "columns"))
        shapes = ({2: divisor * rows, 3: divisor * columns},)
    with rows_for_graphs(net, topk=topk), quiet():
        try:
            program = torch.export.export(
                graph, (example_image(size),), strict=False, dynamic_shapes=shapes
            )
            if dynamic_size:
                # What the graph took for a constant it asserts: other formats would not.
                program.module()(example_image(other_size(size, divisor)))
            return _without_folders(program)
        except InputError:
            raise
        except Exception as error:  # whatever the exporter raises for what it cannot follow
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            policy = type(net.trunk.policy).__name__
            sizes = " with --dynamic-size" if dynamic_size else ""
            raise InputError(
                f"{policy} does not export as one graph{sizes}: {reason.rstrip('.')[:300]}."
            ) from error


def _without_folders(program: ExportedProgram) -> ExportedProgram:
    """The same without stack traces, which hold the folders of this machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def other_size(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """Another (height, width), with other proportions."""
    return size[0] + divisor, size[1] + 3 * divisor
