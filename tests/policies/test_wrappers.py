"""What holds for every policy around a policy: the contract passes through, and the weights."""

import pytest
import torch
from torch import nn

from svit_det.policies import WRAPPER_REGISTRY, TokenPolicy
from svit_det.policies.wrappers import Forgetful, Monotone, PolicyWrapper, innermost

WRAPPERS = [WRAPPER_REGISTRY.get(name) for name in WRAPPER_REGISTRY.names()]


def public(contract):
    """What a class says itself, without what begins with an underscore."""
    return {name for name in vars(contract) if not name.startswith("_")}


# Settings and notes: a wrapper has its own, or none. Names of parts are longer under it: see below.
OWN = {"Config", "Notes", "recall", "remember", "note_keys", "rate_factors", "frozen"}
CONTRACT = sorted(public(TokenPolicy) - OWN)


class Answers(TokenPolicy):
    """Answers each question of the contract in a way that nothing else does."""

    answers = False


def answering(name, member):
    """An `Answers` member: a method gives back its name and arguments, an attribute its name."""
    if callable(member):
        return lambda self, *args, **options: (name, args, options)
    return property(lambda self: (name,) if self.answers else None)


for _name in CONTRACT:
    setattr(Answers, _name, answering(_name, vars(TokenPolicy)[_name]))


@pytest.mark.parametrize("wrapper", [PolicyWrapper, *WRAPPERS])
def test_all_of_the_contract_reaches_the_policy_inside(wrapper):
    """Each method and attribute that the wrapper has no answer of its own to."""
    inside = Answers()
    outside = wrapper(PolicyWrapper(inside))
    inside.answers = True
    asked = [name for name in CONTRACT if wrapper is PolicyWrapper or name not in vars(wrapper)]
    assert len(asked) >= 15
    for name in asked:
        answer = getattr(outside, name)
        if callable(answer):
            assert answer(1, 2, three=3) == (name, (1, 2), {"three": 3})
        else:
            assert answer == (name,)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_the_policy_inside_says_about_itself_is_passed_on(wrapper, make_policy, ablated):
    attentive = wrapper(make_policy("AttentiveHalf"))
    assert attentive.needs_class_token
    assert not wrapper(ablated()).needs_class_token
    assert wrapper(ablated()).schedule == ablated().schedule
    assert wrapper(ablated()).takes_part_in_training
    assert wrapper(make_policy("AttentionProbe")).shows_attention
    assert wrapper(make_policy("ATS")).always_skips


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_notes_are_those_of_the_wrapper_and_of_the_policy_inside(wrapper, make_policy):
    own = set() if wrapper.Notes is type(None) else {wrapper.__name__}
    assert wrapper(make_policy("EViT")).note_keys == own | {"EViT"}
    assert wrapper(make_policy("Dense")).note_keys == own


def test_the_innermost_policy(ablated):
    policy = ablated()
    assert innermost(policy) is innermost(Forgetful(Monotone(policy))) is policy


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_tracking_reaches_the_policy_inside(wrapper, ablated, tiny_trunk, images, pass_of):
    trunk = tiny_trunk(wrapper(ablated())).train()
    trunk.policy.track(pass_of(trunk, trunk(images(2, (6, 7)))))
    assert trunk.policy.policy.budget.num_batches_tracked == 1


NESTINGS = [
    lambda policy: policy,
    Monotone,
    Forgetful,
    lambda policy: Forgetful(Monotone(policy)),
    lambda policy: Monotone(Forgetful(policy)),
]
IDS = ["bare", "Monotone", "Forgetful", "Forgetful(Monotone)", "Monotone(Forgetful)"]


@pytest.mark.parametrize("saved", NESTINGS, ids=IDS)
@pytest.mark.parametrize("loaded", NESTINGS, ids=IDS)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a model"])
def test_one_checkpoint_serves_with_and_without_wrappers(ablated, saved, loaded, inside):
    def model(wrap):
        policy = wrap(ablated())
        return policy, nn.ModuleDict({"policy": policy, "head": nn.Linear(2, 2)})

    source, target = (model(wrap)[inside] for wrap in (saved, loaded))
    state = source.state_dict()
    bare = model(NESTINGS[0])[inside].state_dict()
    assert set(state) == set(bare)
    result = target.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("wrap", NESTINGS[1:], ids=IDS[1:])
def test_a_wrapped_policy_refuses_what_does_not_fit(ablated, wrap):
    state = ablated().state_dict()
    state["gates.7.fc1.weight"] = state.pop("gates.3.fc1.weight")
    with pytest.raises(RuntimeError, match=r"(?s)gates.3.fc1.weight.*gates.7.fc1.weight"):
        wrap(ablated()).load_state_dict(state)


def test_thresholds_are_refreshed_inside_a_wrapper(ablated, tiny_trunk, images, pass_of):
    trunk = tiny_trunk(ablated()).train()
    trunk.policy.track(pass_of(trunk, trunk(images(2, (6, 7)))))
    wrapped = tiny_trunk(Forgetful(Monotone(ablated())))
    wrapped.load_state_dict(trunk.state_dict())
    thresholds = wrapped.policy.policy.policy.budget.thresholds
    assert thresholds.any()
    assert torch.equal(thresholds, trunk.policy.budget.thresholds)


@pytest.mark.parametrize("wrap", NESTINGS[3:], ids=IDS[3:])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nested_wrappers_do_both(ablated, tiny_trunk, images, wrap, training):
    trunk = tiny_trunk(wrap(ablated())).train(training)
    state = trunk(images(2, (6, 7)))
    keeps = torch.stack([record.selection.keep for record in state.history])
    assert not (keeps[1:] & ~keeps[:-1]).any()
    assert not keeps[-1].all()
    assert not state.patches[~keeps[-1]].any()
    assert state.patches[keeps[-1]].any(dim=-1).all()


def test_names_of_parts_reach_through_wrappers(make_policy, tiny_trunk):
    """What a recipe names is there under any number of wrappers."""
    inner = make_policy("IARED2", method="reinforce", agent_rate=3.0)
    policy = WRAPPER_REGISTRY.get("Forgetful")(WRAPPER_REGISTRY.get("Monotone")(inner))
    named = {f"trunk.{name}" for name, _ in tiny_trunk(policy).named_parameters()}
    names = [*policy.frozen(0, 90), *policy.rate_factors()]
    assert "trunk.policy.policy.policy.agents.4" in names and "trunk.policy" in names
    for name in names:
        assert any(each == name or each.startswith(f"{name}.") for each in named), name
