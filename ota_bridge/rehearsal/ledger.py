"""The records of a rehearsal: the store in memory without what nobody reads afterwards.

No undo, no history, no reports kept; ids are counted instead of drawn, so that the same seed gives the same ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ota_bridge.core.deployment import Deployment, Transition
from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import StoredReport
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId
from ota_bridge.store.memory_deployments import MemoryDeployments
from ota_bridge.store.memory_state import MemoryState
from ota_bridge.store.memory_tables import MemoryDevices, MemoryTables


class _NoJournal(list[Callable[[], object]]):
    def append(self, _: Callable[[], object]) -> None:
        """Nothing is taken back: who fails ends the rehearsal."""


class _Devices(MemoryDevices):
    def put(self, device: Device) -> None:
        """Without a way back."""
        known = self._state.devices
        if device.id not in known:
            self._state.names.add((device.id.product, device.id.name, device.id))
        known[device.id] = device


class _Deployments(MemoryDeployments):
    def put(self, deployment: Deployment) -> None:
        """Without a way back, and without asking whether there is what it names: the bridge has just read that."""
        state = self._state
        before = state.deployments.get(deployment.id)
        if before is None:
            state.by_device.setdefault(deployment.device, []).append(deployment.id)
        state.deployments[deployment.id] = deployment
        state.index.change(before, deployment)

    def record(self, transition: Transition) -> None:
        """Nobody asks for the history."""


class _Reports:
    """`Reports` that are not kept: twins never repeat one."""

    def seen(self, _device: DeviceId, _boot: int, _seq: int) -> bytes | None:
        return None

    def knows_boot(self, _device: DeviceId, _boot: int) -> bool:
        return False

    def add(self, report: StoredReport) -> None:
        pass

    def recent(self, _device: DeviceId, *, limit: int = 20) -> Sequence[StoredReport]:
        return [][:limit]


@dataclass(frozen=True)
class Ledger(MemoryTables):
    """A unit of work that never ends."""

    state: MemoryState

    @classmethod
    def new(cls) -> "Ledger":
        """Without a record."""
        state = MemoryState(journal=_NoJournal())
        tables = MemoryTables.over(state)
        kept = {name: getattr(tables, name) for name in MemoryTables.__dataclass_fields__}
        own = {"devices": _Devices(state), "deployments": _Deployments(state), "reports": _Reports()}
        return cls(**(kept | own), state=state)

    @property
    def opened(self) -> int:
        """How many deployments there ever were."""
        return len(self.state.deployments)

    def new_deployment_id(self) -> DeploymentId:
        return DeploymentId(f"{self.opened + 1:012x}")

    def new_rollout_id(self) -> RolloutId:
        return RolloutId(f"r-{len(self.state.rollouts) + 1:06x}")
