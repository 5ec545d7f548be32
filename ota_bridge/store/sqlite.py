"""The SQLite store: one thread owns the only writing connection and commits what is queued in groups.

1. The thread takes what is queued (at most `group_max` works, and no more once the group has run for `group_s`), begins
   IMMEDIATE, runs each work in a SAVEPOINT of its own, commits once, and only then hands all outcomes over in ONE call
   of `deliver`.
2. If the group cannot begin or commit (disk full, I/O error), nothing of it was committed: every work of it
   gets Failed(StoreError), and the next group tries again.
3. While nothing is queued the write-ahead log is emptied into the file.
4. A power cut in the middle of a commit may keep or lose the whole group, whose outcomes were not told: the
   devices repeat their reports.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlite_utils import Database

from ota_bridge.core.errors import OtaBridgeError, StoreError
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.store.connection import BUSY_TIMEOUT_MS, as_store_error, open_writer
from ota_bridge.store.outcome import Committed, Deliver, Failed, Outcome, Release, release
from ota_bridge.store.reading import ReadConnections
from ota_bridge.store.tables import Tables

T = TypeVar("T")

_CLOSED: Final = "the store is closed"

_Item = tuple[Callable[[UnitOfWork], Any], Callable[[Outcome[Any]], None]]

_log = logging.getLogger(__name__)


class _GroupLost(Exception):
    """The transaction of the group is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one group takes and how much may wait for it."""

    group_max: int = 200
    group_s: float = 0.05
    """A group that has run for this long commits: slow works must not keep the quick ones waiting."""
    queue_max: int = 20_000
    idle_s: float = 2.0
    """The log is emptied once nothing was queued for this long."""


class SqliteStore:
    """All aggregates in one SQLite file. Safe to use from any thread; `submit` never blocks on the disk."""

    def __init__(self, db: Database, path: Path, deliver: Deliver, limits: Limits) -> None:
        self._db = db
        self._path = path
        self._deliver = deliver
        self._limits = limits
        self._execute = db.conn.execute
        self._unit = Tables.over(db)
        self._readers = ReadConnections(path)
        self._queue: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._log_is_empty = False
        self._writer = threading.Thread(target=self._run, name="store-writer", daemon=True)

    @classmethod
    def open(cls, path: Path, *, deliver: Deliver, group_max: int = 200, queue_max: int = 20_000) -> "SqliteStore":
        """Open, check and migrate the file at `path` and start the writer; raises StoreError and its kinds."""
        return cls.open_with(path, deliver, Limits(group_max=group_max, queue_max=queue_max))

    @classmethod
    def open_with(cls, path: Path, deliver: Deliver, limits: Limits) -> "SqliteStore":
        """`open` with every limit."""
        store = cls(open_writer(path), path, deliver, limits)
        store._writer.start()
        return store

    def submit(self, work: Callable[[UnitOfWork], T], on_done: Callable[[Outcome[T]], None]) -> None:
        """Queue `work`; raises StoreError, and queues nothing, when the queue is full or the store is closed."""
        with self._lock:  # the bare lock: a condition is entered through Python
            if self._closing:
                raise StoreError(_CLOSED)
            if len(self._queue) >= self._limits.queue_max:
                raise StoreError(
                    f"the store is {self._limits.queue_max} units of work behind and takes no more for now"
                )
            self._queue.append((work, on_done))
            if len(self._queue) == 1:
                self._wake.notify()

    def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` over the last committed state on a connection that only reads, on the calling thread."""
        return self._readers.read(work)

    def last_commit_wall(self) -> float | None:
        """When something was last committed; None if nothing ever was."""
        return self._readers.last_commit_wall()

    def close(self) -> None:
        """Commit what is queued, deliver the outcomes, empty the log into the file, close. May be called twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._writer:
            self._writer.join()
        self._readers.close()

    # --- the writer thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            outcomes = self._group()
            try:
                self._deliver(partial(release, outcomes))
            except Exception:  # noqa: BLE001 - the writer must outlive whoever it tells
                _log.exception("the outcomes of %d units of work could not be delivered", len(outcomes))
        self._empty_log()
        self._db.close()

    def _wait(self) -> bool:
        """True as soon as something is queued; False when it is time to end."""
        while True:
            with self._wake:
                if self._queue:
                    return True
                if self._closing:
                    return False
                idle = not self._wake.wait(None if self._log_is_empty else self._limits.idle_s)
            if idle and not self._queue:
                self._empty_log()

    def _group(self) -> list[Release]:
        receivers: list[Callable[[Outcome[Any]], None]] = []
        outcomes: list[Outcome[Any]] = []
        changes = self._db.conn.total_changes
        try:
            self._begin()
            end = time.monotonic() + self._limits.group_s
            while True:
                work, on_done = self._queue.popleft()
                receivers.append(on_done)
                outcomes.append(self._one(work))
                if not self._queue or len(outcomes) >= self._limits.group_max or time.monotonic() >= end:
                    break
            if self._db.conn.total_changes != changes:
                self._db.execute("UPDATE store_facts SET last_commit_wall = ? WHERE id = 1", (time.time(),))
            self._db.execute("COMMIT")
        except (sqlite3.Error, _GroupLost) as error:
            return self._lost(receivers, outcomes, error)
        self._log_is_empty = False
        return list(zip(receivers, outcomes, strict=True))

    def _begin(self) -> None:
        if self._db.conn.in_transaction:  # a rollback failed earlier
            self._unit.forget()
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN IMMEDIATE")

    def _one(self, work: Callable[[UnitOfWork], Any]) -> Outcome[Any]:
        """Run one work in its savepoint; raises if that did more than end this work."""
        self._execute("SAVEPOINT work")
        try:
            value = work(self._unit)
            self._unit.flush()
        except Exception as error:
            if not self._db.conn.in_transaction:  # some errors, such as a full disk, end the whole transaction
                raise _GroupLost(str(error)) from error
            self._unit.forget()
            self._db.execute("ROLLBACK TO work")
            self._db.execute("RELEASE work")
            if isinstance(error, sqlite3.Error):
                return Failed(as_store_error(error, self._path))
            if not isinstance(error, OtaBridgeError):
                _log.exception("a unit of work failed")
            return Failed(error)
        self._execute("RELEASE work")
        return Committed(value)

    def _lost(
        self,
        receivers: list[Callable[[Outcome[Any]], None]],
        outcomes: list[Outcome[Any]],
        error: Exception,
    ) -> list[Release]:
        """Nothing of the group was committed: roll back and say so to each of it."""
        cause = error.__cause__ if isinstance(error, _GroupLost) else error
        told = as_store_error(cause, self._path) if isinstance(cause, sqlite3.Error) else StoreError(str(error))
        self._unit.forget()
        try:
            self._db.rollback()
        except sqlite3.Error:
            _log.exception("database %s: rollback failed", self._path)
        if not receivers:  # it could not even begin
            count = min(len(self._queue), self._limits.group_max)
            receivers = [self._queue.popleft()[1] for _ in range(count)]
        _log.error("%d units of work were not committed: %s", len(receivers), told)
        own = [outcome if isinstance(outcome, Failed) else Failed(told) for outcome in outcomes]
        own += [Failed(told)] * (len(receivers) - len(own))
        return list(zip(receivers, own, strict=True))

    def _empty_log(self) -> None:
        """Checkpoint without waiting for readers; what a reader still needs stays for the next time."""
        try:
            self._db.execute("PRAGMA busy_timeout = 0")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        except sqlite3.Error as error:
            _log.warning("database %s: checkpoint: %s", self._path, error)
        self._log_is_empty = True


class SqliteReader:
    """The same file for reading only, such as by a command beside a running or a stopped daemon."""

    def __init__(self, path: Path) -> None:
        self._readers = ReadConnections(path)

    def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` over the last committed state."""
        return self._readers.read(work)

    def last_commit_wall(self) -> float | None:
        """When something was last committed, in wall seconds; None if nothing ever was."""
        return self._readers.last_commit_wall()

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._readers.close()


def open_readonly(path: Path) -> SqliteReader:
    """Open the database at `path` for reading; raises StoreError or one of its kinds where that cannot be."""
    reader = SqliteReader(path)
    try:
        reader.last_commit_wall()
    except BaseException:
        reader.close()
        raise
    return reader
