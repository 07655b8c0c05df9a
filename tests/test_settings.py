"""Settings: a declaration that checks what it is given, and says which field is wrong."""

import dataclasses
from dataclasses import dataclass

import pytest

from svit_det.errors import InputError, renamed_settings
from svit_det.policies import POLICY_REGISTRY
from svit_det.settings import Settings, setting, within

INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True, kw_only=True)
class Kitchen(Settings):
    """One field of each sort."""

    plates: int = setting(4, "On the table.", interval="[1, 12]")
    heat: float = setting(0.5, "Share of the whole.", interval="(0, 1]")
    lit: bool = setting(False, "The lamp is on.")
    dish: str = setting("soup", "To be served.", choices=("soup", "salad"))
    times: tuple[float, ...] = setting(
        (), "Of each step.", kind=float, many=True, interval="[0, 9)"
    )
    pairs: tuple[tuple[int, int], ...] = setting(
        ((0, 1),), "Of friends.", kind=int, many=True, group=2, shortest=1, interval="[0, 9]"
    )
    guest: str | None = setting(None, "Who comes.", kind=str, optional=True)


def test_defaults_and_descriptions():
    assert Kitchen.defaults() == dataclasses.asdict(Kitchen())
    assert list(Kitchen.described()) == [
        *("plates", "heat", "lit", "dish", "times", "pairs", "guest")
    ]
    plates, guest = Kitchen.described()["plates"], Kitchen.described()["guest"]
    assert (plates.doc, plates.kind, plates.interval) == ("On the table.", int, "[1, 12]")
    assert (guest.kind, guest.optional, guest.many) == (str, True, False)


@pytest.mark.parametrize(
    "given",
    [
        {"plates": 1},
        {"plates": 12},
        {"heat": 1.0},
        {"heat": 1e-9},
        {"lit": True},
        {"dish": "salad"},
        {"times": (0.0, 8.99, 3.0)},
        {"times": ()},
        {"guest": "Ada"},
        {"guest": None},
    ],
    ids=str,
)
def test_what_may_be_given(given):
    kitchen = Kitchen(**given)
    assert dataclasses.asdict(kitchen) == Kitchen.defaults() | given


def test_a_whole_number_will_do_for_a_number_and_a_list_for_a_tuple():
    kitchen = Kitchen(heat=1, times=[0, 2.5])
    assert (kitchen.heat, kitchen.times) == (1.0, (0.0, 2.5))
    assert type(kitchen.heat) is type(kitchen.times[0]) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plates": 0}, "plates: 0 must lie in [1, 12]."),
        ({"plates": 13}, "plates: 13 must lie in [1, 12]."),
        ({"plates": 2.0}, "plates: 2.0 is not a whole number."),
        ({"plates": True}, "plates: True is not a whole number."),
        ({"plates": None}, "plates: None is not a whole number."),
        ({"plates": "4"}, "plates: '4' is not a whole number."),
        ({"heat": 0}, "heat: 0.0 must lie in (0, 1]."),
        ({"heat": 1.001}, "heat: 1.001 must lie in (0, 1]."),
        ({"heat": NAN}, "heat: nan must lie in (0, 1]."),
        ({"heat": INF}, "heat: inf must lie in (0, 1]."),
        ({"heat": False}, "heat: False is not a number."),
        ({"heat": "warm"}, "heat: 'warm' is not a number."),
        ({"heat": 10**400}, f"heat: 1{'0' * 17}...{'0' * 19} is not a number."),
        (
            {"times": [0.0] * 1001},
            f"times: [{'0.0, ' * 8}...] must have 0 to 1000 entries, not 1001.",
        ),
        ({"pairs": [[1, 2], [3]]}, "pairs: [3] must have 2 entries, not 1."),
        ({"pairs": [[1, 2], 3]}, "pairs: 3 is not a list of values."),
        ({"pairs": []}, "pairs: [] must have 1 to 1000 entries, not 0."),
        ({"lit": 1}, "lit: 1 is not True or False."),
        ({"lit": "False"}, "lit: 'False' is not True or False."),
        ({"dish": "stew"}, "dish: no 'stew'; choose one of soup, salad."),
        ({"dish": 3}, "dish: 3 is not a word."),
        ({"times": 3.0}, "times: 3.0 is not a list of values."),
        ({"times": "3"}, "times: '3' is not a list of values."),
        ({"times": (1.0, 9.0)}, "times: 9.0 must lie in [0, 9)."),
        ({"times": [1.0, NAN]}, "times: nan must lie in [0, 9)."),
        ({"times": (1.0, "2")}, "times: '2' is not a number."),
        ({"times": None}, "times: None is not a list of values."),
        ({"guest": 7}, "guest: 7 is not a word."),
    ],
    ids=str,
)
def test_what_may_not_is_refused_by_name(given, message):
    with pytest.raises(InputError) as refused:
        Kitchen(**given)
    assert str(refused.value) == message
    assert refused.value.setting == next(iter(given))


