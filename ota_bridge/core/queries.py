"""Queries that operators write, checked against the fleet that they are for: a typo is an error, never "no match".

Compiler and calendar are handed in from outside the core; `none_compiled` and `NO_CALENDAR` stand where none was.
"""

from collections.abc import Iterable
from typing import Final, NoReturn

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import Queries, Query
from ota_bridge.core.rollout.facts import facts_of, unknown_keys
from ota_bridge.core.rollout.plan import Window

_SHOWN_MAX: Final = 12


def none_compiled(text: str) -> Query:
    """Where no compiler was handed in."""
    raise InvalidInput(f"query {text[:40]!r}: there are no queries here")


class NoCalendar:
    """`Calendar` where none was handed in: it knows no zone and takes no window."""

    def check(self, window: Window) -> NoReturn:
        raise InvalidInput(f"window {window.cron[:40]!r}: there is no calendar here")

    def knows(self, tz: str) -> bool:  # noqa: ARG002 - it knows none
        return False

    def is_open(self, window: Window, tz: str, wall: float) -> bool:  # noqa: ARG002
        self.check(window)

    def opens_wall(self, window: Window, tz: str, wall: float) -> float | None:  # noqa: ARG002
        self.check(window)

    def closes_wall(self, window: Window, tz: str, wall: float) -> float | None:  # noqa: ARG002
        self.check(window)


NO_CALENDAR: Final = NoCalendar()


def checked_query(queries: Queries, text: str, sample: Iterable[Device], now_wall: float) -> Query:
    """The query, compiled; raises InvalidInput if it cannot be, or names a key that no device of the sample has.

    `sample`: the devices that it will choose from, or enough of them; it is read no further than it has to be.
    """
    query = queries(text)
    if not query.asked:
        return query
    products: set[str] = set()
    unknown, known = unknown_keys(query.asked, (_noted(device, products, now_wall) for device in sample))
    if unknown:
        table = unknown[0].partition(".")[0]
        names = sorted(known[table])
        there = ", ".join(names[:_SHOWN_MAX]) + (" …" if len(names) > _SHOWN_MAX else "") or "none"
        whose = f"device of {next(iter(products))}" if len(products) == 1 else "device"
        raise InvalidInput(f"query: no {whose} has {unknown[0]}; known are {there}")
    return query


def _noted(device: Device, products: set[str], now_wall: float) -> dict[str, object]:
    products.add(device.id.product)
    return facts_of(device, now_wall)
