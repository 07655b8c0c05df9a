"""A small adapter around a tiny trunk."""

import pytest
import torch

from svit_det.adapter import ViTAdapter

PAIRS = ((0, 2), (3, 5), (6, 8), (9, 11))


@pytest.fixture
def adapter(tiny_trunk):
    """Factory: a small adapter over twelve blocks of 24 channels, no parameter at its first 0."""

    def make(policy=None, *, interactions=PAIRS, trunk=None, **options):
        trunk = {"patch_size": 8} | (trunk or {})
        net = ViTAdapter(
            trunk=tiny_trunk(policy, **trunk),
            interactions=interactions,
            num_heads=3,
            num_points=2,
            stem_width=4,
            **options,
        )
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if not name.startswith("trunk."):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            for name, buffer in net.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
        return net.eval()

    return make
