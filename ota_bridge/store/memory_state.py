"""All records of the store in memory, in dictionaries.

Every change leaves an undo step in the journal, so that a work that raises leaves no trace.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ota_bridge.core.catalog import Release
from ota_bridge.core.chain import Entry
from ota_bridge.core.conversation import Memory
from ota_bridge.core.deployment import Deployment, Transition
from ota_bridge.core.errors import StoreError
from ota_bridge.core.fleet import Device
from ota_bridge.core.people import Token, TokenId, User
from ota_bridge.core.ports import StoredReport
from ota_bridge.core.rollout.approvals import Approval
from ota_bridge.core.rollout.model import Rollout
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId, StandingLimits
from ota_bridge.store.memory_index import DeploymentIndex, Line
from ota_bridge.store.old_keys import OldKeys

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class MemoryState:
    """All records, and how to take back what the running work changed."""

    releases: dict[ReleaseId, Release] = field(default_factory=dict)
    devices: dict[DeviceId, Device] = field(default_factory=dict)
    rollouts: dict[RolloutId, Rollout] = field(default_factory=dict)
    deployments: dict[DeploymentId, Deployment] = field(default_factory=dict)
    by_device: dict[DeviceId, list[DeploymentId]] = field(default_factory=dict)
    transitions: dict[DeploymentId, list[Transition]] = field(default_factory=dict)
    reports: dict[DeviceId, list[StoredReport]] = field(default_factory=dict)
    contents: dict[tuple[DeviceId, int, int], bytes] = field(default_factory=dict)
    boots: dict[tuple[DeviceId, int], None] = field(default_factory=dict)
    old_keys: dict[DeviceId, OldKeys] = field(default_factory=dict)
    compacted: dict[DeploymentId, None] = field(default_factory=dict)
    limits: dict[None, StandingLimits] = field(default_factory=dict)
    members: dict[RolloutId, Line[tuple[int, str]]] = field(default_factory=dict)
    names: Line[tuple[str, str, DeviceId]] = field(default_factory=Line)
    """The devices in the order of their ids; product and name compare faster than those."""
    index: DeploymentIndex = field(default_factory=DeploymentIndex)
    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[TokenId, Token] = field(default_factory=dict)
    approvals: dict[tuple[RolloutId, str], Approval] = field(default_factory=dict)
    audit: dict[int, Entry] = field(default_factory=dict)
    memories: dict[DeviceId, Memory] = field(default_factory=dict)
    journal: list[Callable[[], object]] | None = None
    """None: only reading is allowed."""

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        """Set one record."""
        journal = self.writable()
        if key in table:
            before = table[key]
            journal.append(lambda: table.__setitem__(key, before))
        else:
            journal.append(lambda: table.pop(key))
        table[key] = value

    def take(self, table: dict[K, V], key: K) -> None:
        """Take one record out of a table whose order means nothing, if it is there."""
        journal = self.writable()
        if key in table:
            before = table.pop(key)
            journal.append(lambda: table.__setitem__(key, before))

    def remove(self, table: dict[K, V], key: K) -> None:
        """Take one record out, if it is there; the order of the others stays, also when it is taken back."""
        journal = self.writable()
        if key in table:
            before = dict(table)

            def undo() -> None:
                table.clear()
                table.update(before)

            journal.append(undo)
            del table[key]

    def append(self, table: dict[K, list[V]], key: K, value: V) -> None:
        """Add one record to a list."""
        journal = self.writable()
        items = table.setdefault(key, [])
        items.append(value)
        journal.append(items.pop)

    def need(self, table: Mapping[K, object], key: K | None, what: str) -> None:
        """Raise StoreError if a record names another that does not exist."""
        if key is not None and key not in table:
            raise StoreError(f"there is no {what} {key}")

    def writable(self) -> list[Callable[[], object]]:
        """The journal; raises StoreError where only reading is allowed."""
        if self.journal is None:
            raise StoreError("this unit of work can only read")
        return self.journal


class Table:
    """One port over the state."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state
