"""SViT: its budget on a whole trunk, and its settings."""

import pickle

import pytest
import torch

from svit_det.errors import InputError
from svit_det.policies import TrunkShape, build_policy
from svit_det.policies.svit import SViT

# ------------------------------------------------------------------ the budget


def test_a_budget_of_one_needs_no_looking(svit, tiny_trunk, images):
    for mode in ("threshold", "quota"):
        trunk = tiny_trunk(svit(mode=mode, test_keep_ratio=1.0), depth=4)
        asked = []
        for gate in trunk.policy.gates.values():
            gate.register_forward_hook(lambda *_, asked=asked: asked.append(1))
        assert all(record.everyone for record in trunk(images(2)).history)
        assert asked == []
        trunk.policy.set_keep_ratio(None)
        assert not all(record.everyone for record in trunk(images(2)).history)
        assert asked == [1, 1]


def test_statistics_are_means_over_all_processes(make_policy, tiny_trunk, images, pass_of):
    """Here of two processes, of which the other one keeps all and sees the same margins."""
    trunk = tiny_trunk(make_policy("SViT")).train()
    record = pass_of(trunk, trunk(images(2, (5, 7))))
    kept = record.kept_shares()[3:]

    def mean(value):
        return (value + 1) / 2 if value.shape == kept.shape else value

    trunk.policy.track(record, mean)
    assert torch.allclose(trunk.policy.budget.kept_share, (kept + 1) / 2)


def test_a_policy_can_be_pickled(svit):
    policy = svit()
    again = pickle.loads(pickle.dumps(policy))
    assert torch.equal(again.gates["1"].fc1.weight, policy.gates["1"].fc1.weight)


@pytest.mark.parametrize("ratio", [None, 0.3, 0.8])
def test_the_knob_on_a_whole_trunk(make_policy, tiny_trunk, images, pass_of, ratio):
    trunk = tiny_trunk(make_policy("SViT")).train()
    batch = images(4, (8, 8))
    trained = []
    for _ in range(25):
        with torch.no_grad():
            record = pass_of(trunk, trunk(batch))
        trunk.policy.track(record)
        trained.append(record.kept_shares()[3:].mean())
    trunk.policy.set_keep_ratio(ratio)
    with torch.no_grad():
        spent = pass_of(trunk, trunk.eval()(batch)).kept_shares()[3:].mean().item()
    wanted = torch.stack(trained).mean().item() if ratio is None else ratio
    # What a block skips changes what later gates see, so the margins are not quite those tracked.
    assert spent == pytest.approx(wanted, abs=0.06)


def test_quota_spends_the_knob_on_a_whole_trunk(make_policy, tiny_trunk, images, pass_of):
    policy = make_policy("SViT", mode="quota")
    policy.set_keep_ratio(0.4)
    trunk = tiny_trunk(policy)
    with torch.no_grad():
        shares = pass_of(trunk, trunk(images(2, (10, 10)))).kept_shares()
    assert shares[:3].tolist() == [1, 1, 1]
    assert shares[3:].mean().item() == pytest.approx(0.4, abs=0.005)


def test_turning_the_knob_back_restores_the_schedule(svit):
    policy = svit(mode="quota")
    policy.set_keep_ratio(0.2)
    assert sum(policy.schedule.shares) / 2 == pytest.approx(0.2)
    assert policy.keep_ratio == policy.budget.keep_ratio == 0.2
    policy.set_keep_ratio(None)
    assert policy.schedule.shares == (0.7, 0.5)
    assert policy.keep_ratio is policy.budget.keep_ratio is None


# ------------------------------------------------------------------ what cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_ratios": (0.7,)}, "keep_ratios: 1 targets for 2 layers"),
        ({"layers": (1,)}, "keep_ratios: 2 targets for 1 layers"),
        ({"layers": (1, 4)}, r"layers: \[4\] not in the trunk, whose 4 blocks .* 0 to 3"),
        ({"layers": (-1, 2)}, "layers: -1 must lie in"),
        ({"layers": (1, 1)}, r"layers: \[1, 1\] names a block twice"),
        ({"keep_ratios": (0.7, 0.0)}, r"keep_ratios: 0.0 must lie in \(0, 1\]"),
        ({"keep_ratios": (1.2, 0.5)}, "keep_ratios: 1.2 must lie in"),
        ({"keep_ratios": (float("nan"), 0.5)}, "keep_ratios: nan must lie in"),
        ({"mode": "topk"}, "mode: no 'topk'; choose one of threshold"),
        ({"test_keep_ratio": 0.0}, "test_keep_ratio: 0.0 must lie in"),
        ({"test_keep_ratio": 1.5}, "test_keep_ratio: 1.5 must lie in"),
        ({"test_keep_ratio": "half"}, "test_keep_ratio: 'half' is not a number"),
        ({"test_keep_ratio": 0.5, "mode": "argmax"}, "test_keep_ratio: works .* not in argmax"),
        ({"test_keep_ratio": 0.5, "mode": "sample"}, "test_keep_ratio: works .* not in sample"),
        ({"loss_weight": -1.0}, "loss_weight: -1.0 must lie in"),
        ({"sample_seed": -1}, "sample_seed: -1 must lie in"),
    ],
    ids=str,
)
def test_bad_settings_are_named(svit, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        svit(**options)


def test_the_knob_checks_too(svit):
    with pytest.raises(InputError, match="test_keep_ratio: 2 must lie in"):
        svit().set_keep_ratio(2)
    with pytest.raises(InputError, match=r"test_keep_ratio: works .* not in argmax"):
        svit(mode="argmax").set_keep_ratio(0.5)
    svit(mode="argmax").set_keep_ratio(None)


def test_layers_that_are_not_set_are_the_papers(svit):
    policy = svit(depth=12, layers=(), keep_ratios=())
    assert policy.schedule.layers == (3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert policy.schedule.shares == (0.7, 0.7, 0.7, 0.49, 0.49, 0.49, 0.343, 0.343, 0.343)


def test_every_setting_reaches_the_policy():
    config = SViT.Config(
        layers=(2, 5),
        keep_ratios=(0.6, 0.4),
        loss_weight=3.0,
        test_keep_ratio=0.25,
        mode="quota",
        ratio_per_image=True,
    )
    policy = build_policy("SViT", shape=TrunkShape(24, 6, 3), config=config)
    assert isinstance(policy, SViT)
    assert (policy.schedule.layers, policy.schedule.shares) == ((2, 5), (0.6, 0.4))
    assert (policy.loss_weight, policy.ratio_per_image) == (3.0, True)
    assert policy.mode == "quota"
    assert policy.keep_ratio == policy.budget.keep_ratio == 0.25
    assert sum(policy.eval().schedule.shares) / 2 == pytest.approx(0.25)


def test_the_seed_of_draws_reaches_the_policy():
    config = SViT.Config(mode="sample", sample_seed=9)
    assert build_policy("SViT", shape=TrunkShape(24, 12, 3), config=config).sample_seed == 9


def test_the_defaults_are_the_papers():
    policy = build_policy("SViT", shape=TrunkShape(24, 12, 3))
    assert policy.schedule.layers == (3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert policy.schedule.shares == (0.7, 0.7, 0.7, 0.49, 0.49, 0.49, 0.343, 0.343, 0.343)
    assert (policy.loss_weight, policy.ratio_per_image, policy.mode) == (4.0, False, "threshold")
