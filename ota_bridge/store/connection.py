"""SQLite connections: how a database file is opened, checked, brought up to date and tuned.

1. Exactly one connection of a machine writes (a WAL bug of SQLite before 3.51.3 damages files that two connections
   write or checkpoint at once); all others are `mode=ro`, `query_only`, and never checkpoint.
2. Nothing is written before the file has proved to be ours, whole, and not newer than this program.
3. Migrations run in one transaction: all or none. A copy of the older file is made first, beside it.
4. `isolation_level=None`: neither the driver nor sqlite-utils opens a transaction on its own. Whoever writes begins
   with BEGIN IMMEDIATE through `Database.execute`; a deferred BEGIN that reads and then writes can fail at once.
5. While a file named like the database with `.restoring` behind it lies beside it, a restore was cut off half-way:
   nothing opens the database, whatever is there, until it was restored.
"""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlite_utils import Database, Migrations

from ota_bridge.core.errors import NewerSchema, StoreDamaged, StoreError
from ota_bridge.store.blobs import sync_directory
from ota_bridge.store.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION

BUSY_TIMEOUT_MS: Final = 5000
_WAL_AUTOCHECKPOINT_PAGES: Final = 1000
_WRITER_CACHE_KIB: Final = 16_384
"""A large fleet reports in no order: with the 2 MiB of SQLite most rows are read from the file anew."""
_OWNER_ONLY: Final = 0o600
_ASK_EVERY: Final = 20_000
"""Instructions of SQLite between two looks at whether a copy is still wanted: a few milliseconds."""
_FULL: Final = "the disk is full: nothing was written to {}"
_CANNOT_SHARE: Final = frozenset({"SQLITE_CANTOPEN", "SQLITE_READONLY_DIRECTORY", "SQLITE_READONLY_CANTINIT"})
"""How SQLite says that it cannot make the shared memory that a write-ahead log is read with."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The migrations and the `user_version` that they lead to."""

    migrations: Migrations
    version: int


CURRENT: Final = Schema(MIGRATIONS, SCHEMA_VERSION)


def open_writer(path: Path, schema: Schema = CURRENT) -> Database:
    """The writing connection, on a file that is made or migrated first where needed.

    Raises NewerSchema, StoreDamaged, or StoreError for anything else that keeps the file from being used.
    """
    _refuse_half_restored(path)
    _prepare_file(path)
    db = _connect(path, mode="rw")
    try:
        try:
            _tune(db)
            if not _is_empty(db):
                version = _check(db, path, schema)
                if version < schema.version:
                    _back_up(db, path.with_name(f"{path.name}.v{version}.bak"))
            _migrate(db, path, schema)
            # After a column was dropped its connection could not empty the log any more (SQLite 3.40).
            db.close()
            db = _connect(path, mode="rw")
            _tune(db)
            _write_ahead(db)
        except sqlite3.Error as error:
            raise as_store_error(error, path) from error
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path, schema: Schema = CURRENT) -> Database:
    """A connection that only reads; a stopped daemon's file is read as it was last committed."""
    _refuse_half_restored(path)
    db = _connect_to_read(path)
    try:
        try:
            db.execute("PRAGMA query_only = ON")
            version = _check_owner(db, path, schema)
        except sqlite3.Error as error:
            raise as_store_error(error, path) from error
        if version < schema.version:
            raise StoreError(  # noqa: TRY301 - the connection must be closed
                f"the database {path} has schema {version} and this program reads {schema.version}: "
                "start the bridge once, it migrates the file"
            )
    except BaseException:
        db.close()
        raise
    return db


def copy_database(
    path: Path, target: Path, *, go_on: Callable[[], bool] = lambda: True, schema: Schema = CURRENT
) -> None:
    """Write a whole copy of what was last committed to `target`, which must not exist; the writer is not disturbed.

    An older schema is copied as it is. `go_on` is asked every few milliseconds; StoreError once it says no. The copy is
    on disk, but not yet its name.
    """
    db, watch = _connect_to_read(path), _Watch(go_on)
    try:
        _check_owner(db, path, schema)
        db.conn.set_progress_handler(watch, _ASK_EVERY)
        _copy(db, target)
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        is_full = _name_of(error).startswith("SQLITE_FULL")
        raise watch.error or (StoreError(_FULL.format(target)) if is_full else as_store_error(error, path)) from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise StoreError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        db.close()


@dataclass(slots=True)
class _Watch:
    """Asks whether something long is still wanted, and remembers that it was not."""

    go_on: Callable[[], bool]
    error: StoreError | None = None

    def __call__(self) -> bool:
        if not self.go_on():
            self.error = StoreError("it was given up")
        return self.error is not None


