"""Long work in slices: what concerns a whole fleet is done a few devices at a time, so that reports never wait for it.

A slice ends when its `go_on` says so; what it did is committed with how far it came (`Rollout.sweep`, or that a
deployment is no longer due). So a daemon that dies between two slices goes on where it was, and nothing is done twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import Output
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import DeviceId

PAGE: Final = 16
"""How many records are read at once: more than a slice can use would be read in vain."""

GoOn = Callable[[], bool]
"""Asked after each device: is there time for another?"""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a slice of work puts out, and whether there is more to do at once."""

    outputs: list[Output]
    more: bool


def for_ever() -> bool:
    """No limit."""
    return True


def sweep(updates: Updates, go_on: GoOn) -> bool:
    """Plan further devices of the oldest rollout that has some left; True if there may be more to do."""
    planning = [one for one in updates.unit.rollouts.all(state=RolloutState.RUNNING) if one.is_planning]
    if not planning:
        return False
    rollout, after = planning[0], None
    for device in _devices_left(updates, rollout):
        if device.state is DeviceState.ACTIVE and rollout.target.holds(device.id, rollout.release):
            updates.reconcile(device)
        if not go_on():
            after = device.id.name
            break
    updates.unit.rollouts.put(replace(rollout, sweep=after))
    updates.rollout_changed(rollout.id)
    return after is not None or len(planning) > 1


def _devices_left(updates: Updates, rollout: Rollout) -> Iterator[Device]:
    """The devices that a rollout may mean and that were not looked at, by name."""
    devices, after = updates.unit.devices, rollout.sweep or ""
    if rollout.target.devices:
        for name in sorted(device.name for device in rollout.target.devices if device.name > after):
            device = devices.get(DeviceId(rollout.product, name))
            if device is not None:
                yield device
        return
    start = DeviceId(rollout.product, after) if after else None
    while page := devices.page(product=rollout.product, after=start, limit=PAGE):
        yield from page
        start = page[-1].id
