"""Multi-scale deformable attention: numbers worked out by hand, and a slow loop."""

import math

import pytest
import torch
from torch.testing import assert_close

from svit_det.adapter.deform_attn import DeformableAttention, cell_centres
from svit_det.adapter.sampling import sample_deformable, sample_maps, sample_rows
from svit_det.errors import InputError

# ------------------------------------------------------------------ by hand


WAYS = pytest.mark.parametrize("sample", [sample_maps, sample_rows])


def one_map(sample, location, values=((1.0, 2.0), (3.0, 4.0))):
    """One query, head, level, point and channel on a map of 2 x 2 cells."""
    rows = torch.tensor(values).reshape(1, 4, 1, 1)
    place = torch.tensor(location).view(1, 1, 1, 1, 1, 2)
    return sample(rows, [(2, 2)], place, torch.ones(1, 1, 1, 1, 1)).item()


@WAYS
@pytest.mark.parametrize(
    ("location", "value"),
    [
        ((0.25, 0.25), 1.0),  # the centre of the first cell
        ((0.75, 0.25), 2.0),  # x first: the cell to its right
        ((0.25, 0.75), 3.0),
        ((0.5, 0.5), 2.5),  # the middle of all four
        ((0.375, 0.25), 1.25),  # a quarter of the way from 1 to 2
        ((0.0, 0.25), 0.5),  # the border: half of it lies in the zeros outside
        ((0.0, 0.0), 0.25),
        ((-0.5, 0.5), 0.0),  # a whole cell outside
    ],
)
def test_bilinear_by_hand(sample, location, value):
    assert one_map(sample, location) == pytest.approx(value, abs=1e-6)


@WAYS
def test_two_levels_two_points_by_hand(sample):
    """Level 0 is 1 x 2 cells (10, 20), level 1 one cell (100).

    Level 0: its left centre with weight .1, its middle (15) with .2: 1 + 3. Level 1: its centre
    with .3, and half outside (50) with .4: 30 + 20. In all 54.
    """
    values = torch.tensor([10.0, 20.0, 100.0]).view(1, 3, 1, 1)
    level_0 = [[0.25, 0.5], [0.5, 0.5]]
    level_1 = [[0.5, 0.5], [1.0, 0.5]]
    locations = torch.tensor([level_0, level_1]).view(1, 1, 1, 2, 2, 2)
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).view(1, 1, 1, 2, 2)
    result = sample(values, [(1, 2), (1, 1)], locations, weights)
    assert result.item() == pytest.approx(54.0, abs=1e-5)


def test_centres_by_hand():
    """A 1 x 2 grid of patches seen from the levels of an image of 16 x 32 pixels."""
    levels = [((2, 4), 0.5), ((1, 2), 1.0), ((1, 1), 2.0)]
    centres = cell_centres((1, 2), 1.0, levels)
    # The coarsest level is one cell of 32 x 32 pixels: the image is the upper half of it.
    assert centres.tolist() == [
        [[0.25, 0.5], [0.25, 0.5], [0.25, 0.25]],
        [[0.75, 0.5], [0.75, 0.5], [0.75, 0.25]],
    ]


def test_centres_on_an_even_grid_are_the_same_on_every_level():
    centres = cell_centres((4, 6), 1.0, [((8, 12), 0.5), ((4, 6), 1.0), ((2, 3), 2.0)])
    assert_close(centres[:, 0], centres[:, 1])
    assert_close(centres[:, 0], centres[:, 2])
    assert_close(centres[7, 1], torch.tensor([1.5 / 6, 1.5 / 4]))


# ------------------------------------------------------------------ by a slow loop


def slowly(values, grids, locations, weights):
    """The sum of the paper, cell by cell."""
    batch, _, heads, channels = values.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    result = torch.zeros(batch, queries, heads, channels)
    starts = [sum(h * w for h, w in grids[:level]) for level in range(levels)]
    for b in range(batch):
        for q in range(queries):
            for k in range(heads):
                for level, (height, width) in enumerate(grids):
                    for p in range(points):
                        x, y = locations[b, q, k, level, p].tolist()
                        x, y = x * width - 0.5, y * height - 0.5
                        for row in (math.floor(y), math.floor(y) + 1):
                            for column in (math.floor(x), math.floor(x) + 1):
                                if not (0 <= row < height and 0 <= column < width):
                                    continue
                                share = (1 - abs(y - row)) * (1 - abs(x - column))
                                cell = values[b, starts[level] + row * width + column, k]
                                result[b, q, k] += weights[b, q, k, level, p] * share * cell
    return result.flatten(2)


