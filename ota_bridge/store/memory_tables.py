"""The ports over dictionaries."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ota_bridge.core.catalog import Release
from ota_bridge.core.deployment import Deployment, State, Transition
from ota_bridge.core.errors import StoreError
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.people import TokenId
from ota_bridge.core.ports import (
    Approvals,
    AuditLog,
    Deployments,
    Devices,
    LimitsInForce,
    Members,
    Releases,
    Reports,
    Rollouts,
    StoredReport,
    Tokens,
    Users,
)
from ota_bridge.core.rollout.model import PLACES_END, Rollout, RolloutState
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId, StandingLimits
from ota_bridge.store.identifiers import new_secret, unused_id
from ota_bridge.store.memory_people import MemoryApprovals, MemoryAudit, MemoryTokens, MemoryUsers
from ota_bridge.store.memory_state import MemoryState, Table
from ota_bridge.store.rows import body_text, to_signed


class MemoryReleases(Table):
    """`Releases`."""

    def get(self, release: ReleaseId) -> Release | None:
        return self._state.releases.get(release)

    def put(self, release: Release) -> None:
        self._state.put(self._state.releases, release.id, release)

    def all(self, *, product: str | None = None) -> Sequence[Release]:
        found = (one for one in self._state.releases.values() if product in (None, one.product))
        return sorted(found, key=lambda one: one.id)


class MemoryDevices(Table):
    """`Devices`."""

    def get(self, device: DeviceId) -> Device | None:
        return self._state.devices.get(device)

    def put(self, device: Device) -> None:
        to_signed(device.boot)
        self._state.put(self._state.devices, device.id, device)

    def named(self, name: str) -> Sequence[Device]:
        return self._sorted(one for one in self._state.devices.values() if name and name in (one.id.name, one.label))

    def page(
        self,
        *,
        product: str | None = None,
        state: DeviceState | None = None,
        tag: str | None = None,
        after: DeviceId | None = None,
        limit: int = 1000,
    ) -> Sequence[Device]:
        found = (
            one
            for one in self._state.devices.values()
            if product in (None, one.id.product)
            and state in (None, one.state)
            and (tag is None or tag in one.tags)
            and (after is None or one.id > after)
        )
        return self._sorted(found)[:limit]

    def count(self, *, product: str | None = None) -> int:
        return sum(product in (None, device.product) for device in self._state.devices)

    def installed(self, *, product: str) -> Sequence[Mapping[str, InstalledPart]]:
        found: list[Mapping[str, InstalledPart]] = []
        for one in self._sorted(self._state.devices.values()):
            if one.id.product == product and one.state is not DeviceState.RETIRED and one.parts not in found:
                found.append(one.parts)
        return found

    def _sorted(self, devices: Iterable[Device]) -> list[Device]:
        return sorted(devices, key=lambda one: one.id)


class MemoryDeployments(Table):
    """`Deployments`."""

    def get(self, deployment: DeploymentId) -> Deployment | None:
        return self._state.deployments.get(deployment)

    def put(self, deployment: Deployment) -> None:
        state = self._state
        state.need(state.devices, deployment.device, "device")
        state.need(state.releases, deployment.release, "release")
        state.need(state.rollouts, deployment.rollout, "rollout")
        to_signed(deployment.boot)
        if deployment.id not in state.deployments:
            state.append(state.by_device, deployment.device, deployment.id)
        state.put(state.deployments, deployment.id, deployment)

    def open_of(self, device: DeviceId) -> Sequence[Deployment]:
        return _by_id(one for one in self._of(device) if one.is_open)

    def recent_of(self, device: DeviceId, *, limit: int = 20) -> Sequence[Deployment]:
        return self._of(device)[::-1][:limit]

    def of_rollout(
        self,
        rollout: RolloutId,
        *,
        open_only: bool = False,
        after: DeploymentId | None = None,
        limit: int = 1000,
    ) -> Sequence[Deployment]:
        found = (
            one
            for one in self._state.deployments.values()
            if one.rollout == rollout and one.latest and (one.is_open or not open_only)
        )
        return _by_id(found, after)[:limit]

    def all_open(self, *, after: DeploymentId | None = None, limit: int = 1000) -> Sequence[Deployment]:
        return _by_id((one for one in self._state.deployments.values() if one.is_open), after)[:limit]

    def due(self, wall: float, *, limit: int = 500) -> Sequence[Deployment]:
        found = [(due, one.id, one) for due, one in self._with_due() if due <= wall]
        return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])[:limit]]

    def next_due_wall(self) -> float | None:
        return min((due for due, _ in self._with_due()), default=None)

    def counts(self, rollout: RolloutId) -> Mapping[State, int]:
        deployments = self._state.deployments.values()
        return dict(Counter(one.state for one in deployments if one.rollout == rollout and one.latest))

    def tallies(self, rollout: RolloutId) -> Mapping[tuple[int, State, State | None], int]:
        found = (one for one in self._state.deployments.values() if one.rollout == rollout and one.latest)
        return dict(Counter((one.stage, one.state, one.earlier_end) for one in found))

    def for_slots(self, limit: int) -> Sequence[Deployment]:
        waiting = [one for one in self._state.deployments.values() if one.slot_rank]
        return sorted(waiting, key=lambda one: -one.slot_rank)[:limit]

    def waiting_for_slots(self, limit: int) -> int:
        return min(limit, sum(one.slot_rank > 0 for one in self._state.deployments.values()))

    def busy(self, offered_since_wall: float) -> int:
        return sum(
            one.state is State.DOWNLOADING
            or (one.state is State.OFFERED and one.offered_wall is not None and one.offered_wall > offered_since_wall)
            for one in self._state.deployments.values()
        )

    def record(self, transition: Transition) -> None:
        self._state.need(self._state.deployments, transition.deployment, "deployment")
        self._state.append(self._state.transitions, transition.deployment, transition)

    def history(self, deployment: DeploymentId) -> Sequence[Transition]:
        return list(self._state.transitions.get(deployment, ()))

    def shift_due(self, by_s: float) -> None:
        for one in list(self._state.deployments.values()):
            if one.due_wall is not None or one.retry_wall is not None:
                due = None if one.due_wall is None else one.due_wall + by_s
                retry = None if one.retry_wall is None else one.retry_wall + by_s
                self._state.put(self._state.deployments, one.id, replace(one, due_wall=due, retry_wall=retry))

    def _of(self, device: DeviceId) -> list[Deployment]:
        return [self._state.deployments[one] for one in self._state.by_device.get(device, ())]

    def _with_due(self) -> Iterable[tuple[float, Deployment]]:
        for one in self._state.deployments.values():
            if one.is_open and one.due_wall is not None:
                yield one.due_wall, one


def _by_id(deployments: Iterable[Deployment], after: DeploymentId | None = None) -> list[Deployment]:
    return sorted((one for one in deployments if after is None or one.id > after), key=lambda one: one.id)


class MemoryRollouts(Table):
    """`Rollouts`."""

    def get(self, rollout: RolloutId) -> Rollout | None:
        return self._state.rollouts.get(rollout)

    def put(self, rollout: Rollout) -> None:
        self._state.need(self._state.releases, rollout.release, "release")
        self._state.put(self._state.rollouts, rollout.id, rollout)

    def all(self, *, state: RolloutState | None = None, product: str | None = None) -> Sequence[Rollout]:
        return [
            one
            for one in self._state.rollouts.values()
            if state in (None, one.state) and product in (None, one.product)
        ]


class MemoryMembers(Table):
    """`Members`."""

    def put(self, rollout: RolloutId, place: int, name: str) -> None:
        self._state.need(self._state.rollouts, rollout, "rollout")
        if (rollout, place, name) not in self._state.members:
            self._state.put(self._state.members, (rollout, place, name), None)

    def remove(self, rollout: RolloutId, place: int, name: str) -> None:
        self._state.take(self._state.members, (rollout, place, name))

    def page(self, rollout: RolloutId, *, end: int, limit: int) -> Sequence[tuple[int, str]]:
        return [found for found in self._of(rollout) if found[0] < end][:limit]

    def nth(self, rollout: RolloutId, start: int, number: int) -> int | None:
        found = [place for place, _ in self._of(rollout) if place >= start]
        return found[number] if number < len(found) else None

    def count(self, rollout: RolloutId, *, start: int = 0, end: int = PLACES_END) -> int:
        return sum(start <= place < end for place, _ in self._of(rollout))

    def clear(self, rollout: RolloutId) -> None:
        for place, name in self._of(rollout):
            self.remove(rollout, place, name)

    def _of(self, rollout: RolloutId) -> list[tuple[int, str]]:
        return sorted((place, name) for found, place, name in self._state.members if found == rollout)


class MemoryReports(Table):
    """`Reports`."""

    def seen(self, device: DeviceId, boot: int, seq: int) -> bytes | None:
        return self._state.contents.get((device, boot, seq))

    def knows_boot(self, device: DeviceId, boot: int) -> bool:
        return (device, boot) in self._state.boots

    def add(self, report: StoredReport) -> None:
        state, key = self._state, report.key
        if key is not None:
            to_signed(key.boot)
            to_signed(key.seq)
            if (report.device, key.boot, key.seq) in state.contents:
                raise StoreError(f"a report {key.boot}/{key.seq} of {report.device} is already there")
            state.put(state.contents, (report.device, key.boot, key.seq), key.content)
            state.put(state.boots, (report.device, key.boot), None)
        body = json.loads(body_text(report.body))
        state.append(state.reports, report.device, replace(report, body=body))

    def recent(self, device: DeviceId, *, limit: int = 20) -> Sequence[StoredReport]:
        return self._state.reports.get(device, [])[::-1][:limit]


class MemoryLimits(Table):
    """`LimitsInForce`."""

    def get(self) -> StandingLimits:
        return self._state.limits.get(None, StandingLimits())

    def put(self, limits: StandingLimits) -> None:
        self._state.put(self._state.limits, None, limits)


@dataclass(frozen=True, slots=True)
class MemoryTables:
    """The unit of work over a state in memory."""

    releases: Releases
    devices: Devices
    deployments: Deployments
    rollouts: Rollouts
    members: Members
    reports: Reports
    limits: LimitsInForce
    users: Users
    tokens: Tokens
    approvals: Approvals
    audit: AuditLog

    @classmethod
    def over(cls, state: MemoryState) -> "MemoryTables":
        """The ports on this state."""
        return cls(
            MemoryReleases(state),
            MemoryDevices(state),
            MemoryDeployments(state),
            MemoryRollouts(state),
            MemoryMembers(state),
            MemoryReports(state),
            MemoryLimits(state),
            MemoryUsers(state),
            MemoryTokens(state),
            MemoryApprovals(state),
            MemoryAudit(state),
        )

    def new_deployment_id(self) -> DeploymentId:
        return DeploymentId(unused_id("", 6, lambda text: self.deployments.get(DeploymentId(text)) is not None))

    def new_rollout_id(self) -> RolloutId:
        return RolloutId(unused_id("r-", 3, lambda text: self.rollouts.get(RolloutId(text)) is not None))

    def new_token_id(self) -> TokenId:
        return TokenId(unused_id("", 4, lambda text: self.tokens.get(TokenId(text)) is not None))

    def new_secret(self) -> bytes:
        return new_secret()
