"""History that nobody decides by any more is made small: finished deployments and old reports.

1. A deployment that ended longer ago than `Rules.keep_history_s` keeps what decisions, counts and views are made of
   (`Deployment.compacted`) and loses its transitions. Nothing that the planner decides changes by it.
2. Of the reports that are older than that, a device's last `REPORTS_KEPT` stay.
3. The fleet is swept once a day, a few devices at a time, so this costs reports nothing. Each device is done by
   itself: where a sweep was cut off, the next one finds what is left. `history compact` does the same by hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.silent import SilentLook
from ota_bridge.core.slices import PAGE, GoOn, Slice, for_ever
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import DeviceId

SWEEP_EVERY_S: Final = 86_400.0
FIRST_SWEEP_S: Final = 3_600.0
"""After a start: then everybody has reported, and there is time for it."""
REPORTS_KEPT: Final = 20
"""As many as `device show` shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """How much was made small."""

    deployments: int = 0
    reports: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(deployments=self.deployments + other.deployments, reports=self.reports + other.reports)


def compact(unit: UnitOfWork, device: Device, before_wall: float) -> Compacted:
    """Make small what a device did before a time."""
    return Compacted(
        deployments=unit.deployments.compact(device.id, before_wall),
        reports=unit.reports.prune(device.id, before_wall, keep=REPORTS_KEPT, boot=device.boot),
    )


def devices_after(unit: UnitOfWork, after: DeviceId | None) -> Iterator[Device]:
    """The whole fleet behind a device, in order."""
    while page := unit.devices.page(after=after, limit=PAGE):
        yield from page
        after = page[-1].id


@dataclass(slots=True)
class HistorySweep:
    """How far the present sweep has come, and when the next begins."""

    _next_mono: float | None = None
    _after: DeviceId | None = None

    def look(self, updates: Updates, go_on: GoOn = for_ever) -> Slice:
        """Sweep further devices, if it is time, for as long as `go_on` says so."""
        return Slice(updates.outputs, more=self._look(updates, go_on))

    def _look(self, updates: Updates, go_on: GoOn) -> bool:
        mono, keep_s = updates.now.mono, updates.rules.keep_history_s
        if self._next_mono is None:
            self._next_mono = mono + FIRST_SWEEP_S
        if mono < self._next_mono or keep_s is None:
            return False
        for device in devices_after(updates.unit, self._after):
            compact(updates.unit, device, updates.now.wall - keep_s)
            self._after = device.id
            if not go_on():
                return True
        self._after, self._next_mono = None, mono + SWEEP_EVERY_S
        return False


@dataclass(slots=True)
class Rounds:
    """What goes round the whole fleet, one after the other, when nothing else is to be done."""

    _silent: SilentLook = field(default_factory=SilentLook)
    _history: HistorySweep = field(default_factory=HistorySweep)

    def look(self, updates: Updates, go_on: GoOn = for_ever) -> Slice:
        """A slice of whichever has something to do."""
        found = self._silent.look(updates, go_on)
        return found if found.more or not go_on() else self._history.look(updates, go_on)
