"""What vendors' dialects keep of their devices, over SQLite and in memory; as `tables` and `memory_tables`."""

from collections.abc import Sequence
from typing import Final

from sqlite_utils import Database

from ota_bridge.core.conversation import Memory
from ota_bridge.core.values import DeviceId
from ota_bridge.store.memory_state import Table
from ota_bridge.store.statements import select, upsert

_COLUMNS: Final = ("product", "name", "dialect", "data", "wake_wall")


class MemoryTable:
    """`Memories`."""

    _PUT: Final = upsert("dialect_memories", _COLUMNS, ("product", "name"))
    _GET: Final = select("dialect_memories", _COLUMNS) + "WHERE product = ? AND name = ?"
    _DUE: Final = (
        "SELECT product, name FROM dialect_memories WHERE wake_wall <= ? ORDER BY wake_wall, product, name LIMIT ?"
    )

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def get(self, device: DeviceId) -> Memory | None:
        row = self._execute(self._GET, (device.product, device.name)).fetchone()
        return None if row is None else Memory(dialect=row[2], data=row[3], wake_wall=row[4])

    def put(self, device: DeviceId, memory: Memory) -> None:
        row = (device.product, device.name, memory.dialect, memory.data, memory.wake_wall)
        self._execute(self._PUT, row)

    def due(self, wall: float, *, limit: int = 500) -> Sequence[DeviceId]:
        return [DeviceId(*row) for row in self._execute(self._DUE, (wall, limit))]

    def next_wake_wall(self) -> float | None:
        found: float | None = self._execute("SELECT min(wake_wall) FROM dialect_memories").fetchone()[0]
        return found


class MemoryMemories(Table):
    """The same over a dictionary."""

    def get(self, device: DeviceId) -> Memory | None:
        return self._state.memories.get(device)

    def put(self, device: DeviceId, memory: Memory) -> None:
        self._state.put(self._state.memories, device, memory)

    def due(self, wall: float, *, limit: int = 500) -> Sequence[DeviceId]:
        return [device for when, device in self._waking() if when <= wall][:limit]

    def next_wake_wall(self) -> float | None:
        return min((when for when, _ in self._waking()), default=None)

    def _waking(self) -> list[tuple[float, DeviceId]]:
        found = [
            (memory.wake_wall, device)
            for device, memory in self._state.memories.items()
            if memory.wake_wall is not None
        ]
        return sorted(found, key=lambda one: (one[0], one[1].product, one[1].name))
