"""Where a device of a vendor's protocol stands, and what its dialect keeps of it, in one unit of work."""

from collections.abc import Mapping
from dataclasses import field
from typing import Final

from ota_bridge.core import notices
from ota_bridge.core.conversation import Choosy, Conversation, Memory, Occasions, Standing, Update
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import Links, UnitOfWork
from ota_bridge.core.records import record
from ota_bridge.core.rollout import policy
from ota_bridge.core.rules import Rules
from ota_bridge.core.terms import Terms, is_paused
from ota_bridge.core.values import DeviceId, Now

ENDED_MAX: Final = 8
"""How many of the deployments that ended a dialect is shown."""

Dialects = Mapping[str, Conversation]

NO_DIALECTS: Final[Dialects] = {}


@record(frozen=False)
class Speaking:
    """What is to be told to devices of vendors' protocols at the end of a unit of work."""

    unit: UnitOfWork
    now: Now
    rules: Rules
    links: Links
    dialects: Dialects
    terms: Terms
    occasions: Occasions = field(default_factory=Occasions)

    def of(self, device: Device | None) -> Conversation | None:
        """Who speaks for this device; None: it speaks the native protocol."""
        return None if device is None or not self.dialects else self.dialects.get(device.dialect)

    def knows(self, device_id: DeviceId) -> bool:
        """Whether this device has a dialect."""
        return bool(self.dialects) and self.of(self.unit.devices.get(device_id)) is not None

    def standing(self, device_id: DeviceId) -> Standing:
        """Where a device stands now, with all that was put in this unit of work."""
        device = self.unit.devices.get(device_id)
        memory = self.unit.memories.get(device_id)
        data = b"" if memory is None else memory.data
        if device is None or policy.may_take_part(device) is not None:
            parts = {} if device is None else _versions(device)
            return Standing(device=device_id, wall=self.now.wall, is_known=False, parts=parts, memory=data)
        known = self.unit.deployments.recent_of(device_id, limit=4 * ENDED_MAX)
        shown = [one for one in self.unit.deployments.open_of(device_id) if _is_told(one)]
        ended = [one for one in known if not one.is_open][:ENDED_MAX]
        return Standing(
            device=device_id,
            wall=self.now.wall,
            is_known=True,
            parts=_versions(device),
            updates=[self._update(device, one) for one in sorted(shown, key=lambda one: (one.created_wall, one.id))],
            ended=[self._update(device, one) for one in ended],
            refused_wall=device.trouble.refusal_wall,
            memory=data,
        )

    def _update(self, device: Device, one: Deployment) -> Update:
        release = self.unit.releases.get(one.release)
        assert release is not None, "a deployment's release is never deleted"
        part = release.parts[one.component]
        rollout = None if one.rollout is None else self.unit.rollouts.get(one.rollout)
        return Update(
            id=one.id,
            release=one.release,
            component=one.component,
            version=part.version,
            attempt=one.attempt,
            state=one.state,
            cause=one.cause,
            size_bytes=part.manifest.size_bytes,
            sha256=part.manifest.sha256,
            md5=part.md5,
            file_name=part.file_name,
            metadata=part.metadata,
            url=notices.url(self.rules, self.links, one.id, part, self.now.wall),
            offers=one.offers,
            created_wall=one.created_wall,
            changed_wall=one.changed_wall,
            last_block_wall=one.last_block_wall,
            high_water_bytes=one.high_water_bytes,
            is_paused=is_paused(rollout, one)
            or release.state.value == "withdrawn"
            # Its notice went out in time; another one waits for its window as the first one did.
            or self.terms.hold(device, one, rollout, has_slot=True) is not None,
        )

    def hindrance(self, device: Device, one: Deployment) -> str:
        """Why the dialect of this device cannot tell it of this, or nothing."""
        dialect = self.of(device)
        if dialect is None or not isinstance(dialect, Choosy):
            return ""
        try:
            return dialect.hindrance(self._update(device, one))
        except Exception as error:  # noqa: BLE001 - a third party's code: what it cannot judge must not stop the others
            return f"{dialect.name} failed on it: {type(error).__name__}: {error}"[:200]

    def keep(self, device: DeviceId, dialect: str, data: bytes | None, wake_wall: float | None) -> None:
        """Put what a dialect wants kept; `data` None: as it was."""
        before = self.unit.memories.get(device) or Memory(dialect=dialect)
        after = Memory(dialect=dialect, data=before.data if data is None else data, wake_wall=wake_wall)
        if after != before:
            self.unit.memories.put(device, after)

    def wakes_at(self, device: DeviceId) -> float | None:
        """When its dialect wants to be asked."""
        memory = self.unit.memories.get(device)
        return None if memory is None else memory.wake_wall


def _versions(device: Device) -> Mapping[str, str]:
    return {component: part.version for component, part in device.parts.items()}


def _is_told(one: Deployment) -> bool:
    return one.state is not State.QUEUED and one.offers > 0
