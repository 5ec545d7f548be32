"""Windows: when they open and close, above all while clocks change; and what is no window."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ota_bridge.calendars import CronCalendar
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import Window

CALENDAR = CronCalendar()
HOUR = 3600
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
CHANGES = {  # by zone: hours go forward, hours go back; at these moments, in UTC
    BERLIN: ("2026-03-29T01:00", "2026-10-25T01:00"),
    NEW_YORK: ("2026-03-08T07:00", "2026-11-01T06:00"),
    LORD_HOWE: ("2026-10-03T15:30", "2026-04-04T15:00"),
}


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def shown(wall):
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="minutes").removesuffix("+00:00")


def window(cron, hours=2.0, tz=""):
    return Window(cron=cron, length_s=int(hours * HOUR), tz=tz)


@pytest.mark.parametrize(
    ("tz", "cron", "hours", "asked", "opens", "closes"),
    [
        # a plain night
        ("UTC", "0 2 * * *", 2, "2026-06-01T00:00", "2026-06-01T02:00", "2026-06-01T04:00"),
        (BERLIN, "0 2 * * *", 2, "2026-06-01T00:00", "2026-06-01T00:00", "2026-06-01T02:00"),
        (BERLIN, "0 2 * * *", 2, "2026-01-01T00:30", "2026-01-01T01:00", "2026-01-01T03:00"),
        (BERLIN, "0 22 * * SUN", 8, "2026-06-03T12:00", "2026-06-07T20:00", "2026-06-08T04:00"),
        # it begins in the hour that does not exist: at the first moment after it
        (BERLIN, "30 2 * * *", 2, "2026-03-29T00:00", "2026-03-29T01:00", "2026-03-29T03:00"),
        (NEW_YORK, "15 2 * * *", 1, "2026-03-08T05:00", "2026-03-08T07:00", "2026-03-08T08:00"),
        (LORD_HOWE, "15 2 * * *", 1, "2026-10-03T15:00", "2026-10-03T15:30", "2026-10-03T16:30"),
        (BERLIN, "*/20 2 * * *", 1, "2026-03-29T00:00", "2026-03-29T01:00", "2026-03-29T02:00"),
        # it spans the change: as many seconds as on other nights
        (BERLIN, "0 1 * * *", 4, "2026-03-28T23:00", "2026-03-29T00:00", "2026-03-29T04:00"),
        (BERLIN, "0 1 * * *", 4, "2026-10-24T22:00", "2026-10-24T23:00", "2026-10-25T03:00"),
        (NEW_YORK, "0 0 * * *", 4, "2026-11-01T03:00", "2026-11-01T04:00", "2026-11-01T08:00"),
        (LORD_HOWE, "0 1 * * *", 2, "2026-04-04T13:30", "2026-04-04T14:00", "2026-04-04T16:00"),
        # it begins in the hour that exists twice: in the first
        (BERLIN, "30 2 * * *", 1, "2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:30"),
        (NEW_YORK, "30 1 * * *", 1, "2026-11-01T05:00", "2026-11-01T05:30", "2026-11-01T06:30"),
        (LORD_HOWE, "45 1 * * *", 0.25, "2026-04-04T14:00", "2026-04-04T14:45", "2026-04-04T15:00"),
        # asked for in the second of them: the next is tomorrow's
        (BERLIN, "30 2 * * *", 0.5, "2026-10-25T01:15", "2026-10-26T01:30", "2026-10-26T02:00"),
        (BERLIN, "30 2 * * *", 1, "2026-10-25T02:15", "2026-10-26T01:30", "2026-10-26T02:30"),
        (LORD_HOWE, "45 1 * * *", 0.25, "2026-04-04T15:05", "2026-04-05T15:15", "2026-04-05T15:30"),
        # every hour: in both, and in none that is left out
        (BERLIN, "30 * * * *", 0.25, "2026-10-25T01:15", "2026-10-25T01:30", "2026-10-25T01:45"),
        (BERLIN, "30 * * * *", 0.25, "2026-03-29T00:50", "2026-03-29T01:30", "2026-03-29T01:45"),
        # openings that touch are one
        ("UTC", "0 0 * * 1-5", 24, "2026-06-02T12:00", "2026-06-02T12:00", "2026-06-06T00:00"),
        ("UTC", "*/15 1-2 * * *", 0.5, "2026-06-02T00:00", "2026-06-02T01:00", "2026-06-02T03:15"),
        # rare ones
        ("UTC", "0 0 29 2 *", 1, "2026-06-02T00:00", "2028-02-29T00:00", "2028-02-29T01:00"),
        ("UTC", "0 0 L * *", 1, "2026-06-02T00:00", "2026-06-30T00:00", "2026-06-30T01:00"),
    ],
)  # fmt: skip
def test_a_window_opens_and_closes(tz, cron, hours, asked, opens, closes):
    wall = utc(asked)
    asked_of = (window(cron, hours), tz, wall)
    found = CALENDAR.opens_wall(*asked_of), CALENDAR.closes_wall(*asked_of)
    assert (opens, closes) == tuple(map(shown, found))
    assert CALENDAR.is_open(*asked_of) is (opens == asked)


@pytest.mark.parametrize("after_s", [-1, 0, 7199.999, 7200])
def test_it_is_open_from_its_first_second_to_before_the_first_after_its_length(after_s):
    assert CALENDAR.is_open(window("0 2 * * *"), "UTC", utc("2026-06-01T02:00") + after_s) is (0 <= after_s < 7200)


def test_the_devices_zone_goes_before_the_windows_and_utc_is_where_neither_is():
    asked = lambda tz, own: shown(CALENDAR.opens_wall(window("0 2 * * *", tz=tz), own, utc("2026-01-01T12:00")))  # noqa: E731
    assert ["2026-01-02T01:00", "2026-01-02T07:00", "2026-01-02T02:00"] == [
        asked(BERLIN, ""),
        asked(BERLIN, NEW_YORK),
        asked("", ""),
    ]


def starts_of(minutes, hours, zone, first, days):
    """What rule 2 of the module says, written again: by every minute, or by every day."""
    if hours is None:
        begin = int(first.timestamp())
        moments = range(begin, begin + days * 24 * HOUR, 60)
        return [at for at in moments if datetime.fromtimestamp(at, zone).minute in minutes]
    found = []
    for day in range(-1, days + 1):
        for hour in hours:
            for minute in minutes:
                naive = (first + timedelta(days=day)).replace(hour=hour, minute=minute, tzinfo=None)
                at = int(naive.replace(tzinfo=zone).timestamp())
                back = datetime.fromtimestamp(at, zone).replace(tzinfo=None)
                while back != naive:  # not on any clock: on to the first minute that is
                    naive += timedelta(minutes=1)
                    at = int(naive.replace(tzinfo=zone).timestamp())
                    back = datetime.fromtimestamp(at, zone).replace(tzinfo=None)
                found.append(at)
    return found


@settings(max_examples=60, deadline=None)
@example("Australia/Lord_Howe", 0, {30}, None, 1, [0.0])
@example("Australia/Lord_Howe", 0, {31}, None, 1, [0.0])
@given(
    st.sampled_from(sorted(CHANGES)),
    st.sampled_from([0, 1]),
    st.sets(st.sampled_from([0, 1, 15, 29, 30, 31, 45, 59]), min_size=1, max_size=4),
    st.none()
    | st.sets(st.integers(0, 23), min_size=1, max_size=3)
    | st.sets(st.integers(0, 3), min_size=1, max_size=3),
    st.integers(1, 400) | st.integers(1, 2000),
    st.lists(st.floats(-36 * HOUR, 36 * HOUR), min_size=1, max_size=5),
)
def test_a_window_is_open_for_exactly_its_length_after_each_start(tz, which, minutes, hours, length_min, offsets):
    change = utc(CHANGES[tz][which])
    zone = ZoneInfo(tz)
    first = datetime.fromtimestamp(change - 84 * HOUR, zone)
    starts = starts_of(sorted(minutes), hours and sorted(hours), zone, first.replace(minute=0, second=0), 7)
    cron = f"{','.join(map(str, sorted(minutes)))} {'*' if hours is None else ','.join(map(str, sorted(hours)))} * * *"
    asked = Window(cron=cron, length_s=length_min * 60)
    for offset in offsets:
        wall = change + offset
        expected = any(start <= wall < start + asked.length_s for start in starts)
        assert CALENDAR.is_open(asked, tz, wall) is expected
        assert CronCalendar().is_open(asked, tz, wall) is expected
        if not expected:
            later = [start for start in starts if start > wall]
            if later:
                assert CALENDAR.opens_wall(asked, tz, wall) == min(later)


@pytest.mark.parametrize(
    ("cron", "sentence"),
    [
        ("@daily", "window '@daily': 1 fields; it takes five"),
        ("0 2 * *", "4 fields; it takes five"),
        ("0 0 2 * * *", "6 fields; it takes five"),
        ("60 2 * * *", "'60' cannot be the minute"),
        ("0 24 * * *", "'24' cannot be the hour"),
        ("0 2 32 * *", "'32' cannot be the day of month"),
        ("0 2 * 13 *", "'13' cannot be the month"),
        ("0 2 * * FRI-MON", "'FRI-MON' cannot be the day of week"),
        ("0 2 * * 8", "'8' cannot be the day of week"),
        ("*/0 2 * * *", "'*/0' cannot be the minute"),
        ("0 2 30 2 *", "it never opens"),
        ("* 2 * * *", "it would start 60 times an hour, at most 4 are allowed"),
        ("0 " + "1," * 60 + "2 * * *", "of at most 100 characters"),
        ("*/30 * * * *", "it opens again before 7200 s are over, so it never closes"),
    ],
)
def test_what_is_no_window_is_refused_in_a_sentence(cron, sentence):
    with pytest.raises(InvalidInput) as refused:
        CALENDAR.check(window(cron))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "cron", ["0 2 * * *", "*/15 2-4 * * mon-fri", "0 2 L * *", "0 2 29 2 *", "30 3 1,15 jan-mar *"]
)
def test_what_is_one_is_taken(cron):
    CALENDAR.check(window(cron, 0.2, BERLIN))


def test_a_window_that_never_closes_has_no_end():
    always = window("0 * * * *", 1)
    assert (True, None) == (CALENDAR.is_open(always, "UTC", 1e9), CALENDAR.closes_wall(always, "UTC", 1e9))


@pytest.mark.parametrize(
    "tz", ["Europe/Berlinn", "europe/berlin ", "Europe", "../UTC", "/etc/localtime", "zone.tab", "x" * 65, "Ü", "a\0b"]
)
def test_an_unknown_zone_is_refused_in_a_sentence(tz):
    assert not CALENDAR.knows(tz)
    with pytest.raises(InvalidInput, match="is not known; write it as Europe/Berlin or UTC"):
        CALENDAR.is_open(window("0 2 * * *"), tz, 0.0)
    with pytest.raises(InvalidInput, match="time zone"):
        CALENDAR.check(window("0 2 * * *", tz=tz))


@pytest.mark.parametrize("tz", ["UTC", BERLIN, "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_the_zones_of_the_iana_are_known(tz):
    assert CALENDAR.knows(tz)


def test_what_is_kept_is_not_taken_for_an_earlier_time():
    nightly = window("0 2 * * *")
    walls = [utc(f"2026-06-{day:02}T{hour:02}:00") for day in (3, 1, 2) for hour in (3, 1, 5)]
    assert [True, False, False] * 3 == [CALENDAR.is_open(nightly, "UTC", wall) for wall in walls]
