"""The laws of policies, under the adapter, and what it costs in memory."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from svit_det.adapter import ViTAdapter
from svit_det.policies import POLICY_REGISTRY, TaskLosses, TrunkShape, build_policy

TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}
DECIDING = [
    name
    for name in POLICY_REGISTRY.names()
    if "layers" in POLICY_REGISTRY.get(name).Config.described()
]


def test_a_batch_of_two_is_two_batches_of_one(adapter, images, policy):
    net = adapter(policy)
    batch = images(2, (3, 5), 8)
    with torch.no_grad():
        together, record = net(batch)
        alone = [net(batch[index : index + 1]) for index in range(2)]
    for name, each in together.items():
        assert_close(each, torch.cat([maps[name] for maps, _ in alone]), **TOLERANCE)
    singles = torch.cat([single.keep_maps() for _, single in alone])
    assert torch.equal(record.keep_maps(), singles)


def test_trained_is_run(adapter, images, policy_case, forced):
    """The selections that inference made, as gates: the same maps, computed for everyone."""
    torch.manual_seed(5)
    net = adapter(policy_case.build())
    batch = images(2, (4, 6), 8)
    with torch.no_grad():
        packed, record = net(batch)

        def change(layer, stage, selection):
            then, parts = record.blocks[layer], selection.parts
            keep = then.keys if stage == "enter" else then.selection.keep
            if parts is not None:  # the keys are without the images that do not attend
                keep = then.selection.keep
                parts = replace(parts, **{name: on.float() for name, on in vars(parts).items()})
            return replace(selection, keep=keep, gate=keep.float(), total=None, parts=parts)

        net.trunk.policy = forced(net.trunk.policy, change).eval()
        masked, _ = net(batch)
    for name, each in packed.items():
        assert_close(masked[name], each, atol=1e-4, rtol=1e-4)


def test_every_parameter_learns(adapter, images, policy):
    """In six images and up to eight passes: by chance no image of a pass may run some sub-layer."""
    net, still = adapter(policy).train(), None
    for _ in range(8):
        maps, record = net(images(6, (4, 6), 8))
        task = sum((each * torch.randn_like(each)).mean() for each in maps.values())
        own = net.trunk.policy.losses(record, TaskLosses({"loss_task": task}))
        (task + sum(own.values())).backward()
        idle = [name for name, parameter in net.named_parameters() if parameter.grad is None]
        assert idle == []
        still = [name for name, parameter in net.named_parameters() if not parameter.grad.any()]
        if not still:
            break
    assert still == []


# ------------------------------------------------------------------ memory


class LargestTensor(TorchDispatchMode):
    """The most numbers that any operation returned, forward and backward."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // 4)
        return out


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", DECIDING)
def test_no_attention_matrix_at_full_size(tiny_trunk, name, training):
    """800 x 1344 pixels, 4,200 tokens: nothing as large as N x N is ever made, scores and all."""
    config = POLICY_REGISTRY.get(name).Config(layers=(1,), keep_ratios=(0.7,))
    policy = build_policy(name, shape=TrunkShape(24, 2, 3), config=config)
    trunk = tiny_trunk(policy, depth=2, patch_size=16, pretrain_grid=(14, 14))
    net = ViTAdapter(
        trunk=trunk, interactions=[[0, 1]], num_heads=3, num_points=1, stem_width=4
    ).train(training)
    images = torch.randn(1, 3, 800, 1344)
    with LargestTensor() as largest, torch.set_grad_enabled(training):
        maps, _ = net(images)
        if training:
            sum(each.sum() for each in maps.values()).backward()
    tokens = 50 * 84
    assert largest.numbers < tokens**2 / 2
