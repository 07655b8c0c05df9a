"""More laws: what a policy promises, by a count known beforehand and by its class attributes.

Twelve blocks of 24 channels, tokens of 4 x 4 pixels; B images, N patch tokens.
"""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, TokenPolicy
from svit_det.policies.wrappers import innermost
from svit_det.tokens import Selection

MODES_OF_A_MODULE = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
# Settings that decide in another way than the defaults, which run over every policy.
VARIANTS = pytest.mark.parametrize(
    ("name", "config"),
    [
        ("SViT", {"mode": "quota"}),
        ("SViT", {"mode": "quota", "keep_ratios": (1.0,) * 3 + (0.4,) * 6}),
        ("EViT", {"fuse": False}),
        ("EViT", {"keep_ratios": (1.0, 0.4, 0.4)}),
        ("EvoViT", {"stage_wise": True}),
        ("EvoViT", {"representative": True}),
        ("EvoViT", {"refresh": True}),
        ("DynamicViT", {"keep_ratios": (1.0, 0.4, 0.4)}),
        ("Random", {"seed": 3}),
    ],
    ids=str,
)


def totals(state):
    return [record.selection.total for record in state.history]


def without_values(trunk, batch):
    """The pass on tensors that have shapes but no values: to read one raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return trunk(batch)


# ------------------------------------------------------------------ a count known beforehand


@MODES_OF_A_MODULE
@pytest.mark.parametrize("class_token", [None, True], ids=["as needed", "class token"])
def test_a_promised_total_is_kept(
    policy, tiny_trunk, images, training, class_token, counted_execution
):
    """In every part of every block; so it is where the network has a class token of its own."""
    trunk = tiny_trunk(policy, class_token=class_token, execution=counted_execution()).train(
        training
    )
    with torch.no_grad():
        state = trunk(images(3, (5, 7)))
    # A policy that decides from block 0 on by what it finds never promises.
    promised = any(total is not None for total in totals(state))
    assert (trunk.execution.hard.promises > 0) == promised
    for record, total in zip(state.history, totals(state), strict=True):
        if total is not None:
            assert set(record.rows.mlp) == {total}


@VARIANTS
@MODES_OF_A_MODULE
def test_so_it_is_with_other_settings(
    make_policy, tiny_trunk, images, name, config, training, counted_execution
):
    policy = make_policy(name, **config)
    trunk = tiny_trunk(policy, class_token=True, execution=counted_execution()).train(training)
    with torch.no_grad():
        trunk(images(3, (5, 7)))
        trunk(images(2, (1, 1)))
    assert trunk.execution.hard.promises > 0


def test_a_broken_promise_shows(scripted, tiny_trunk, images, counted_execution):
    keep = torch.arange(15).expand(2, 15) < 4
    trunk = tiny_trunk(
        scripted([Selection(keep=keep, total=3)]), depth=1, execution=counted_execution()
    )
    with pytest.raises(AssertionError, match="block 0"):
        trunk(images(2))


@MODES_OF_A_MODULE
def test_a_pass_of_known_counts_reads_nothing_from_the_device(policy, tiny_trunk, images, training):
    trunk, batch = tiny_trunk(policy).train(training), images(2, (5, 7))
    with torch.no_grad():
        known = totals(trunk(batch))
        if None not in known:
            assert totals(without_values(trunk, batch)) == known


@VARIANTS
@MODES_OF_A_MODULE
def test_so_does_one_with_other_settings(make_policy, tiny_trunk, images, name, config, training):
    policy = make_policy(name, **config)
    trunk, batch = tiny_trunk(policy).train(training), images(2, (5, 7))
    with torch.no_grad():
        state = trunk(batch)
        gated = any(record.selection.gate is not None for record in state.history)
        assert (None in totals(state)) == gated  # SViT and DynamicViT in training
        assert totals(without_values(trunk, batch)) == totals(state)


def test_the_policies_of_known_counts(make_policy, tiny_trunk, images):
    batch, known = images(2, (5, 7)), {"SViT quota": make_policy("SViT", mode="quota")}
    known |= {name: make_policy(name) for name in POLICY_REGISTRY.names()}
    with torch.no_grad():
        known = {
            name for name, each in known.items() if None not in totals(tiny_trunk(each)(batch))
        }
    fixed = {"Dense", "EViT", "EvoViT", "AttentionProbe", "SViT quota", "DynamicViT", "Random"}
    assert known >= fixed
    assert not known & {"SViT", "ATS", "SPViT", "AViT", "AdaViT", "IARED2"}


def test_a_count_that_depends_on_the_data_is_read(make_policy, tiny_trunk, images):
    """What the laws above would see."""
    trunk, batch = tiny_trunk(make_policy("SViT", mode="threshold")), images(2, (5, 7))
    with (
        torch.no_grad(),
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
    ):
        without_values(trunk, batch)


# ------------------------------------------------------------------ ties


def with_equal_scores(trunk):
    """A trunk whose gates and class token are indifferent, to the bit."""
    with torch.no_grad():
        for parameter in trunk.policy.parameters():
            parameter.zero_()
        for block in trunk.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias[: 2 * trunk.embed_dim].zero_()  # queries and keys
    return trunk


def check_ties(trunk):
    """Constant images keep the same in a batch and alone; of a known count, the first in order."""
    batch = torch.ones(3, 3, 20, 28)
    with torch.no_grad():
        together, alone = trunk(batch), trunk(batch[:1])
    for one, two in zip(together.history, alone.history, strict=True):
        keep = one.selection.keep
        assert torch.equal(keep, two.selection.keep.expand_as(keep))
        score = one.selection.score
        if one.selection.total is not None and score is not None:
            tied = (score.unsqueeze(2) == score.unsqueeze(1)).triu(1)
            assert not (tied & ~keep.unsqueeze(2) & keep.unsqueeze(1)).any()
    return together


def test_ties_are_broken_by_position(policy, tiny_trunk):
    check_ties(with_equal_scores(tiny_trunk(policy)))


@VARIANTS
def test_so_they_are_with_other_settings(make_policy, tiny_trunk, name, config):
    state = check_ties(with_equal_scores(tiny_trunk(make_policy(name, **config))))
    assert None not in totals(state)
    assert 0 < state.history[-1].selection.keep.sum() < 3 * 35


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to be waited for")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # says torch of its own switch
@VARIANTS
def test_no_value_is_waited_for_on_a_gpu(make_policy, tiny_trunk, images, name, config):
    trunk = tiny_trunk(make_policy(name, **config)).cuda()
    batch = images(2, (5, 7)).cuda()
    with torch.no_grad():
        trunk(batch)
        try:
            torch.cuda.set_sync_debug_mode("error")
            trunk(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------ what a policy says of itself


def test_a_class_token_is_there_for_each_policy_that_needs_one(policy, tiny_trunk, images):
    if policy.needs_class_token:
        with pytest.raises(InputError, match=r"class_token: .* decides by a class token"):
            tiny_trunk(policy, class_token=False)
    else:
        state = tiny_trunk(policy).embed(images(1))
        assert (state.num_extra, state.class_token) == (0, False)


def test_a_budget_of_one_keeps_every_token_unless_the_policy_says_otherwise(
    policy, tiny_trunk, images
):
    trunk = tiny_trunk(policy)
    try:
        trunk.policy.set_keep_ratio(1.0)
    except InputError as error:
        assert error.setting == "test_keep_ratio"
        assert policy.keep_ratio is None
        return
    assert policy.keep_ratio == 1
    with torch.no_grad():
        state = trunk(images(2, (5, 7)))
    whole = all(record.selection.keep.all() for record in state.history)
    assert whole != policy.always_skips
    if whole:  # known without looking, so that it costs what the dense model costs
        assert all(record.everyone for record in state.history)
        assert state.num_extra == policy.needs_class_token


def test_a_policy_with_a_budget_takes_one(make_policy):
    """Otherwise the law above would hold for policies that refuse every budget."""
    with_schedule = {
        name for name in POLICY_REGISTRY.names() if make_policy(name).schedule is not None
    }
    assert with_schedule >= {"SViT", "EViT", "EvoViT", "ATS"}
    for name in with_schedule:
        policy = make_policy(name)
        policy.set_keep_ratio(0.5)
        shares = policy.eval().schedule.shares
        assert sum(shares) / len(shares) == pytest.approx(0.5)
        assert policy.train().schedule == make_policy(name).schedule


def test_scores_that_show_attention_are_attention(policy, tiny_trunk, images):
    with torch.no_grad():
        scores = [record.selection.score for record in tiny_trunk(policy)(images(2)).history]
    if policy.shows_attention:
        for score in scores:
            assert (score > 0).all()
            assert (score.sum(dim=1) < 1).all()


def test_a_policy_with_losses_or_statistics_takes_part_in_training(policy, tiny_trunk, images):
    own = type(innermost(policy))
    overrides = {"losses", "track", "set_step"} & {
        name for each in own.__mro__ if each is not TokenPolicy for name in vars(each)
    }
    assert policy.takes_part_in_training == bool(overrides)


# ------------------------------------------------------------------ nothing of a pass stays behind


@MODES_OF_A_MODULE
def test_a_pass_leaves_nothing_on_the_model(policy, tiny_trunk, images, training):
    trunk = tiny_trunk(policy).train(training)

    def contents():
        return [
            (name, id(value)) for module in trunk.modules() for name, value in vars(module).items()
        ]

    before, weights = contents(), copy.deepcopy(trunk.state_dict())
    state = trunk(images(2))
    assert contents() == before
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert set(state.notes) <= policy.note_keys


def test_a_state_is_left_as_it_was(policy, tiny_trunk, images):
    """What a policy or block would change in place, a second run would see."""
    trunk = tiny_trunk(policy)
    with torch.no_grad():
        start = trunk.run(trunk.embed(images(2)), 0, 5)
        tokens, notes = start.tokens.clone(), copy.deepcopy(start.notes)
        first, second = (trunk.run(start, 5, 12) for _ in range(2))
    assert torch.equal(start.tokens, tokens)
    assert len(start.history) == 5
    assert_close(dict(vars_of(start.notes)), dict(vars_of(notes)), atol=0, rtol=0)
    assert torch.equal(first.tokens, second.tokens)


def vars_of(notes):
    """Every tensor that the policies remember, by key and field."""
    for key, note in notes.items():
        for name, value in vars(note).items():
            if isinstance(value, torch.Tensor):
                yield f"{key}.{name}", value
