"""Counts that follow from an open size: an ONNX file computes them in double precision."""

import math

import pytest
import torch
from torch import nn
from torch.export import Dim

from svit_det.errors import InputError
from svit_det.export.formats import check_rounding, write_onnx, write_pt2
from svit_det.export.running import load

RULES = {
    "floor": lambda number: math.floor(0.7 * number),
    "floor with a margin": lambda number: math.floor(0.343 * number + 1e-6),
    "ceil": lambda number: math.ceil(number * 0.6),
    "round": lambda number: round(0.343 * number),
    "trunc": lambda number: math.trunc(0.7 * number),
    "a quarter": lambda number: round(number / 4),
    "less a half": lambda number: math.floor(0.7 * number - 0.5),
}
SIZES = [(9, 20), (8, 8), (50, 110)]
SIZES += [(rows, columns) for rows in range(2, 14) for columns in range(rows, 60, 7)]


class Counts(nn.Module):
    """Rows of zeros for each rule, their number by the rule from the number of pixels.

    The first of them hold a number that depends on the height: a tensor takes it as a single.
    """

    def __init__(self, rules):
        super().__init__()
        self.rules = rules

    def forward(self, image):
        number = image.shape[2] * image.shape[3]
        rows = [image.new_zeros(rule(number), 1) for rule in self.rules]
        rows[0] = rows[0] + image.shape[2] * 0.5
        return tuple(rows)


def program_of(*rules):
    sides = {2: Dim("rows", min=2, max=512), 3: Dim("columns", min=2, max=512)}
    example = torch.zeros(1, 3, 8, 12)
    return torch.export.export(Counts(rules), (example,), dynamic_shapes=(sides,), strict=False)


def test_a_file_counts_as_the_model_at_every_size(tmp_path):
    """In single precision 0.7 * 180 is 126, and in double precision a little less."""
    path = tmp_path / "counts.onnx"
    write_onnx(program_of(*RULES.values()), path, {}, outputs=[f"by {name}" for name in RULES])
    run, _ = load(path)
    for size in SIZES:
        found = run(torch.zeros(1, 3, *size))
        counts = [rule(size[0] * size[1]) for rule in RULES.values()]
        assert [len(rows) for rows in found] == counts, size
        assert found[0][0, 0] == size[0] / 2


def test_formats_that_cannot_round_say_so_plainly(tmp_path):
    rounded = program_of(RULES["ceil"])
    with pytest.raises(InputError, match=r"^OpenVINO computes a count of tokens .* in single"):
        check_rounding(rounded)
    check_rounding(program_of(lambda number: number // 2))
    with pytest.raises(InputError) as raised:
        write_pt2(rounded, tmp_path / "counts.pt2", {})
    assert str(raised.value) == (
        "torch.export cannot save this model: torch cannot save the rounding of an open size; "
        "choose another of --formats."
    )
