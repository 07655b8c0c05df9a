"""How far a file may be from its model: compared on typed-out outputs, bound by bound."""

import numpy as np
import pytest
import torch

from svit_det.export.backbone import KEEP_MAPS
from svit_det.export.bounds import DIFFERENCE, OWN_DIFFERENCE, too_far
from svit_det.export.checks import Apart, Parity, compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import BFLOAT16, FLOAT, INT8


class Typed(torch.nn.Module):
    """A graph with one map, which gives its input and keeps every token."""

    outputs = ("p2", KEEP_MAPS)

    def forward(self, image):
        return image, torch.ones(1, 2, 2, 3, dtype=torch.bool)


@pytest.fixture
def parity():
    """Factory: the comparison of `Typed` with a file that changes its outputs."""

    def make(change, *images):
        def run(image):
            return list(change(image.numpy().copy(), np.ones((1, 2, 2, 3), bool)))

        return compare(Typed(), run, images or [torch.ones(1, 1, 2, 3)])

    return make


def test_the_same_is_the_same(parity):
    found = parity(lambda values, keep: (values, keep))
    assert found.apart == {"p2": Apart(0.0, 1.0)} and found.difference == 0
    assert found.same_kept and found.counts == (6, 6) and too_far(found, FLOAT) is None


def test_the_largest_difference_of_all_pictures_counts(parity):
    images = [torch.full((1, 1, 2, 3), value) for value in (2.0, -50.0, 3.0)]
    found = parity(lambda values, keep: (values + 0.01 * (values == 2), keep), *images)
    assert found.apart["p2"].most == pytest.approx(0.01, rel=1e-4)
    assert found.apart["p2"].scale == 50
    assert found.apart["p2"].share == pytest.approx(0.0002, rel=1e-4)


def test_an_output_that_is_always_empty_is_not_compared(parity):
    nothing, something = torch.ones(1, 1, 0, 3), torch.ones(1, 1, 2, 3)
    found = parity(lambda values, keep: (values, keep), nothing, nothing)
    assert found.not_compared == ("p2",)
    assert str(found) == (
        "the same tokens kept, but nothing was found in any picture: p2 NOT COMPARED"
    )
    found = parity(lambda values, keep: (values, keep), nothing, something, nothing)
    assert found.not_compared == ()
    assert str(found) == "the same tokens kept, largest difference 0.0e+00"
    more = parity(lambda values, keep: (np.ones((1, 1, 2, 3)), keep), nothing)
    assert more.not_compared == () and too_far(more, FLOAT).startswith("p2: inf apart")


def test_other_tokens_are_counted(parity):
    def change(values, keep):
        keep[0, 0, 0, 0] = False
        return values, keep

    found = parity(change)
    assert found.alike == 11 / 12 and found.counts == (5, 6)
    assert too_far(found, FLOAT) == "it decides as the model about 91.7% of the tokens"
    assert too_far(found, BFLOAT16) is None


def test_another_shape_and_no_number_are_infinitely_far(parity):
    shorter = parity(lambda values, keep: (values[..., :2], keep))
    assert shorter.apart["p2"].most == np.inf and shorter.finite
    assert too_far(shorter, FLOAT).startswith("p2: inf apart")
    nothing = parity(lambda values, keep: (values * np.nan, keep))
    assert not nothing.finite
    for precision in (FLOAT, INT8, BFLOAT16):
        assert too_far(nothing, precision) == "it gives no numbers"


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("output", [*DetectorGraph.outputs.fget(None)[:-1], "p2"])
def test_each_output_has_its_bound(output, scale):
    bound = {"boxes": 1e-5, "classes": 0.0}.get(output, 1e-4)
    near, far = (Parity({output: Apart(most, scale)}, 1.0, (6,)) for most in steps(bound * scale))
    assert too_far(near, FLOAT) is None
    assert too_far(far, FLOAT).startswith(f"{output}: ")
    assert too_far(far, INT8) is None and too_far(far, BFLOAT16) is None


def steps(bound):
    """The bound, and a number above it."""
    return bound, 1.01 * bound or 1.0


def test_the_bounds_are_those_of_outputs_that_there_are():
    assert set(OWN_DIFFERENCE) < set(DetectorGraph.outputs.fget(None)) and DIFFERENCE == 1e-4


@pytest.mark.parametrize(("precision", "least"), [(FLOAT, 1.0), (BFLOAT16, 0.75), (INT8, 0.5)])
def test_so_many_decisions_are_the_models(precision, least):
    for alike in (least, least - 0.01):
        found = Parity({"p2": Apart(0.0, 1.0)}, alike, (6,))
        assert (too_far(found, precision) is None) == (alike == least)
