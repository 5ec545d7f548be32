"""The ports over dictionaries. Deployments are in `memory_deployments`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any

from ota_bridge.core.catalog import Release
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
    Memories,
    Releases,
    Reports,
    Rollouts,
    StoredReport,
    Tokens,
    Users,
)
from ota_bridge.core.rollout.model import PLACES_END, Rollout, RolloutState
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId, StandingLimits
from ota_bridge.store.dialect_tables import MemoryMemories
from ota_bridge.store.identifiers import new_secret, unused_id
from ota_bridge.store.memory_deployments import MemoryDeployments
from ota_bridge.store.memory_index import Line
from ota_bridge.store.memory_people import MemoryApprovals, MemoryAudit, MemoryTokens, MemoryUsers
from ota_bridge.store.memory_state import MemoryState, Table
from ota_bridge.store.old_keys import OldKeys
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
        state, name = self._state, (device.id.product, device.id.name, device.id)
        if device.id not in state.devices:
            state.names.add(name)
            state.writable().append(lambda: state.names.remove(name))
        state.put(state.devices, device.id, device)

    def named(self, name: str) -> Sequence[Device]:
        return [one for one in self._all(None) if name and name in (one.id.name, one.label)]

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
            one for one in self._all(product, after) if state in (None, one.state) and (tag is None or tag in one.tags)
        )
        return list(islice(found, limit))

    def count(self, *, product: str | None = None) -> int:
        return sum(product in (None, device.product) for device in self._state.devices)

    def installed(self, *, product: str) -> Sequence[Mapping[str, InstalledPart]]:
        found: list[Mapping[str, InstalledPart]] = []
        for one in self._all(product):
            if one.state is not DeviceState.RETIRED and one.parts not in found:
                found.append(one.parts)
        return found

    def _all(self, product: str | None, after: DeviceId | None = None) -> Iterator[Device]:
        """Those of a product, or all, in the order of their ids."""
        last: tuple[Any, ...] | None = None if after is None else (after.product, after.name, after)
        if product is not None and (after is None or after.product < product):
            last = (product,)
        for one, _, name in self._state.names.after(last):
            if product is not None and one != product:
                return
            yield self._state.devices[name]


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
        journal, line = self._state.writable(), self._state.members.setdefault(rollout, Line())
        if (place, name) not in line:
            line.add((place, name))
            journal.append(lambda: line.remove((place, name)))

    def remove(self, rollout: RolloutId, place: int, name: str) -> None:
        journal, line = self._state.writable(), self._state.members.get(rollout)
        if line is not None and (place, name) in line:
            line.remove((place, name))
            journal.append(lambda: line.add((place, name)))

    def page(self, rollout: RolloutId, *, end: int, limit: int) -> Sequence[tuple[int, str]]:
        return list(takewhile(lambda found: found[0] < end, self._of(rollout).first(limit)))

    def nth(self, rollout: RolloutId, start: int, number: int) -> int | None:
        line = self._of(rollout)
        found = line.at(line.place((start, "")) + number)
        return None if found is None else found[0]

    def count(self, rollout: RolloutId, *, start: int = 0, end: int = PLACES_END) -> int:
        line = self._of(rollout)
        return max(0, line.place((end, "")) - line.place((start, "")))

    def clear(self, rollout: RolloutId) -> None:
        for place, name in list(self._of(rollout).after(None)):
            self.remove(rollout, place, name)

    def _of(self, rollout: RolloutId) -> Line[tuple[int, str]]:
        return self._state.members.get(rollout) or Line()


class MemoryReports(Table):
    """`Reports`."""

    def seen(self, device: DeviceId, boot: int, seq: int) -> bytes | None:
        found = self._state.contents.get((device, boot, seq))
        return self._old(device).content(boot, seq) if found is None else found

    def knows_boot(self, device: DeviceId, boot: int) -> bool:
        return (device, boot) in self._state.boots or self._old(device).knows_boot(boot)

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

    def prune(self, device: DeviceId, before_wall: float, *, keep: int, boot: int | None) -> int:
        state = self._state
        reports = state.reports.get(device, [])
        gone = [one for one in reports[: max(0, len(reports) - keep)] if one.wall < before_wall]
        if not gone:
            return 0
        left = [one for one in reports if all(one is not other for other in gone)]
        state.put(state.reports, device, left)
        keys = [one.key for one in gone if one.key is not None]
        for key in keys:
            state.take(state.contents, (device, key.boot, key.seq))
            if all(one.key is None or one.key.boot != key.boot for one in left):
                state.take(state.boots, (device, key.boot))
        state.put(state.old_keys, device, self._old(device).after(keys, boot))
        return len(gone)

    def _old(self, device: DeviceId) -> OldKeys:
        return self._state.old_keys.get(device) or OldKeys()


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
    memories: Memories

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
            MemoryMemories(state),
        )

    def new_deployment_id(self) -> DeploymentId:
        return DeploymentId(unused_id("", 6, lambda text: self.deployments.get(DeploymentId(text)) is not None))

    def new_rollout_id(self) -> RolloutId:
        return RolloutId(unused_id("r-", 3, lambda text: self.rollouts.get(RolloutId(text)) is not None))

    def new_token_id(self) -> TokenId:
        return TokenId(unused_id("", 4, lambda text: self.tokens.get(TokenId(text)) is not None))

    def new_secret(self) -> bytes:
        return new_secret()