GRIDS = pytest.mark.parametrize(
    "grids", [[(3, 5)], [(6, 10), (3, 5), (2, 3)], [(1, 1), (4, 1)]], ids=str
)


@WAYS
@GRIDS
@pytest.mark.parametrize("points", [1, 3])
def test_equals_the_slow_loop(sample, grids, points):
    cells = sum(height * width for height, width in grids)
    values = torch.randn(2, cells, 2, 4)
    locations = torch.rand(2, 5, 2, len(grids), points, 2) * 1.4 - 0.2
    weights = torch.rand(2, 5, 2, len(grids), points)
    expected = slowly(values, grids, locations, weights)
    found = sample(values, grids, locations, weights)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


@GRIDS
def test_both_ways_have_the_same_gradients(grids):
    """Of values, places and weights."""
    cells = sum(height * width for height, width in grids)
    shape = (2, 7, 3, len(grids), 2)
    given = [torch.randn(2, cells, 3, 4), torch.rand(*shape, 2) * 1.4 - 0.2, torch.rand(shape)]
    given = [each.requires_grad_() for each in given]
    into = torch.randn(2, 7, 12)
    found, expected = (
        torch.autograd.grad((sample(given[0], grids, *given[1:]) * into).sum(), given)
        for sample in (sample_rows, sample_maps)
    )
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


# Three levels of a side branch, and the trunk's grid alone.
COCO, DEMO = [(100, 168), (50, 84), (25, 42)], [(64, 64), (32, 32), (16, 16)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("queries", "grids", "points"),
    [(22_050, COCO, 4), (22_050, COCO[1:2], 4), (1_024, DEMO, 2), (5_376, DEMO[1:2], 2)],
    ids=["COCO, 3 levels", "COCO, 1 level", "demo, 3 levels", "demo, 1 level"],
)
def test_both_ways_agree_at_full_size(queries, grids, points):
    """Sums and gradients of one image to 1e-5 of the largest, 6 heads of 32 channels.

    Places keep away from the borders of cells, where the slope of a bilinear sample jumps and the
    two ways may round to different sides.
    """
    shape = (1, queries, 6, len(grids), points)
    sizes = torch.tensor([(width, height) for height, width in grids])[:, None]
    cells = (torch.rand(*shape, 2) * (sizes + 1)).floor()  # some are outside of the map
    places = (cells - 0.5 + torch.rand(*shape, 2) * 0.8 + 0.1) / sizes
    values = torch.randn(1, sum(height * width for height, width in grids), 6, 32)
    weights = torch.rand(shape).flatten(3).softmax(dim=-1).view(shape)
    given = [each.requires_grad_() for each in (values, places, weights)]
    into = torch.randn(1, queries, 6 * 32)
    results = []
    for sample in (sample_rows, sample_maps):
        sums = sample(values, grids, places, weights)
        results.append([sums.detach(), *torch.autograd.grad((sums * into).sum(), given)])
    for name, found, expected in zip(("sums", "values", "places", "weights"), *results):
        apart = (found - expected).abs().max() / expected.abs().max()
        assert apart <= 1e-5, (name, apart)


def test_only_asked_gradients_are_made():
    """A frozen table, and factors without a gradient."""
    values, places = torch.randn(1, 6, 2, 4), torch.rand(1, 3, 2, 1, 2, 2)
    weights = torch.rand(1, 3, 2, 1, 2)
    for learning in (values, weights):
        learning.requires_grad_()
        sample_rows(values, [(2, 3)], places, weights).sum().backward()
        assert learning.grad.abs().sum() > 0
        learning.requires_grad_(False)
    assert places.grad is None


