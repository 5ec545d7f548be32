"""Windows of time by cron expressions in the zones of the IANA: `Calendar` of the core, by cronsim and zoneinfo.

1. A window is open for exactly `length_s` seconds of real time from each start on, whatever clocks do meanwhile.
2. A start in an hour that a zone leaves out comes at the first moment after it; one in an hour that a zone has twice
   comes in the first of them. An expression that starts in every hour (`*` for the hour) starts in both, and in none
   that is left out.
3. Openings that touch or overlap are one.

The last answer for a window in a zone is kept: thousands of devices of one zone ask the same.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import Window

FIELDS: Final = ("minute", "hour", "day of month", "month", "day of week")
STARTS_PER_HOUR_MAX: Final = 4
"""More are a mistake: a window has a length."""
_CRON_MAX: Final = 100
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_ZONE_MAX: Final = 64
_JOINED_MAX: Final = 4 * 24 * 8
"""So many openings that touch, more than a week of quarters of an hour, and it is taken to be open for ever."""
_KEPT_MAX: Final = 4096
_CHECKED_FROM: Final = (1_767_225_600.0, 1_782_864_000.0)
"""2026-01-01 and 2026-07-01: from there a window that is checked has to open, and to close."""


@dataclass(frozen=True, slots=True)
class _Span:
    """What holds from `since` on: closed until `opens`, then open until `closes`."""

    since: float
    opens: float
    closes: float


_NEVER: Final = math.inf


class CronCalendar:
    """`Calendar`; for any thread."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int, str], _Span] = {}

    def check(self, window: Window) -> None:
        """Raise InvalidInput if there can be no such window."""
        _checked_cron(window.cron)
        zone = _zone(window.tz)
        for wall in _CHECKED_FROM:
            span = _span(window, zone, wall)
            if span.opens == _NEVER:
                raise InvalidInput(f"window {window.cron!r}: it never opens")
            if span.closes == _NEVER:
                raise InvalidInput(
                    f"window {window.cron!r}: it opens again before {window.length_s} s are over, so it never closes"
                )

    def knows(self, tz: str) -> bool:
        """True if there is a zone of this name."""
        try:
            _zone(tz)
        except InvalidInput:
            return False
        return bool(tz)

    def is_open(self, window: Window, tz: str, wall: float) -> bool:
        """True from each start on for the window's length."""
        return self._at(window, tz, wall).opens <= wall

    def opens_wall(self, window: Window, tz: str, wall: float) -> float | None:
        """When it opens next, or `wall` while it is open; None: never again."""
        opens = max(self._at(window, tz, wall).opens, wall)
        return None if opens == _NEVER else opens

    def closes_wall(self, window: Window, tz: str, wall: float) -> float | None:
        """When what is open at `wall`, or opens next, closes; None: it does not, or there is nothing to close."""
        closes = self._at(window, tz, wall).closes
        return None if closes == _NEVER else closes

    def _at(self, window: Window, tz: str, wall: float) -> _Span:
        name = tz or window.tz
        key = (window.cron, window.length_s, name)
        kept = self._kept.get(key)
        if kept is not None and kept.since <= wall < kept.closes:
            return kept
        _checked_cron(window.cron)
        found = _span(window, _zone(name), wall)
        if len(self._kept) >= _KEPT_MAX:
            self._kept.clear()
        self._kept[key] = found
        return found


def _zone(name: str) -> ZoneInfo:
    if not name:
        return ZoneInfo("UTC")
    if len(name) <= _ZONE_MAX and _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
    raise InvalidInput(f"time zone {name[:_ZONE_MAX]!r} is not known; write it as Europe/Berlin or UTC")


def _checked_cron(cron: str) -> None:
    fields = cron.split()
    if len(cron) > _CRON_MAX or len(fields) != len(FIELDS):
        raise InvalidInput(
            f"window {cron[:40]!r}: {len(fields)} fields; it takes five of at most {_CRON_MAX} characters in all: "
            f"{', '.join(FIELDS)}, such as `0 2 * * *` for each night at two"
        )
    for at, (field, name) in enumerate(zip(fields, FIELDS, strict=True)):
        try:
            CronSim(" ".join([*["*"] * at, field, *["*"] * (len(FIELDS) - at - 1)]), datetime(2026, 1, 1))  # noqa: DTZ001
        except CronSimError:
            raise InvalidInput(f"window {cron!r}: {field!r} cannot be the {name}") from None
    try:
        minutes = CronSim(cron, datetime(2026, 1, 1)).minutes  # noqa: DTZ001
    except CronSimError as error:
        raise InvalidInput(f"window {cron!r}: it never opens ({error})") from None
    if len(minutes) > STARTS_PER_HOUR_MAX:
        raise InvalidInput(
            f"window {cron!r}: it would start {len(minutes)} times an hour, at most {STARTS_PER_HOUR_MAX} are allowed; "
            "name the minute at which it opens, and its length"
        )


def _span(window: Window, zone: ZoneInfo, wall: float) -> _Span:
    """The opening that holds at `wall`, or else the next."""
    starts = _starts(window.cron, zone, wall - window.length_s)
    opens = next(starts, _NEVER)
    closes = opens + window.length_s
    for joined, start in enumerate(starts):
        if start > closes:
            break
        closes = _NEVER if joined >= _JOINED_MAX else start + window.length_s
        if closes == _NEVER:
            break
    return _Span(since=wall, opens=opens, closes=closes)


def _starts(cron: str, zone: ZoneInfo, after: float) -> Iterator[float]:
    """The starts after this time."""
    if cron.split()[1] == "*":
        yield from _hourly_starts(cron, zone, after)
        return
    for found in CronSim(_fixed(cron), datetime.fromtimestamp(after, zone)):
        start = found.timestamp()
        if start > after:  # in the second of two same hours cronsim goes on from the first
            yield start


def _hourly_starts(cron: str, zone: ZoneInfo, after: float) -> Iterator[float]:
    """The starts of an expression for every hour: cronsim leaves out the hour of which a change takes only a half.

    So it is asked in the offset that is in force, and again from each change of the offset on.
    """
    offset = _offset(zone, after)
    while True:
        for found in CronSim(cron, datetime.fromtimestamp(after, timezone(offset))):
            start = found.timestamp()
            if _offset(zone, start) != offset:
                change = _change(zone, after, start)
                offset, after = _offset(zone, change), change - 1
                break
            yield start
        else:
            return


def _offset(zone: ZoneInfo, wall: float) -> timedelta:
    return datetime.fromtimestamp(wall, zone).utcoffset() or timedelta()


def _change(zone: ZoneInfo, low: float, high: float) -> int:
    """The first second from which on the offset is that of `high`, which it was not at `low`."""
    first, last, offset = math.floor(low), math.ceil(high), _offset(zone, high)
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if _offset(zone, middle) == offset else (middle, last)
    return last


def _fixed(cron: str) -> str:
    """`*/20 2 …` as `0-59/20 2 …`: at a star cronsim takes a start for one of many, and leaves it out with its hour."""
    minute, hour, *others = cron.split()
    if minute.startswith("*") and not hour.startswith("*"):
        minute = f"0-59{minute[1:]}"
    return " ".join((minute, hour, *others))
