"""The pieces that policies share: choosing the highest, notes, survivors, and the registry."""

from dataclasses import dataclass

import pytest
import torch

from svit_det.errors import InputError
from svit_det.policies import (
    POLICY_REGISTRY,
    WRAPPER_REGISTRY,
    TokenPolicy,
    TrunkShape,
    build_policy,
    ranking,
)
from svit_det.policies.dense import Dense
from svit_det.policies.ranking import keep_highest, keep_top
from svit_det.policies.scheduled import Survivors, survivors
from svit_det.policies.svit import SViT
from svit_det.policies.wrappers import Forgetful, Monotone

SCORE = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
EVERY_TOKEN = torch.ones(2, 4, dtype=torch.bool)
INF, NAN = float("inf"), float("nan")
SHAPE = TrunkShape(24, 12, 3)


def places(keep):
    return [row.nonzero().flatten().tolist() for row in keep]


# ------------------------------------------------------------------ the highest


@pytest.fixture(params=[0, 10_000], ids=["by threshold", "sorted"])
def both_ways(request, monkeypatch):
    """Few tokens are sorted, many are compared with a threshold; here whichever it says."""
    monkeypatch.setattr(ranking, "SORTED_UP_TO", request.param)


@pytest.mark.usefixtures("both_ways")
def test_the_highest_of_each_image():
    assert places(keep_top(SCORE, 2)) == [[1, 3], [0, 1]]
    assert places(keep_highest(SCORE, EVERY_TOKEN, torch.tensor([2, 2]))) == [[1, 3], [0, 1]]


@pytest.mark.usefixtures("both_ways")
def test_keep_top_by_hand():
    score = torch.tensor([[0.1, 0.9, 0.5], [3.0, -1.0, 2.0]])
    assert keep_top(score, 2).int().tolist() == [[0, 1, 1], [1, 0, 1]]
    assert keep_top(score, 0).int().tolist() == [[0, 0, 0], [0, 0, 0]]
    assert keep_top(score, 3).all()


def test_another_number_for_each_image_and_some_not_up_for_choice():
    among = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]).bool()
    assert places(keep_highest(SCORE, among, torch.tensor([1, 0]))) == [[3], []]
    assert places(keep_highest(SCORE, among, torch.tensor([2, 1]))) == [[2, 3], [2]]
    # More than there are: all that are up for choice, and no other.
    assert places(keep_highest(SCORE, among, torch.tensor([4, 3]))) == [[0, 2, 3], [2, 3]]


def test_of_equals_the_first():
    assert places(keep_highest(torch.zeros(2, 4), EVERY_TOKEN, torch.tensor([1, 3]))) == [
        [0],
        [0, 1, 2],
    ]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    ("score", "count", "kept"),
    [
        ([0.0, 0.0, 0.0, 0.0], 3, [0, 1, 2]),
        ([2.0, 7.0, 7.0, 7.0], 2, [1, 2]),
        ([7.0, 2.0, 2.0, 9.0], 3, [0, 1, 3]),
        ([-INF, -INF, 1.0, -INF], 3, [0, 1, 2]),
        ([-INF, -INF, -INF, -INF], 2, [0, 1]),
        ([0.0, -0.0, 0.0, -0.0], 2, [0, 1]),
        ([INF, 1.0, INF, INF], 2, [0, 2]),
        ([1.0, NAN, NAN, NAN], 2, [1, 2]),
    ],
    ids=str,
)
def test_ties_go_to_the_first_in_order(score, count, kept):
    """In one image as in many, beside images without ties."""
    alone, beside = torch.tensor([score]), torch.tensor([[1.0, 3, 2, 4], score, [4.0, 3, 2, 1]])
    counts = torch.full((3,), count)
    assert places(keep_top(alone, count)) == [kept]
    assert places(keep_top(beside, count))[1] == kept
    assert places(keep_highest(alone, EVERY_TOKEN[:1], counts[:1])) == [kept]
    assert places(keep_highest(beside, torch.ones(3, 4).bool(), counts))[1] == kept


@pytest.mark.usefixtures("both_ways")
def test_thousands_of_equals_are_taken_in_order():
    """A sort that is not stable would mix them from sixteen on."""
    score = torch.randint(3, (2, 4200)).float()
    for count in (1, 1500, 4199):
        by_hand = sorted(range(4200), key=lambda place: (-score[1, place].item(), place))[:count]
        assert places(keep_top(score, count))[1] == sorted(by_hand)
        counts = torch.full((2,), count)
        assert places(keep_highest(score, torch.ones(2, 4200).bool(), counts))[1] == sorted(by_hand)


# ------------------------------------------------------------------ notes


def test_survivors(a_state, a_view):
    state = a_state(4, num_extra=1, num_images=2)
    assert survivors(a_view(), state, None).total == 5
    left = Survivors(torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]).bool())
    candidates = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]]).bool()
    assert places(survivors(a_view(), state, left).keep) == [[0, 2, 3], [2, 3]]
    assert survivors(a_view(), state, left).total is None
    among = survivors(a_view(candidates=candidates), state, left)
    assert places(among.keep) == [[0, 3], [2]]
    promised = Survivors(torch.tensor([[1, 0, 1, 1], [1, 0, 1, 1]]).bool(), total=4)
    assert survivors(a_view(), state, promised).total == 4
    assert survivors(a_view(candidates=candidates), state, promised).total is None


