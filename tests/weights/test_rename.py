"""The rule engine: tables of names, and what is said of a name that no row knows."""

import pytest
import torch

from svit_det.errors import InputError
from svit_det.weights.rename import rename

TABLE = {
    "blocks.{}.attn.{}": "trunk.blocks.{}.attn.{}",
    "stem.{*}": "prior.stem.{*}",
    "head.{}": None,
    "a+b": "sum",
}


def names(*given):
    return {name: torch.full((1,), float(index)) for index, name in enumerate(given)}


def test_names_are_carried_over():
    given = names("blocks.3.attn.qkv", "stem.0.conv.weight", "head.bias", "a+b")
    renamed = rename(given, TABLE, source="file")
    assert list(renamed) == ["trunk.blocks.3.attn.qkv", "prior.stem.0.conv.weight", "sum"]
    assert [value.item() for value in renamed.values()] == [0.0, 1.0, 3.0]


@pytest.mark.parametrize("name", ["blocks.3.1.attn.qkv", "block.3.attn.qkv", "aab", "head.a.b", ""])
def test_unknown_name(name):
    with pytest.raises(InputError) as refusal:
        rename(names(name), TABLE, source="some.pth")
    assert str(refusal.value).startswith(f"some.pth: {name} in no row")


def test_the_nearest_rows_are_named():
    with pytest.raises(InputError, match=r"blocks\.1\.atn\.q and 1 more.*blocks\.\{\}\.attn"):
        rename(names("blocks.1.atn.q", "other"), TABLE, source="f")


def test_two_weights_under_one_name():
    with pytest.raises(InputError, match="two weights would be called x"):
        rename(names("a.1", "b.1"), {"a.{}": "x", "b.{}": "x"}, source="f")
