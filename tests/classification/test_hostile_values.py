"""No key of classification takes in silence what cannot be meant: a fuzz over every key."""

import math
from functools import cache

import pytest

from svit_det.classification.config import check_config, default_config
from svit_det.classification.keys import GROUPS
from svit_det.config.declared import nodes_of
from svit_det.errors import InputError
from svit_det.settings import within

NAN, INF = math.nan, math.inf
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


@pytest.fixture(scope="module")
def keys(hostile):
    return hostile(stock(), check_config, may_be_negative=MAY_BE_NEGATIVE)


@pytest.mark.parametrize("key", KEYS)
def test_three_hostile_values(key, keys):
    keys.check_key(key, keys.THREE)


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_twenty_more(key, keys):
    keys.check_key(key, keys.TWENTY)


def test_every_key_but_the_folder_is_declared():
    assert set(KEYS) == {*DECLARED, "OUTPUT_DIR"}


@pytest.mark.parametrize("key", DECLARED)
def test_every_number_has_a_finite_range_that_holds_its_default(key, keys):
    default, about = DECLARED[key].default, DECLARED[key].about
    if about.kind not in (int, float):
        return
    assert about.interval, key
    low, high = about.interval[1:-1].split(", ")
    assert math.isfinite(float(low)) and math.isfinite(float(high))
    for number in keys.flat(default):
        assert number is None or within(number, about.interval)


@pytest.mark.parametrize(
    ("key", "length"),
    [("INPUT.MEAN", 3), ("INPUT.STD", 3), ("INPUT.SCALE", 2), ("INPUT.RATIO", 2)],
)
def test_lists_of_a_fixed_length(key, length, keys):
    for wrong in (length - 1, length + 1):
        with pytest.raises(InputError, match=rf"^{key}: .* must have {length} entries"):
            keys.try_value(key, [0.5] * wrong)
    assert keys.try_value(key, [0.5] * length) == [0.5] * length


@pytest.mark.parametrize("key", ["INPUT.SCALE", "INPUT.RATIO"])
def test_the_least_comes_first(key, keys):
    with pytest.raises(InputError, match=f"^{key}: 0.6 is above 0.5; the least comes first"):
        keys.try_value(key, [0.6, 0.5])


@pytest.mark.parametrize("key", ["INPUT.MEAN", "INPUT.STD"])
@pytest.mark.parametrize("value", [NAN, INF, -0.1, 255.0])
def test_statistics_of_pixels(key, value, keys):
    with pytest.raises(InputError, match=rf"^{key}: .* must lie in"):
        keys.try_value(key, [0.5, value, 0.5])
