"""What single values may be, and what they mean."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.plan_file.values import Choice, Duration, Instant, Number, Several, Share, Text, Truth, Wrong, spelled

DURATION = Duration(low=1)
SHARE = Share()
SOME_SHARE = Share(above=True)
INSTANT = Instant()
LETTERS = Several(of=Choice(words={"a": 1, "b": 2}), named="letters", most=2)


@pytest.mark.parametrize(
    ("given_value", "seconds"),
    [("90s", 90), ("15min", 900), ("2h", 7_200), ("7d", 604_800), ("1h30min", 5_400), ("1d 2 h 3min 4s", 93_784), (90, 90), (1.5, 1.5)],
)  # fmt: skip
def test_a_time_is_text_with_units_or_seconds(given_value, seconds):
    assert seconds == DURATION.value(given_value)


@pytest.mark.parametrize(
    "given_value", ["", "s", "2 hours", "1h1d", "2h2h", "-5s", "1.5h", "2h\n", " 2h", "0s", "367d", 0, True, None, [], float("nan"), 10**400]
)  # fmt: skip
def test_another_time_is_refused(given_value):
    with pytest.raises(Wrong, match="allowed is a time from 1s to 366d"):
        DURATION.value(given_value)


@given(st.integers(1, 366 * 86_400))
def test_a_time_that_is_spelled_is_read_back(seconds):
    assert seconds == DURATION.value(spelled(seconds)) == DURATION.value(seconds)


@pytest.mark.parametrize(
    ("given_value", "part"),
    [("80 %", 0.8), ("80%", 0.8), ("0 %", 0), ("100 %", 1), ("0.5 %", 0.005), (0.8, 0.8), (1, 1), (0, 0)],
)
def test_a_share_is_a_number_or_a_percentage(given_value, part):
    assert part == SHARE.value(given_value)


@pytest.mark.parametrize("given_value", ["80", "101 %", "%", "-1 %", 1.01, -0.1, True, None, "80 %%", float("nan")])
def test_another_share_is_refused(given_value):
    with pytest.raises(Wrong, match="allowed is 0 to 1"):
        SHARE.value(given_value)


def test_a_percentage_without_its_sign_is_guessed():
    with pytest.raises(Wrong, match='did you mean "80 %"'):
        SHARE.value(80)


@pytest.mark.parametrize("given_value", [0, "0 %", "00 %", "0.00 %"])
def test_a_share_of_failures_is_above_nothing(given_value):
    with pytest.raises(Wrong, match="above 0"):
        SOME_SHARE.value(given_value)


@pytest.mark.parametrize(
    "given_value",
    [
        "2026-12-01T02:00:00+01:00", "2026-12-01 01:00:00Z", "2026-12-01t01:00z", "2026-12-01T01:00:00.000Z",
        datetime(2026, 12, 1, 2, tzinfo=timezone(timedelta(hours=1))),
    ],
)  # fmt: skip
def test_an_instant_has_a_zone(given_value):
    assert datetime(2026, 12, 1, 1, tzinfo=UTC).timestamp() == INSTANT.value(given_value)


@pytest.mark.parametrize(
    ("given_value", "message"),
    [
        (datetime(2026, 12, 1, 2), "has no zone"),
        ("2026-12-01T02:00:00", "a date and time with a zone"),
        ("2026-12-01", "a date and time with a zone"),
        ("2026-13-01T02:00:00Z", "month must be in 1..12"),
        ("20261201T0200Z", "a date and time with a zone"),
        (1_796_000_000, "a date and time with a zone"),
    ],
)
def test_another_instant_is_refused(given_value, message):
    with pytest.raises(Wrong, match=message):
        INSTANT.value(given_value)


@pytest.mark.parametrize("given_value", [0, 101, 1.5, True, "5", None, float("inf"), 10**400])
def test_a_whole_number_is_within_its_bounds(given_value):
    with pytest.raises(Wrong, match="allowed is a whole number from 1 to 100"):
        Number(low=1, high=100, whole=True).value(given_value)


def test_a_number_may_leave_its_lower_bound_out():
    above = Number(low=0, high=100, above=True)
    assert 0.5 == above.value(0.5)
    with pytest.raises(Wrong, match="above 0 and up to 100"):
        above.value(0)


def test_a_word_that_is_nearly_one_is_guessed():
    with pytest.raises(Wrong, match="allowed is one of go_on, wait; did you mean wait"):
        Choice(words={"go_on": 1, "wait": 2}).value("Wait")


@pytest.mark.parametrize(
    ("items", "message", "number"),
    [([], "empty", None), ("a", "a list of letters", None), (["a", "c"], '"c" cannot', 1), (["a", "a"], "twice", 1), (["a", "b", "a"], "at most 2", None)],
)  # fmt: skip
def test_a_list_says_which_of_its_items_is_wrong(items, message, number):
    with pytest.raises(Wrong, match=message) as caught:
        LETTERS.value(items)
    assert number == caught.value.item


@pytest.mark.parametrize("given_value", ["", "  ", "a\x1b[2J", "\ud800", 5, None, "a" * 5_000])
def test_text_says_something_and_can_be_shown(given_value):
    with pytest.raises(Wrong) as caught:
        Text().value(given_value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("given_value", ["yes", 1, 0, None])
def test_truth_is_not_guessed(given_value):
    with pytest.raises(Wrong, match="allowed is true or false"):
        Truth().value(given_value)


def test_a_number_with_thousands_of_digits_is_a_number_in_the_sentence():
    with pytest.raises(Wrong, match="a number cannot be used"):
        Number(low=0, high=1).value(10**5_000)
