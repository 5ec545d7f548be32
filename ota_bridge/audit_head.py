"""The head of the audit log, published: who keeps what the broker retained can tell that the end was cut off."""

import asyncio
from typing import Any

from ota_bridge.core.chain import Entry
from ota_bridge.core.views import iso
from ota_bridge.store.outcome import Store


class AuditHead:
    """What `state/audit` is to hold."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: Entry | None = None

    async def news(self) -> dict[str, Any] | None:
        """The summary, once for each head; None where there is nothing new."""
        last = await asyncio.to_thread(self._store.read, lambda unit: unit.audit.last())
        if last is None or last == self._told:
            return None
        self._told = last
        return {"n": last.n, "digest": last.digest.hex(), "at": iso(last.wall_ms / 1000)}

    def forget(self) -> None:
        """Tell it again: to a new broker, or because it was not told."""
        self._told = None
