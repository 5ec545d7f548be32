"""Versions by number, and from which versions something installs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.versions import BOUNDS_MAX, admits, checked_bounds, compare, numbers, shown

DOTTED = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda found: ".".join(map(str, found)))


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.2", (1, 2)), ("v1.2.0", (1, 2)), ("0", ()), ("1.10", (1, 10)), ("1.2-rc1", None), ("x", None), ("1.", None)],
)
def test_a_version_is_its_numbers_without_the_zeros_at_its_end(version, expected):
    assert expected == numbers(version)


RISING = [
    "0.9",
    "1.0-alpha",
    "1.0-alpha.1",
    "1.0~beta2",
    "1.0-rc.9",
    "1.0-rc10",
    "v1.0",
    "1.0.1-1",
    "1.0.1",
    "1.9",
    "1.10",
]


@pytest.mark.parametrize("at", range(len(RISING) - 1))
def test_versions_compare_by_number_and_pre_releases_come_before(at):
    assert [-1] * (len(RISING) - at - 1) == [compare(RISING[at], later) for later in RISING[at + 1 :]]
    assert 1 == compare(RISING[at + 1], RISING[at])


@pytest.mark.parametrize(("one", "other"), [("1.2", "v1.2.0"), ("1.2+a", "1.2+b"), ("1.0-rc1", "1-rc.1")])
def test_what_says_the_same_is_neither_older_nor_newer(one, other):
    assert 0 == compare(one, other)


@pytest.mark.parametrize("version", ["1.0.2k", "1.2.0-14-gdeadbeef", "main", "", "1..2", "-1", "1.2-", "2024W12"])
def test_no_order_is_made_up(version):
    assert [None, None] == [compare(version, "1.0"), compare("1.0", version)]


@pytest.mark.parametrize(
    ("bounds", "version", "expected"),
    [
        ((), "whatever", True),
        (("1.0",), "1.0", True),
        (("1.0",), "1.0.0", False),
        (("1.0-rc1",), "1.0-rc1", True),
        ((">=1.2",), "1.2.0", True),
        ((">=1.2",), "1.10", True),
        ((">=1.2",), "1.1.9", False),
        ((">1.2",), "1.2.0", False),
        (("<=1.2",), "v1.2", True),
        ((">=1,<2",), "1.99", True),
        ((">= 1, < 2",), "2.0", False),
        ((">=1",), "2-rc1", False),
        (("1.0", ">=2"), "3", True),
    ],
)
def test_an_exact_bound_is_text_and_a_range_compares_numbers(bounds, version, expected):
    assert expected is admits(checked_bounds(bounds), version)


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        (">=", "no comparison"),
        (">=1.x", "no comparison"),
        (">=1,", "no comparison"),
        (">=1,3", "no comparison"),
        ("1.*", "write a range"),
        ("1.x", "write a range"),
        ("", "version"),
        ("1 0", "version"),
        (">=2,<1", "no version at all"),
        (">1,<1", "no version at all"),
        ("<0", "no version at all"),
        (">=1," * 30 + "<2", "longer than"),
    ],
)
def test_a_bound_that_can_never_hold_or_is_none_is_named(bound, says):
    with pytest.raises(InvalidInput, match=says):
        checked_bounds([bound])


def test_bounds_are_few():
    assert BOUNDS_MAX == len(checked_bounds([str(one) for one in range(BOUNDS_MAX)]))
    with pytest.raises(InvalidInput, match="17 bounds"):
        checked_bounds([str(one) for one in range(BOUNDS_MAX + 1)])


def test_a_bound_that_stands_twice_is_kept_once_and_shown_in_words():
    assert ("1.0", ">=2") == checked_bounds(["1.0", ">=2", " 1.0"])
    assert ["any version", "1.0 or >=2"] == [shown(()), shown(("1.0", ">=2"))]


@given(DOTTED, DOTTED)
def test_a_range_and_its_opposite_split_all_numbers(version, limit):
    assert admits((f">={limit}",), version) is not admits((f"<{limit}",), version)
    assert admits((f">{limit}",), version) is not admits((f"<={limit}",), version)


@given(DOTTED, DOTTED, DOTTED)
def test_a_bound_that_is_refused_as_empty_holds_for_none(low, high, version):
    bound = f">{low},<={high}"
    try:
        checked_bounds([bound])
    except InvalidInput:
        assert not admits((bound,), version)