@WAYS
def test_a_place_that_is_no_number_stays_visible(sample):
    places = torch.full((1, 2, 1, 1, 1, 2), 0.5)
    places[0, 1] = torch.nan
    sums = sample(torch.ones(1, 4, 1, 3), [(2, 2)], places, torch.ones(1, 2, 1, 1, 1))
    assert sums[0, 0].tolist() == [1, 1, 1] and sums[0, 1].isnan().all()


def test_a_compiled_graph_samples_maps():
    """Exported and compiled graphs hold the operation that every back end knows."""
    values, places = torch.randn(1, 6, 2, 4), torch.rand(1, 3, 2, 1, 2, 2)

    class Sample(torch.nn.Module):
        def forward(self, values, places, weights):
            return sample_deformable(values, [(2, 3)], places, weights)

    given = (values, places, torch.rand(1, 3, 2, 1, 2))
    exported = torch.export.export(Sample(), given)
    assert "grid_sampler" in exported.graph_module.code
    assert_close(exported.module()(*given), Sample()(*given))


def test_the_module_is_the_formula():
    """Offsets are in cells of each level, weights a softmax over levels and points together."""
    module = DeformableAttention(8, num_heads=2, num_points=3, num_levels=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    grids = [(4, 6), (2, 3)]
    queries, values = torch.randn(2, 5, 8), torch.randn(2, 30, 8)
    reference = torch.rand(5, 2, 2)
    offsets = module.sampling_offsets(queries).view(2, 5, 2, 2, 3, 2)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(grids):
        for axis, size in enumerate((width, height)):
            place = reference[None, :, None, level, None, axis]
            locations[:, :, :, level, :, axis] = place + offsets[:, :, :, level, :, axis] / size
    weights = module.attention_weights(queries).view(2, 5, 2, 6).softmax(dim=-1)
    projected = module.value_proj(values).view(2, 30, 2, 4)
    looked_up = slowly(projected, grids, locations, weights.view(2, 5, 2, 2, 3))
    expected = module.output_proj(looked_up)
    assert_close(module(queries, reference, values, grids), expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ start, precision, bad input


def test_heads_start_in_different_directions():
    """Six heads: (cos, sin) of multiples of 60 degrees, scaled to a largest entry of 1."""
    module = DeformableAttention(12, num_heads=6, num_points=4, num_levels=3)
    bias = module.sampling_offsets.bias.view(6, 3, 4, 2)
    assert bias[0, 0].tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]]
    slope = 1 / math.tan(math.pi / 3)
    assert bias[1, 2, 0].tolist() == pytest.approx([slope, 1.0], abs=1e-6)
    assert bias[3, 1, 3].tolist() == pytest.approx([-4.0, 0.0], abs=1e-5)
    assert not module.sampling_offsets.weight.any()
    assert not module.attention_weights.weight.any() and not module.attention_weights.bias.any()


def test_sampling_stays_in_float32_under_autocast():
    module = DeformableAttention(8, num_heads=2, num_points=2, num_levels=1)
    queries, values = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    reference = cell_centres((2, 3), 1.0, [((2, 3), 1.0)])
    seen = []
    module.output_proj.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].dtype))
    full = module(queries, reference, values, [(2, 3)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(queries, reference, values, [(2, 3)])
    assert seen == [torch.float32, torch.float32]
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.03 * full.norm()


def test_values_in_half_precision_are_summed_in_float32():
    values = torch.randn(1, 6, 2, 4).bfloat16()
    locations, weights = torch.rand(1, 3, 2, 1, 2, 2), torch.rand(1, 3, 2, 1, 2)
    found = sample_deformable(values, [(2, 3)], locations.bfloat16(), weights.bfloat16())
    assert found.dtype == torch.float32


@pytest.mark.parametrize("heads", [0, 5, 7])
def test_heads_that_do_not_divide_the_width(heads):
    with pytest.raises(InputError, match=rf"^num_heads: 24 channels .* {heads} heads"):
        DeformableAttention(24, num_heads=heads, num_points=4, num_levels=1)


def test_no_points():
    with pytest.raises(InputError, match=r"^num_points: 0"):
        DeformableAttention(24, num_heads=3, num_points=0, num_levels=1)
