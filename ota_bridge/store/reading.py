"""Read-only connections: as many as are used at the same time, kept for the next reader."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from sqlite_utils import Database

from ota_bridge.core.errors import StoreError
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.store.connection import as_store_error, open_reader
from ota_bridge.store.tables import Tables

T = TypeVar("T")

_KEPT_MAX: Final = 2
"""Each has two descriptors and a cache of its own; to open another takes less than a millisecond."""


class ReadConnections:
    """Connections for reading, one per thread that reads right now. Safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[Database] = []
        self._lock = threading.Lock()
        self._closed = False

    def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in one read transaction: it sees one committed state from its first question on."""
        return self._run(lambda db: work(Tables.over(db)))

    def last_commit_wall(self) -> float | None:
        """When something was last committed; None if nothing ever was."""

        def ask(db: Database) -> float | None:
            found: float | None = db.execute("SELECT last_commit_wall FROM store_facts").fetchone()[0]
            return found

        return self._run(ask)

    def close(self) -> None:
        """Close the connections; those in use when their reader is done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()

    def _run(self, work: Callable[[Database], T]) -> T:
        db = self._take()
        try:
            db.execute("BEGIN")
            try:
                return work(db)
            finally:
                db.rollback()
        except sqlite3.Error as error:
            raise as_store_error(error, self._path) from error
        finally:
            self._give_back(db)

    def _take(self) -> Database:
        with self._lock:
            if self._closed:
                raise StoreError("the store is closed")
            if self._idle:
                return self._idle.pop()
        return open_reader(self._path)

    def _give_back(self, db: Database) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _KEPT_MAX:
                self._idle.append(db)
                return
        db.close()