@dataclass(frozen=True)
class Steps:
    """A note."""

    count: int


class Remembers(TokenPolicy):
    """A policy with notes."""

    Notes = Steps


def test_a_note_lies_under_the_policys_own_key(a_state):
    state, policy = a_state(), Remembers()
    assert policy.recall(state) is None
    after = policy.remember(state, Steps(1))
    assert policy.recall(after) == Steps(1)
    assert policy.recall(state) is None  # a state is never changed
    assert policy.recall(policy.remember(after, Steps(2))) == Steps(2)
    assert set(after.notes) == policy.note_keys == {"Remembers"}
    assert Dense().note_keys == frozenset()


def test_notes_under_another_policys_key_are_refused_in_a_sentence(a_state):
    state = a_state(notes={"Remembers": Survivors(torch.ones(1, 4).bool())})
    with pytest.raises(InputError, match="notes of Remembers hold a Survivors, not its own Steps"):
        Remembers().recall(state)


def test_a_note_of_another_type_is_refused_in_a_sentence(a_state):
    for policy in (Remembers(), Dense()):
        with pytest.raises(InputError, match=r"remembers \w+, not str: say so in .* Notes\."):
            policy.remember(a_state(), "a note")


def test_a_state_with_a_strangers_notes_is_refused_by_the_trunk(tiny_trunk, images):
    trunk = tiny_trunk(depth=2)
    state = Remembers().remember(trunk.embed(images()), Steps(1))
    with pytest.raises(
        InputError, match="notes of Remembers, which is not the policy of this trunk"
    ):
        trunk.run(state, 0, 2)
    for policy in (Remembers(), Monotone(Remembers())):
        trunk.policy = policy
        trunk.run(state, 0, 2)


# ------------------------------------------------------------------ defaults of the contract


def test_a_policy_without_a_budget_refuses_one():
    assert (Dense().schedule, Dense().keep_ratio) == (None, None)
    with pytest.raises(InputError, match="test_keep_ratio: Dense has no budget to set"):
        Dense().set_keep_ratio(0.5)


def test_taking_part_in_training_is_having_losses_statistics_or_a_clock(make_policy):
    assert not Dense().takes_part_in_training
    assert make_policy("SViT").takes_part_in_training  # losses and thresholds
    assert make_policy("EViT").takes_part_in_training  # the clock of its warm-up
    assert not make_policy("ATS").takes_part_in_training
    assert (Dense().rate_factors(), Dense().frozen(0)) == ({}, ())


# ------------------------------------------------------------------ the registry


@pytest.mark.parametrize(
    ("registry", "taken"), [(POLICY_REGISTRY, SViT), (WRAPPER_REGISTRY, Monotone)], ids=str
)
def test_a_name_taken_twice_is_refused_in_a_sentence(registry, taken):
    again = type(taken.__name__, (TokenPolicy,), {})
    with pytest.raises(InputError, match=f"'{taken.__name__}' is registered already, as svit_det"):
        registry.register()(again)
    assert registry.get(taken.__name__) is taken


def test_names_are_sorted():
    assert POLICY_REGISTRY.names() == sorted(POLICY_REGISTRY.names())
    assert {"ATS", "AttentionProbe", "Dense", "EViT", "EvoViT", "SViT"} <= set(
        POLICY_REGISTRY.names()
    )
    assert {"Forgetful", "Monotone"} <= set(WRAPPER_REGISTRY.names())


def test_building_by_name_with_wrappers_innermost_first():
    config = SViT.Config(mode="quota")
    policy = build_policy("SViT", shape=SHAPE, config=config, wrappers=["Monotone", "Forgetful"])
    assert isinstance(policy, Forgetful)
    assert isinstance(policy.policy, Monotone)
    assert isinstance(policy.policy.policy, SViT)
    assert policy.policy.policy.mode == "quota"
    assert isinstance(build_policy("Dense", shape=SHAPE), Dense)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SVit", {}, "name: 'SVit' is not registered; there are .*SViT"),
        ("SViT", {"wrappers": ["Monoton"]}, "wrappers: 'Monoton' is not .* there are .*Monotone"),
        (
            "SViT",
            {"wrappers": ["Forgetful"] * 2},
            r"wrappers: \['Forgetful', 'For.* names one twic",
        ),
        (
            "SViT",
            {"wrappers": ["Monotone"], "config": SViT.Config(test_keep_ratio=0.5)},
            "test_keep_ratio: not under the wrapper Monotone",
        ),
    ],
    ids=["name", "wrapper", "twice", "budget"],
)
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        build_policy(name, shape=SHAPE, **options)


def test_a_member_of_the_lowest_score_comes_before_any_other():
    score = torch.tensor([[0.5, -INF, 0.7, -INF]])
    among = torch.tensor([[False, False, True, True]])
    kept = keep_highest(score, among, torch.tensor([2]))
    assert kept.tolist() == [[False, False, True, True]]
