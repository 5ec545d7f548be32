"""Devices that are not heard any more: `why` says so at once, an event tells it once for each.

The whole fleet is looked at once an hour, a few devices at a time, so this costs reports nothing. Where the look has
come to is kept in memory: a daemon that starts anew begins it an hour later, when who is alive has been heard.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.slices import PAGE, GoOn, Slice, for_ever
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import DeviceId
from ota_bridge.core.views import iso

LOOK_EVERY_S: Final = 3600.0


def expected_wall(device: Device) -> float | None:
    """When a device was last heard, or later, when it said that it would come; None where it never checked in."""
    if device.last_report_wall is None:
        return None
    return max(device.last_report_wall, device.last_block_wall or 0.0, device.next_check_in_wall or 0.0)


def is_silent(device: Device, silent_after_s: float, wall: float) -> bool:
    """True if it takes part and has not been heard for so long, or did not come when it said."""
    expected = expected_wall(device)
    return device.state is DeviceState.ACTIVE and expected is not None and wall - expected > silent_after_s


@dataclass(slots=True)
class SilentLook:
    """How far the present look has come, and when the next begins."""

    _next_mono: float | None = None
    _after: DeviceId | None = None

    def look(self, updates: Updates, go_on: GoOn = for_ever) -> Slice:
        """Tell of further devices that became silent, if it is time, for as long as `go_on` says so."""
        return Slice(updates.outputs, more=self._look(updates, go_on))

    def _look(self, updates: Updates, go_on: GoOn) -> bool:
        mono = updates.now.mono
        if self._next_mono is None:
            self._next_mono = mono + LOOK_EVERY_S
        if mono < self._next_mono:
            return False
        for device in self._devices_left(updates):
            self._after = device.id
            self._tell(updates, device)
            if not go_on():
                return True
        self._after, self._next_mono = None, mono + LOOK_EVERY_S
        return False

    def _devices_left(self, updates: Updates) -> Iterator[Device]:
        while page := updates.unit.devices.page(after=self._after, limit=PAGE):
            yield from page

    def _tell(self, updates: Updates, device: Device) -> None:
        expected = expected_wall(device)
        told = device.trouble.told_silent_wall == expected
        if told or expected is None or not is_silent(device, updates.rules.pacing.silent_after_s, updates.now.wall):
            return
        updates.unit.devices.put(replace(device, trouble=replace(device.trouble, told_silent_wall=expected)))
        updates.tell(device.id, "silent", last_report=iso(device.last_report_wall), since=iso(expected))
