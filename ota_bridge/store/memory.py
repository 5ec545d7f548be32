"""The store in memory: the same surface and rules as SQLite, for tests and trials. Nothing outlives the process.

`submit` runs the work at once, on the calling thread; a work or a receiver that submits another has it
run after itself. What a work changed is taken back if it raises.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ota_bridge.core.errors import OtaBridgeError, StoreError
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.store.memory_state import MemoryState
from ota_bridge.store.memory_tables import MemoryTables
from ota_bridge.store.outcome import Committed, Deliver, Failed, Outcome, release

T = TypeVar("T")

_CLOSED = "the store is closed"

_log = logging.getLogger(__name__)


class MemoryStore:
    """All aggregates in dictionaries. Safe to use from any thread."""

    def __init__(self, *, deliver: Deliver = lambda run: run()) -> None:
        self._deliver = deliver
        self._state = MemoryState()
        self._unit = MemoryTables.over(self._state)
        self._queue: deque[tuple[Callable[[UnitOfWork], Any], Callable[[Outcome[Any]], None]]] = deque()
        self._lock = threading.RLock()
        self._running = False
        self._closed = False

    def submit(self, work: Callable[[UnitOfWork], T], on_done: Callable[[Outcome[T]], None]) -> None:
        """Run `work` now and deliver its outcome; raises StoreError when the store is closed."""
        with self._lock:
            if self._closed:
                raise StoreError(_CLOSED)
            self._queue.append((work, on_done))
            if self._running:
                return
            self._running = True
            try:
                while self._queue:
                    queued, receiver = self._queue.popleft()
                    self._deliver(partial(release, [(receiver, self._run(queued))]))
            finally:
                self._running = False

    def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` over the committed state; writing in it raises StoreError."""
        with self._lock:
            if self._closed:
                raise StoreError(_CLOSED)
            journal, self._state.journal = self._state.journal, None
            try:
                return work(self._unit)
            finally:
                self._state.journal = journal

    def last_commit_wall(self) -> float | None:
        """Nothing that an earlier process committed is here."""
        return None

    def close(self) -> None:
        """Take no more work. May be called twice."""
        with self._lock:
            self._closed = True

    def _run(self, work: Callable[[UnitOfWork], Any]) -> Outcome[Any]:
        journal = self._state.journal = []
        try:
            return Committed(work(self._unit))
        except Exception as error:  # noqa: BLE001 - a work may raise anything; its outcome says so
            for undo in reversed(journal):
                undo()
            if not isinstance(error, OtaBridgeError):
                _log.exception("a unit of work failed")
            return Failed(error)
        finally:
            self._state.journal = None
