"""Attention within each image's rows: textbook, packed, hidden, narrowed and weighted keys."""

import pytest
import torch
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.vit.attention import Attention, soft_attention
from svit_det.vit.layout import Layout

HEADS = 3
WIDTH = 24


@pytest.fixture
def attention():
    """Three heads of eight channels, weights large enough that attention is not uniform."""
    module = Attention(WIDTH, HEADS)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module


def layout_of(*lengths, key_mask=None):
    """How rows of so many tokens an image lie."""
    equal = len(set(lengths)) == 1
    shape = (len(lengths), lengths[0]) if equal else None
    return Layout(lengths, shape, key_mask=key_mask)


def attend(attention, rows, layout, **options):
    """Every row is key and query."""
    query, key, value = attention.project(rows).unbind(1)
    return attention(query, key, value, queries=layout, keys=layout, **options)


def class_row(attention, rows, layout):
    """(h, T) what each image's first row attends to."""
    query, key = attention.project(rows, 0, 2).unbind(1)
    firsts = [0]
    for length in layout.lengths[:-1]:
        firsts.append(firsts[-1] + length)
    return attention.class_row(query[firsts], key, layout)


def explicit(attention, rows):
    """One image by the textbook: (softmax weights (h, n, n), values (n, h, d), result (n, C))."""
    query, key, value = (
        part.unflatten(1, (HEADS, WIDTH // HEADS)).transpose(0, 1)
        for part in attention.qkv(rows).chunk(3, dim=1)
    )
    weights = (query @ key.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
    mixed = (weights @ value).transpose(0, 1).flatten(1)
    return weights, value.transpose(0, 1), attention.proj(mixed)


def test_attention_is_the_textbooks(attention):
    rows = torch.randn(7, WIDTH)
    attended = attend(attention, rows, layout_of(7))
    assert_close(attended, explicit(attention, rows)[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(3, 5), (1, 6, 2), (4, 4), (0, 5), (3, 0, 4), (1, 1)])
def test_an_image_attends_to_itself_only(attention, lengths):
    images = [torch.randn(length, WIDTH) for length in lengths]
    attended = attend(attention, torch.cat(images), layout_of(*lengths))
    alone = [explicit(attention, image)[2] for image in images]
    assert_close(attended, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_hidden_row_is_as_good_as_gone(attention):
    images = torch.randn(2, 5, WIDTH)
    seen = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]]).bool()
    attended = attend(attention, images.flatten(0, 1), layout_of(5, 5, key_mask=seen))
    for image in range(2):
        alone = explicit(attention, images[image][seen[image]])[2]
        ours = attended.unflatten(0, (2, 5))[image][seen[image]]
        assert_close(ours, alone, atol=1e-5, rtol=1e-5)


def test_a_hidden_row_is_gone_for_unequally_many_queries_too(attention):
    """Images one by one, because their queries are not a plain batch."""
    images = torch.randn(2, 5, WIDTH)
    seen = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]]).bool()
    query, key, value = attention.project(images.flatten(0, 1)).unbind(1)
    attended = attention(
        query[[0, 2, 3, 6, 9]],
        key,
        value,
        queries=layout_of(3, 2),
        keys=layout_of(5, 5, key_mask=seen),
    )
    alone = [explicit(attention, images[image][seen[image]])[2] for image in range(2)]
    assert_close(attended, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(6,), (4, 4), (3, 5), (1, 7, 2)])
def test_the_class_row_is_the_first_row_of_the_softmax(attention, lengths):
    images = [torch.randn(length, WIDTH) for length in lengths]
    weights = class_row(attention, torch.cat(images), layout_of(*lengths))
    rows = torch.cat([explicit(attention, image)[0][:, 0] for image in images], dim=1)
    assert_close(weights, rows, atol=1e-6, rtol=1e-5)


def test_the_class_row_gives_hidden_rows_nothing(attention):
    images = torch.randn(2, 5, WIDTH)
    seen = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 1]]).bool()
    weights = class_row(attention, images.flatten(0, 1), layout_of(5, 5, key_mask=seen))
    assert not weights[:, ~seen.flatten()].any()
    for image, row in enumerate(weights.split(5, dim=1)):
        alone = explicit(attention, images[image][seen[image]])[0][:, 0]
        assert_close(row[:, seen[image]], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(9,), (4, 4), (3, 5, 1)])
def test_keys_made_beforehand_change_nothing(attention, lengths):
    rows, layout = torch.randn(sum(lengths), WIDTH), layout_of(*lengths)
    key, value = attention.project(rows, 1, 3).unbind(1)
    query = attention.project(rows, 0, 1)[:, 0]
    beforehand = attention(query, key, value, queries=layout, keys=layout)
    assert_close(beforehand, attend(attention, rows, layout), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("asking", "lengths"), [([0, 2, 4, 7], (2, 2)), ([1, 4, 5, 6], (1, 3)), ([5, 7], (0, 2))]
)
def test_rows_that_are_no_queries_are_still_keys(attention, asking, lengths):
    rows, layout = torch.randn(8, WIDTH), layout_of(4, 4)
    query, key, value = attention.project(rows).unbind(1)
    some = attention(query[asking], key, value, queries=layout_of(*lengths), keys=layout)
    assert_close(some, attend(attention, rows, layout)[asking], atol=1e-6, rtol=1e-5)


