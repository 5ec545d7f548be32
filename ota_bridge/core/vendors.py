"""Conversations with devices of vendors' protocols, inside a unit of work: hear, change, and at its end tell.

Rules:
1. What a message means is asked of the dialect first; the reports that it makes of it go the way of all reports.
2. A device is told things once, at the end of the unit of work, of all that happened in it.
3. A dialect that fails is an event and silence; nothing of its own is kept, and nobody else waits for it.
"""

from collections.abc import Callable
from typing import Final

from ota_bridge.core.conversation import CLAIMED, MEMORY_MAX_BYTES, UNPROVEN, Conversation, Occasion
from ota_bridge.core.deployment import Deployment, DeploymentEvent
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.fleet import Device
from ota_bridge.core.messages import CheckIn, InstalledPart, Progress, Rejected, Said, Saying
from ota_bridge.core.records import replace
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import DeviceId

ROUNDS_MAX: Final = 4
"""How often a device is told something in one unit of work: what is told can end an attempt and so begin another."""

Take = Callable[[CheckIn | Progress | Rejected], None]
"""Takes a report in, in the words of the core."""


def hear(updates: Updates, message: Said, take: Take, *, is_relayed: bool = False) -> None:
    """Take in a message of a device. `is_relayed`: another device said it, and it goes no further."""
    speaking = updates.speaking
    dialect = speaking.dialects.get(message.dialect)
    if dialect is None:
        return
    try:
        turn = dialect.hear(message.said, speaking.standing(message.device))
        _check_memory(turn.memory)
    except Exception as error:  # noqa: BLE001 - a third party's code: what it cannot read must not stop the others
        _tell_failure(updates, dialect, message.device, error)
        return
    for report in turn.uplinks:
        if not isinstance(report, Said):
            take(report)
        elif not is_relayed:
            hear(updates, report, take, is_relayed=True)
    if turn.memory is not None and updates.unit.devices.get(message.device) is not None:
        speaking.keep(message.device, message.dialect, turn.memory, speaking.wakes_at(message.device))
    speaking.occasions.add(message.device, said=message.said)


def wake(updates: Updates, limit: int) -> int:
    """Ask the dialects that wanted to be asked by now; how many these were."""
    due = updates.unit.memories.due(updates.now.wall, limit=limit)
    for device in due:
        memory = updates.unit.memories.get(device)
        if memory is not None:
            updates.speaking.keep(device, memory.dialect, None, None)
            updates.speaking.occasions.add(device, is_woken=True)
    return len(due)


def tell_all(updates: Updates, take: Take) -> None:
    """Speak to every device of whom something is to be told."""
    occasions = updates.speaking.occasions.by_device
    told: dict[DeviceId, int] = {}
    while occasions:
        device = next(iter(occasions))
        occasion = occasions.pop(device)
        rounds = told[device] = told.get(device, 0) + 1
        if rounds <= ROUNDS_MAX:
            _tell(updates, device, occasion, take)


def _tell(updates: Updates, device_id: DeviceId, occasion: Occasion, take: Take) -> None:
    speaking = updates.speaking
    device = updates.unit.devices.get(device_id)
    dialect = speaking.of(device)
    if dialect is None:
        return
    try:
        telling = dialect.tell(occasion, speaking.standing(device_id))
        _check_memory(telling.memory)
    except Exception as error:  # noqa: BLE001 - as above
        _tell_failure(updates, dialect, device_id, error)
        return
    speaking.keep(device_id, dialect.name, telling.memory, telling.wake_wall)
    updates.outputs += [Saying(device=device_id, message=message) for message in telling.messages]
    for report in telling.uplinks:
        take(report)


def believe(updates: Updates, device: Device, deployment: Deployment, reason: str) -> None:
    """A claim that nothing will ever prove ends the deployment, and is what the device runs from now on.

    `reason`: what it is made of, where the device did not say it itself.
    """
    part = updates.release_of(deployment).parts[deployment.component]
    installed = {**device.parts, deployment.component: InstalledPart(version=part.version)}
    updates.unit.devices.put(replace(device, parts=installed))
    cause = f"{reason or CLAIMED}; {device.dialect} {UNPROVEN}"
    updates.move(deployment, DeploymentEvent.RUNS_CONFIRMED, cause)


def _check_memory(data: bytes | None) -> None:
    if data is not None and len(data) > MEMORY_MAX_BYTES:
        raise InvalidInput(f"it wants to keep {len(data)} bytes, which is more than {MEMORY_MAX_BYTES}")


def _tell_failure(updates: Updates, dialect: Conversation, device: DeviceId, error: Exception) -> None:
    updates.tell(device, "dialect_failed", dialect=dialect.name, error=f"{type(error).__name__}: {error}"[:200])