def test_a_text_that_is_far_too_long():
    Kitchen(guest=100_000 * "x")
    with pytest.raises(InputError, match=r"^guest: a text of 100,001 characters; at most 100,000"):
        Kitchen(guest=100_001 * "x")


def test_a_number_that_python_does_not_write_down():
    with pytest.raises(InputError, match=r"^heat: a number of thousands of digits is not a number"):
        Kitchen(heat=1 << 20_000)


def test_a_changed_copy_is_checked_too():
    with pytest.raises(InputError, match="plates: 0 must lie"):
        dataclasses.replace(Kitchen(), plates=0)


def test_a_mouth_may_name_the_field_by_its_key():
    with (
        pytest.raises(InputError, match=r"^KITCHEN\.PLATES: 0 must lie"),
        renamed_settings(lambda name: f"KITCHEN.{name.upper()}"),
    ):
        Kitchen(plates=0)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1]", [1e-12, 1], [0, 1 + 1e-12, -1, NAN, INF]),
        ("[0, inf)", [0, 1e300], [-1e-12, INF, NAN]),
        ("[-1, 1)", [-1, 0], [1, NAN, -INF]),
        ("(-inf, 2]", [-1e300, 2], [-INF, 3, NAN]),
    ],
)
def test_intervals(interval, inside, outside):
    assert all(within(value, interval) for value in inside)
    assert not any(within(value, interval) for value in outside)


@pytest.mark.parametrize("text", ["", "0, 1", "(0; 1)", "[a, b]"])
def test_what_is_no_interval_is_the_programmers_mistake(text):
    with pytest.raises(ValueError, match=r"is no interval|could not convert"):
        within(1, text)


@pytest.mark.parametrize("name", POLICY_REGISTRY.names())
def test_every_setting_of_a_policy_describes_itself(name):
    """And every number has an interval, without which it could be nan."""
    config = POLICY_REGISTRY.get(name).Config
    for field, about in config.described().items():
        assert about.doc.endswith((".", ")")), field
        assert about.interval or about.kind is not float, field
    assert set(config.described()) == {field.name for field in dataclasses.fields(config)}


@dataclass(frozen=True, kw_only=True)
class Depending(Settings):
    mode: str = setting("still", "What moves.", choices=("still", "moving"))
    speed: float = setting(1.0, "Of what moves.", needs=("mode", "moving"))
    goal: float | None = setting(None, "Where to.", kind=float, optional=True)
    pull: float = setting(1.0, "Towards the goal.", needs=("goal", ...))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"speed": 2.0}, r"^speed: does nothing unless MODE is 'moving'"),
        ({"pull": 2.0}, r"^pull: does nothing unless GOAL is set"),
    ],
)
def test_a_field_that_would_do_nothing_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Depending(**settings)


def test_a_field_that_does_something_is_taken():
    assert Depending(mode="moving", speed=2.0, goal=0.0, pull=2.0).pull == 2.0
    assert Depending(speed=1.0).speed == 1.0  # the default, written out
