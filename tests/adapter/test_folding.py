"""Norms that stand still, folded into convolutions and sums: the same values, without gradients."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torch.testing import assert_close

from svit_det.adapter.folding import run_folded, scale_and_shift
from svit_det.adapter.output_maps import add_and_norm, finest_map, level_maps

BATCH_NORMS = pytest.mark.parametrize(
    "kind", [nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm, FrozenBatchNorm2d]
)


def trained(norm):
    """A norm whose four vectors are its own."""
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean"):
            getattr(norm, name).copy_(torch.randn(norm.num_features))
        norm.running_var.copy_(0.1 + torch.rand(norm.num_features))
    return norm.eval()


def by_hand():
    norm = nn.BatchNorm2d(1, eps=0.0).eval()
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(4.0)
    with torch.no_grad():
        norm.weight.fill_(6.0)
        norm.bias.fill_(1.0)
        return scale_and_shift(norm)


def test_scale_and_shift_by_hand():
    """6 (x - 3) / 2 + 1 = 3 x - 8."""
    assert [each.item() for each in by_hand()] == [3, -8]


@BATCH_NORMS
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_with_its_norm(kind, bias):
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, padding=1, bias=bias), trained(kind(5)), nn.ReLU(inplace=True)
    )
    layers += nn.Sequential(nn.Conv2d(5, 4, 1), trained(kind(4)), nn.MaxPool2d(2))
    images = torch.randn(2, 3, 16, 20)
    with torch.no_grad():
        reads = [images]
        for layer in layers:
            if kind is nn.SyncBatchNorm and isinstance(layer, kind):
                layer = layer.eval()
            reads.append(layer(reads[-1]) if not isinstance(layer, nn.ReLU) else reads[-1].relu())
        assert_close(run_folded(layers, images), reads[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(1, 4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)]
)
def test_what_does_not_stand_still_is_not_folded(norm):
    """A group norm, a batch norm in training, and one without statistics."""
    with torch.no_grad():
        assert scale_and_shift(norm) is None
        assert scale_and_shift(norm.train()) is None


def test_with_gradients_the_norm_learns():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4)))
    run_folded(layers, torch.randn(1, 3, 8, 8)).sum().backward()
    assert layers[1].weight.grad is not None


@BATCH_NORMS
@pytest.mark.parametrize("grid", [(2, 3), (3, 5)])
def test_output_maps(kind, grid):
    """All four, on even and odd grids: with gradients as the formula, without them the same."""
    height, width = grid
    grids = [(2 * height, 2 * width), grid, (-(-height // 2), -(-width // 2))]
    prior = torch.randn(2, sum(h * w for h, w in grids), 6)
    stem_map, trunk_map = torch.randn(2, 4, 4 * height, 4 * width), torch.randn(2, 6, *grid)
    project, up = nn.Conv2d(4, 6, 1), nn.ConvTranspose2d(6, 6, 2, stride=2)
    norm = trained(kind(6))
    levels = level_maps(prior, grids)
    assert [tuple(level.shape[2:]) for level in levels] == grids

    def every():
        yield finest_map((project, stem_map), up, levels[0], trunk_map, norm)
        yield from (
            add_and_norm(level, trunk_map, stride, norm)
            for level, stride in zip(levels, (0.5, 1, 2))
        )

    before = [stem_map.clone(), trunk_map.clone(), prior.clone()]
    plain = list(every())
    with torch.no_grad():
        folded = list(every())
    assert plain[0].grad_fn is not None
    assert_close(folded, plain, atol=1e-5, rtol=1e-5)
    assert_close([stem_map, trunk_map, prior], before, atol=0, rtol=0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for half, full in zip(every(), plain, strict=True):
            assert (half.float() - full).norm() < 0.02 * full.norm()
