"""`Deployments` in memory, over the records and their index."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ota_bridge.core.deployment import Deployment, State, Transition
from ota_bridge.core.errors import StoreError
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId
from ota_bridge.store.memory_state import Table
from ota_bridge.store.rows import to_signed


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
        if deployment.id in state.compacted:
            if deployment.is_open:
                raise StoreError(f"deployment {deployment.id} was compacted and cannot be open again")
            deployment = deployment.compacted()
        before = state.deployments.get(deployment.id)
        if before is None:
            state.append(state.by_device, deployment.device, deployment.id)
        state.put(state.deployments, deployment.id, deployment)
        state.index.change(before, deployment)
        state.writable().append(lambda: state.index.change(deployment, before))

    def open_of(self, device: DeviceId) -> Sequence[Deployment]:
        found = [one for one in self._of(device) if one.is_open]
        return found if len(found) <= 1 else sorted(found, key=lambda one: one.id)

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
        latest = self._state.index.latest.get(rollout)
        found: list[Deployment] = []
        for name in () if latest is None else latest.after(after):
            one = self._state.deployments[name]
            if len(found) >= limit:
                break
            if one.is_open or not open_only:
                found.append(one)
        return found

    def all_open(self, *, after: DeploymentId | None = None, limit: int = 1000) -> Sequence[Deployment]:
        return [self._state.deployments[name] for name in self._state.index.open.first(limit, after)]

    def due(self, wall: float, *, limit: int = 500) -> Sequence[Deployment]:
        return self._state.index.due(self._state.deployments, wall, limit)

    def next_due_wall(self) -> float | None:
        return self._state.index.next_due_wall(self._state.deployments)

    def counts(self, rollout: RolloutId) -> Mapping[State, int]:
        found: dict[State, int] = {}
        for (_, state, _), number in self.tallies(rollout).items():
            found[state] = found.get(state, 0) + number
        return found

    def tallies(self, rollout: RolloutId) -> Mapping[tuple[int, State, State | None], int]:
        return dict(self._state.index.tallies.get(rollout, ()))

    def for_slots(self, limit: int) -> Sequence[Deployment]:
        return [self._state.deployments[name] for name in self._state.index.for_slots(limit)]

    def waiting_for_slots(self, limit: int) -> int:
        return min(limit, len(self._state.index.waiting))

    def busy(self, offered_since_wall: float) -> int:
        return self._state.index.busy(offered_since_wall)

    def record(self, transition: Transition) -> None:
        state = self._state
        whole = {} if transition.deployment in state.compacted else state.deployments
        state.need(whole, transition.deployment, "deployment")
        state.append(state.transitions, transition.deployment, transition)

    def history(self, deployment: DeploymentId) -> Sequence[Transition]:
        return list(self._state.transitions.get(deployment, ()))

    def compact(self, device: DeviceId, before_wall: float, *, limit: int = 1000) -> int:
        state, done = self._state, 0
        for one in [one for one in self._of(device) if one.id not in state.compacted][:limit]:
            if one.is_open or one.changed_wall >= before_wall:
                break
            state.take(state.transitions, one.id)
            state.put(state.compacted, one.id, None)
            self.put(one)
            done += 1
        return done

    def shift_due(self, by_s: float) -> None:
        for one in list(self._state.deployments.values()):
            if one.due_wall is not None or one.retry_wall is not None:
                due = None if one.due_wall is None else one.due_wall + by_s
                retry = None if one.retry_wall is None else one.retry_wall + by_s
                self.put(replace(one, due_wall=due, retry_wall=retry))

    def _of(self, device: DeviceId) -> list[Deployment]:
        return [self._state.deployments[one] for one in self._state.by_device.get(device, ())]
