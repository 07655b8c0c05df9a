"""Operators of the policies' decisions that ONNX lacks, written with operators that ONNX has.

B rows of N values each; everything here works along the last axis. An exported program is rewritten
with these operators before it becomes ONNX; the `.pt2` file keeps torch's own operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Sorted = tuple[Tensor, Tensor]


def sort_by_topk(
    values: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Sorted:
    """A stable sort as TopK of all values: ONNX promises the lower index first among equals.

    torch does not promise this for its own `topk`, so that this sort is for ONNX alone.
    """
    if values.dtype in (torch.bool, torch.uint8):  # some runtimes' TopK does not take these
        order = values.int().topk(values.shape[dim], dim=dim, largest=descending).indices
        return values.gather(dim, order), order
    found = values.topk(values.shape[dim], dim=dim, largest=descending)
    return found.values, found.indices


def sort_by_comparison(
    values: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Sorted:
    """A stable sort without TopK: a value's place is the number of values that go before it.

    The sort takes N * N comparisons. For a thousand tokens this is little compared to a block.
    """
    values = values.transpose(dim, -1)
    keys = values.int() if values.dtype in (torch.bool, torch.uint8) else values
    one, other = keys.unsqueeze(-1), keys.unsqueeze(-2)
    size = keys.shape[-1]
    places = torch.arange(size, device=keys.device)
    earlier = places.unsqueeze(0) < places.unsqueeze(1)
    ahead = other > one if descending else other < one
    rank = (ahead | ((other == one) & earlier)).long().sum(dim=-1)
    order = torch.zeros_like(rank).scatter(-1, rank, places.expand_as(rank))
    return values.gather(-1, order).transpose(dim, -1), order.transpose(dim, -1)


def searchsorted_by_comparison(
    sorted_sequence: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """The place where each value would be inserted: the number of entries below the value."""
    assert sorter is None and not right and side in (None, "left")
    below = sorted_sequence.unsqueeze(-2) < values.unsqueeze(-1)
    return below.long().sum(dim=-1)


def argsort_by(sort: Callable[..., Sorted]) -> Callable[..., Tensor]:
    """The order alone, from one of the sorts above."""

    def argsort(
        values: Tensor, *, stable: bool = True, dim: int = -1, descending: bool = False
    ) -> Tensor:
        return sort(values, stable=stable, dim=dim, descending=descending)[1]

    return argsort


def where_of_bools(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """A choice between bools as logic, because onnxruntime has no such choice."""
    if one.dtype != torch.bool or other.dtype != torch.bool:
        return NotImplemented
    return (condition & one) | (~condition & other)


def meshgrid_of_rows(tensors: list[Tensor]) -> list[Tensor]:
    """torch's default order, written out: the exporter fails on the default argument."""
    return list(torch.meshgrid(tensors, indexing="ij"))


def rewritten(
    program: torch.export.ExportedProgram, *, topk: bool = True
) -> torch.export.ExportedProgram:
    """The program with these operators in place of the operators that ONNX lacks.

    Without `topk`, no sort becomes a TopK.
    """
    aten = torch.ops.aten
    sort = sort_by_topk if topk else sort_by_comparison
    table: dict[Any, Callable[..., Any]] = {
        aten.sort.stable: sort,
        aten.argsort.stable: argsort_by(sort),
        aten.where.self: where_of_bools,
        aten.meshgrid.default: meshgrid_of_rows,
        aten.searchsorted.Tensor: searchsorted_by_comparison,
    }
    return program.run_decompositions(table)
