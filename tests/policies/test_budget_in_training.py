"""What a policy decides and tracks while it trains does not depend on the budget of tests.

The laws run over every policy that takes a budget, under each word that one of its settings takes.
"""

import copy
from functools import partial

import pytest
import torch

from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.training.greedy import RandomState, greedy_pass

STEPS = 9
"""So many steps that a policy that learns in parts comes through all of them."""


def takes_a_budget(name, config):
    """Whether the policy can be built with these settings and a budget."""
    try:
        settings = POLICY_REGISTRY.get(name).Config(**config, test_keep_ratio=0.3)
        build_policy(name, shape=TrunkShape(24, 12, 3), config=settings)
    except InputError:
        return False
    return True


def settings_of(name):
    """The policy's own settings, then each other word of a setting that takes words."""
    described = POLICY_REGISTRY.get(name).Config.described()
    if "test_keep_ratio" not in described:
        return
    yield {}
    for key, about in described.items():
        for word in about.choices:
            yield {key: (word,) if about.many else word}


CASES = [
    pytest.param(name, config, id=" ".join([name, *map(str, config.values())]))
    for name in POLICY_REGISTRY.names()
    for config in settings_of(name)
    if takes_a_budget(name, config)
]


@pytest.fixture
def twins(make_policy, tiny_trunk):
    """Factory: two trunks that train, alike but for the budget of the second one."""

    def make(name, config):
        one = tiny_trunk(make_policy(name, **config)).train()
        other = copy.deepcopy(one)
        other.policy.set_keep_ratio(0.3)
        return one, other

    return make


def test_a_policy_that_learns_by_reward_is_among_them():
    assert ("IARED2", {"method": "reinforce"}) in [case.values for case in CASES]


@pytest.mark.parametrize(("name", "config"), CASES)
def test_training_does_not_know_the_budget(twins, images, pass_of, same_history, name, config):
    one, other = twins(name, config)
    for step in range(STEPS):
        batch, states = images(4, (5, 7)), []
        for trunk in (one, other):
            torch.manual_seed(step)
            trunk.policy.set_step(step, STEPS)
            with torch.no_grad():
                states.append(trunk(batch))
                trunk.policy.track(pass_of(trunk, states[-1]))
        same_history(*(state.history for state in states))
        assert torch.equal(*(state.tokens for state in states))
    saved = other.state_dict()
    for key, value in one.state_dict().items():
        assert torch.equal(value, saved[key]), key


@pytest.mark.parametrize(("name", "config"), CASES)
def test_the_greedy_pass_does_not_know_it_and_leaves_it(
    twins, images, pass_of, same_history, name, config
):
    """The pass decides as at inference; the next inference still has the budget."""
    one, other = twins(name, config)
    batch, drawn, greedy = images(3, (5, 7)), RandomState.now(), []
    with torch.no_grad():
        for trunk in (one, other):
            torch.manual_seed(1)
            trunk.policy.track(pass_of(trunk, trunk(batch)))
        before = other.eval()(batch)
        for trunk in (one, other):
            trunk.train()
            greedy.append(greedy_pass(trunk, trunk.policy, partial(trunk, batch), random=drawn))
        after = other.eval()(batch)
    same_history(*(state.history for state in greedy))
    assert other.policy.keep_ratio == 0.3
    same_history(before.history, after.history)
    assert torch.equal(before.tokens, after.tokens)
