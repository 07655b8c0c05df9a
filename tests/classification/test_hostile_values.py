"""No key of classification takes in silence what cannot be meant: a fuzz over every key."""

import math
from functools import cache, reduce

import pytest

from svit_det.classification.config import check_config, default_config
from svit_det.classification.keys import GROUPS
from svit_det.config.declared import nodes_of
from svit_det.config.reading import merge_values
from svit_det.errors import InputError
from svit_det.settings import within

NAN, INF = math.nan, math.inf
THREE = [NAN, -7, [[10**12]]]
TWENTY = [
    *(INF, -INF, 10**12, 1e300, -1e300, 10**400, 1 << 20_000, 2.5, True, None),
    *("", "a word", "nan", [], [NAN], [-7], [None], [["x"]], {"A": 1}, [{}]),
]
MAY_BE_NEGATIVE = {"MODEL.TOKEN_POLICY.A_VIT.BETA"}
"""Where a number below 0 means something."""


@cache
def stock():
    """A config that every check lets pass."""
    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    return cfg


def leaves(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


KEYS = list(leaves(stock()))
DECLARED = {
    f"{name}.{key}": each
    for name, node in nodes_of(GROUPS).items()
    for key, each in node.keys.items()
}


def flat(value):
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from flat(entry)
    else:
        yield value


def node_of(cfg, key):
    """The node that holds a key, and the last part of the key."""
    *nodes, last = key.split(".")
    return reduce(getattr, nodes, cfg), last


def try_value(key, value):
    """Merge and check; the config is as before afterwards."""
    cfg = stock()
    node, last = node_of(cfg, key)
    before = node[last]
    nested = reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)
    try:
        merge_values(cfg, nested, source="wrong.yaml")
        check_config(cfg)
        return node[last]
    finally:
        node[last] = before


def check_key(key, values):
    node, last = node_of(stock(), key)
    default = node[last]
    for value in values:
        try:
            taken = try_value(key, value)
        except InputError as refusal:
            said = str(refusal)
            assert key in said and "\n" not in said and len(said) < 600, (value, said)
            continue
        assert taken is not None or default is None, value
        lowest = -1e9 if key in MAY_BE_NEGATIVE else 0
        numbers = [each for each in flat(taken) if isinstance(each, (int, float))]
        assert all(lowest <= number <= 2e9 for number in numbers), value
        kinds = {type(entry) for entry in flat(default) if entry is not None}
        if kinds:
            allowed = {int, float} if kinds & {int, float} else kinds
            assert {type(entry) for entry in flat(taken)} <= allowed | {type(None)}, value


@pytest.mark.parametrize("key", KEYS)
def test_three_hostile_values(key):
    check_key(key, THREE)


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_twenty_more(key):
    check_key(key, TWENTY)


def test_every_key_but_the_folder_is_declared():
    assert set(KEYS) == {*DECLARED, "OUTPUT_DIR"}


@pytest.mark.parametrize("key", DECLARED)
def test_every_number_has_a_finite_range_that_holds_its_default(key):
    default, about = DECLARED[key].default, DECLARED[key].about
    if about.kind not in (int, float):
        return
    assert about.interval, key
    low, high = about.interval[1:-1].split(", ")
    assert math.isfinite(float(low)) and math.isfinite(float(high))
    for number in flat(default):
        assert number is None or within(number, about.interval)


@pytest.mark.parametrize(
    ("key", "length"),
    [("INPUT.MEAN", 3), ("INPUT.STD", 3), ("INPUT.SCALE", 2), ("INPUT.RATIO", 2)],
)
def test_lists_of_a_fixed_length(key, length):
    for wrong in (length - 1, length + 1):
        with pytest.raises(InputError, match=rf"^{key}: .* must have {length} entries"):
            try_value(key, [0.5] * wrong)
    assert try_value(key, [0.5] * length) == [0.5] * length


@pytest.mark.parametrize("key", ["INPUT.SCALE", "INPUT.RATIO"])
def test_the_least_comes_first(key):
    with pytest.raises(InputError, match=f"^{key}: 0.6 is above 0.5; the least comes first"):
        try_value(key, [0.6, 0.5])


@pytest.mark.parametrize("key", ["INPUT.MEAN", "INPUT.STD"])
@pytest.mark.parametrize("value", [NAN, INF, -0.1, 255.0])
def test_statistics_of_pixels(key, value):
    with pytest.raises(InputError, match=rf"^{key}: .* must lie in"):
        try_value(key, [0.5, value, 0.5])