def test_the_class_row_is_not_rounded_under_autocast(attention):
    rows = torch.randn(40, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        qkv = attention.qkv(rows).float()
        weights = class_row(attention, rows, layout_of(40))
    query, key, _ = (part.unflatten(1, (HEADS, -1)) for part in qkv.chunk(3, dim=1))
    logits = torch.stack([query[0, h] @ key[:, h].T for h in range(HEADS)]) / 8**0.5
    assert weights.dtype == torch.float32
    assert_close(weights, logits.softmax(dim=1), atol=1e-6, rtol=1e-5)


def test_channels_that_do_not_divide_into_heads():
    with pytest.raises(InputError, match=r"^num_heads: 24 channels .* 5 heads"):
        Attention(24, 5)


@pytest.mark.parametrize("lengths", [(4, 4), (3, 5)])
def test_a_heads_factor_multiplies_its_output_before_the_projection(attention, lengths):
    rows = torch.randn(8, WIDTH)
    heads = torch.tensor([[1, 0, 1], [0, 0.25, 1]])
    seen = []
    attention.proj.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    attend(attention, rows, layout_of(*lengths))
    attend(attention, rows, layout_of(*lengths), heads=heads)
    plain, scaled = (each.unflatten(1, (HEADS, -1)) for each in seen)
    by_row = heads.repeat_interleave(torch.tensor(lengths), dim=0)
    assert_close(scaled, plain * by_row.unsqueeze(-1))


@pytest.mark.parametrize("heads", [[0], [1], [2], [0, 2], [1, 2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("lengths", [(8,), (4, 4), (3, 5)])
def test_heads_that_are_not_computed_are_multiplied_by_zero(attention, heads, lengths):
    """The scale stays that of a head's channels, however few heads there are."""
    rows, layout = torch.randn(8, WIDTH), layout_of(*lengths)
    channels = attention.channels_of(torch.tensor(heads))
    query, key, value = attention.project(rows, 0, 3, channels).unbind(1)
    assert query.shape == key.shape == value.shape == (8, len(heads), 8)
    few = attention(query, key, value, queries=layout, keys=layout, channels=channels)
    factor = torch.zeros(len(lengths), HEADS)
    factor[:, heads] = 1
    assert_close(few, attend(attention, rows, layout, heads=factor), atol=1e-5, rtol=1e-5)


def test_channels_of_heads(attention):
    assert attention.channels_of(torch.tensor([0, 2])).tolist() == [*range(8), *range(16, 24)]


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (0, 3)])
def test_a_run_of_parts_of_some_heads(attention, start, stop):
    rows, some = torch.randn(5, WIDTH), torch.tensor([0, 2])
    everything = attention.project(rows)[:, start:stop, some]
    few = attention.project(rows, start, stop, attention.channels_of(some))
    assert_close(few, everything, atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------ keys with a weight


LOGITS = torch.tensor([[1.0, 2, 0], [0, 1, 3], [2, 0, 1]])
WEIGHTS = [
    [0.73106, 6.6e-7, 0.26894],
    [0.04201, 0.11420, 0.84379],
    [0.73106, 2.4e-7, 0.26894],
]


def test_soft_keys_by_hand():
    """DynamicViT's masked softmax: the second key counts for itself alone."""
    query = LOGITS * 3**0.5  # undone by the scale of three channels
    one_hot = torch.eye(3)
    policy = torch.tensor([1.0, 0, 1])
    found = soft_attention(
        query[None, None], one_hot[None, None], one_hot[None, None], policy[None, None, None]
    )
    # atol: half a unit of the last digit that is given
    assert_close(found[0, 0], torch.tensor(WEIGHTS), atol=5e-6, rtol=0)
    # The two weights that are nearly nothing, to the digits that are given.
    assert found[0, 0, 0, 1].item() == pytest.approx(6.6e-7, abs=5e-9)
    assert found[0, 0, 2, 1].item() == pytest.approx(2.4e-7, abs=5e-9)


def test_soft_keys_of_one_are_plain_attention(attention):
    rows, layout = torch.randn(8, WIDTH), layout_of(4, 4)
    soft = attend(attention, rows, layout, soft_keys=torch.ones(2, 4))
    assert_close(soft, attend(attention, rows, layout), atol=1e-5, rtol=1e-5)


def test_soft_keys_get_a_gradient(attention):
    soft_keys = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 1]], requires_grad=True)
    attend(attention, torch.randn(8, WIDTH), layout_of(4, 4), soft_keys=soft_keys).sum().backward()
    assert soft_keys.grad.all()


def test_soft_keys_a_few_rows_at_a_time(monkeypatch):
    """The same values and gradients as at once, for a number of rows that does not divide."""
    given = [torch.randn(2, 3, 11, 4, requires_grad=True) for _ in range(3)]
    given.append(torch.rand(2, 1, 1, 11, requires_grad=True))
    weights = torch.randn(2, 3, 11, 4)

    def run():
        out = soft_attention(*given)
        return out, *torch.autograd.grad((out * weights).sum(), given)

    at_once = run()
    monkeypatch.setattr("svit_det.vit.attention.SOFT_AT_ONCE", 100)
    monkeypatch.setattr("svit_det.vit.attention.SOFT_AT_A_TIME", 4 * 2 * 3 * 11)
    for one, two in zip(at_once, run(), strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_soft_keys_are_computed_in_float32_under_autocast():
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    soft_keys = torch.rand(1, 1, 1, 5)
    exact = soft_attention(query, key, value, soft_keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(soft_attention(query, key, value, soft_keys), exact)