def size_of(path: Path) -> int:
    """How many bytes a copy of what was last committed has, at most."""
    db = _connect_to_read(path)
    try:
        return int(db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0])
    except sqlite3.Error as error:
        raise as_store_error(error, path) from error
    finally:
        db.close()


def check_copy(
    path: Path, *, called: Path | None = None, go_on: Callable[[], bool] = lambda: True, schema: Schema = CURRENT
) -> int:
    """The schema of a database that nobody else has open, if it is ours, whole and not newer; reads all of it.

    `called` is how errors name it.
    """
    db, watch = _connect(path, mode="ro&immutable=1"), _Watch(go_on)
    try:
        db.conn.set_progress_handler(watch, _ASK_EVERY)
        return _check(db, called or path, schema)
    except sqlite3.Error as error:
        raise watch.error or as_store_error(error, called or path) from error
    finally:
        db.close()


def restoring_mark(path: Path) -> Path:
    """The file that says that a restore of this database is under way."""
    return path.with_name(f"{path.name}.restoring")


def _refuse_half_restored(path: Path) -> None:
    if restoring_mark(path).exists():
        raise StoreError(
            f"a restore of {path} was cut off: run `ota-bridge restore` once more; what was there before lies in "
            f"{path.parent}/before-restore-…"
        )


def as_store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """What a fault of SQLite means to whoever runs the bridge."""
    name = _name_of(error)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged(f"the database {path} is damaged ({error}): restore a backup")
    if name.startswith("SQLITE_FULL"):
        return StoreError(f"{_FULL.format(path)}; it goes on when there is space")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"another process holds the database {path}: {error}")
    return StoreError(f"database {path}: {error} ({name})")


def _name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _prepare_file(path: Path) -> None:
    """Make the file with the rights it keeps; SQLite gives them to `-wal` and `-shm` too."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))
        except FileExistsError:
            path.chmod(_OWNER_ONLY)
    except OSError as error:
        raise StoreError(f"the database {path} cannot be made or opened: {error.strerror}") from error


def _connect(path: Path, *, mode: str) -> Database:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    try:
        # One thread at a time uses it, but not always the same one.
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
        )
    except sqlite3.Error as error:
        raise StoreError(f"the database {path} cannot be opened: {error}") from error
    return Database(connection, recursive_triggers=False, execute_plugins=False)


def _connect_to_read(path: Path) -> Database:
    """A connection that writes nothing; raises StoreError."""
    if not path.is_file():
        raise StoreError(f"there is no database {path}; has the bridge run with this data directory?")
    db = _connect(path, mode="ro")
    try:
        _tune(db)
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        db.close()
        if _has_log(path) or _name_of(error) not in _CANNOT_SHARE:
            raise as_store_error(error, path) from error
        # Without a log and on a disk that cannot be written, nobody changes it: it needs no shared memory beside it.
        db = _connect(path, mode="ro&immutable=1")
        _tune(db)
    return db


def _has_log(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _tune(db: Database) -> None:
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    db.execute("PRAGMA mmap_size = 0")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA trusted_schema = OFF")


def _write_ahead(db: Database) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_AUTOCHECKPOINT_PAGES}")
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")


def _is_empty(db: Database) -> bool:
    """True for a new file, or one whose first migration never ended."""
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    return pages == 0


def _check_owner(db: Database, path: Path, schema: Schema) -> int:
    """The file's `user_version`, if it is ours and not newer."""
    owner = db.execute("PRAGMA application_id").fetchone()[0]
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if owner != APPLICATION_ID:
        raise StoreError(f"{path} is not a database of the bridge (application id {owner:#010x})")
    if version > schema.version:
        raise NewerSchema(
            f"the database {path} has schema {version}, this program knows up to {schema.version}: "
            "upgrade the program or restore a backup of the older schema"
        )
    return version


def _check(db: Database, path: Path, schema: Schema) -> int:
    version = _check_owner(db, path, schema)
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreDamaged(f"the database {path} is damaged ({found}): restore a backup")
    return version


def _back_up(db: Database, target: Path) -> None:
    """A whole copy of the database under `target`, there only once it is complete and on disk."""
    unfinished = target.with_name(target.name + ".tmp")
    unfinished.unlink(missing_ok=True)
    _copy(db, unfinished)
    unfinished.replace(target)
    sync_directory(target.parent)


def _copy(db: Database, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))
    db.execute("VACUUM INTO ?", (str(target),))
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _migrate(db: Database, path: Path, schema: Schema) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        schema.migrations.apply(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {schema.version}")
        db.execute("COMMIT")
    except sqlite3.Error as error:
        db.rollback()
        raise StoreError(f"the database {path} could not be migrated and is unchanged: {error}") from error
    except BaseException:
        db.rollback()
        raise
