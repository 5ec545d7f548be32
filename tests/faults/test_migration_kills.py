"""A migration that fails or is killed at each of its statements: the file opens again, with the same data."""

import os
import signal
import sqlite3

import pytest
from contract.store_samples import commit, device
from sqlite_utils import Migrations

from ota_bridge.core.errors import StoreError
from ota_bridge.store import connection
from ota_bridge.store.connection import Schema, open_reader, open_writer
from ota_bridge.store.schema import MIGRATIONS, SCHEMA_VERSION
from ota_bridge.store.sqlite import SqliteStore

DEVICES = 50
UNFINISHED = 17
"""How a child says that it was killed in vain: the migration had fewer statements."""


def schema_up_to(version):
    """The schema as a program of then had it."""
    migrations = Migrations("ota_bridge")
    for known in MIGRATIONS._migrations[:version]:
        migrations(name=known.name)(known.fn)
    return Schema(migrations, version)


def changed_by(function):
    """Today's schema and one more migration."""
    migrations = Migrations("ota_bridge")
    for known in MIGRATIONS._migrations:
        migrations(name=known.name)(known.fn)
    migrations(name=f"{SCHEMA_VERSION + 1:04}_next")(function)
    return Schema(migrations, SCHEMA_VERSION + 1)


def rebuild(db):
    """What a migration can do at its worst: a table made anew, filled, put in the place of the old one, and an index."""
    db.execute("CREATE TABLE devices_new AS SELECT * FROM devices")
    db.execute("ALTER TABLE devices_new ADD COLUMN colour TEXT")
    db.execute("UPDATE devices_new SET colour = 'red'")
    db.execute("DELETE FROM devices_new WHERE name = 'none'")
    db.execute("CREATE TABLE colours (name TEXT) STRICT")
    db.execute("INSERT INTO colours SELECT DISTINCT colour FROM devices_new")
    db.execute("CREATE INDEX devices_new_by_colour ON devices_new (colour)")


FROM = [*range(SCHEMA_VERSION), "rebuild"]
"""Nothing at all, each schema that there was, and today's under a migration that changes much."""


def make(path, start):
    """A database as the program of then left it, and the schema that it is brought to."""
    if start == "rebuild":
        make(path, SCHEMA_VERSION)
        return changed_by(rebuild)
    if start:
        db = open_writer(path, schema_up_to(start))
        db.execute("BEGIN IMMEDIATE")
        columns = db.execute("PRAGMA table_info(devices)").fetchall()
        values = {"product": "prod", "state": "active", "encoding": "json", "created_wall": 1.0, "proto": 1}
        for number in range(DEVICES):
            row = {**values, "name": f"d{number}"}
            filled = [row.get(name, "[]" if kind == "TEXT" else None) for _, name, kind, *_ in columns]
            db.execute(f"INSERT INTO devices VALUES ({', '.join('?' * len(columns))})", filled)
        db.execute("COMMIT")
        db.close()
    return connection.CURRENT


def dump(path):
    """Everything in it, the time of the migrations left out; in a copy, indexes stand before triggers."""
    with_wal = sqlite3.connect(path)
    lines = sorted(line for line in with_wal.iterdump() if "_sqlite_migrations" not in line)
    version = with_wal.execute("PRAGMA user_version").fetchone()
    assert [("ok",)] == with_wal.execute("PRAGMA integrity_check").fetchall()
    with_wal.close()
    return version, lines


def statements_of(monkeypatch, path, schema, act=None):
    """Open the database; `act(n)` is called before its n-th statement. How many there were."""
    count = 0

    def before(_statement):
        nonlocal count
        count += 1
        if act is not None:
            act(count)

    open_watched(monkeypatch, path, schema, lambda made: made.set_trace_callback(before))
    return count


def open_watched(monkeypatch, path, schema, watch):
    """Open the database; `watch` is given each connection as it is made."""
    real = sqlite3.connect

    def connect(*args, **options):
        made = real(*args, **options)
        watch(made)
        return made

    monkeypatch.setattr(connection.sqlite3, "connect", connect)
    try:
        open_writer(path, schema).close()
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("start", FROM)
def test_killed_before_each_statement_it_opens_again_with_the_same_data(tmp_path, monkeypatch, start):
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / "bridge.db"
    schema = make(whole, start)
    total = statements_of(monkeypatch, whole, schema)
    expected = dump(whole)
    assert total > 15
    for kill_at in range(1, total + 1):
        here = tmp_path / f"k{kill_at}"
        here.mkdir()
        path = here / "bridge.db"
        make(path, start)
        child = os.fork()
        if child == 0:
            try:
                statements_of(
                    monkeypatch, path, schema, lambda n, at=kill_at: n == at and os.kill(os.getpid(), signal.SIGKILL)
                )
            finally:
                os._exit(UNFINISHED)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"statement {kill_at} of {total} was never reached"
        open_writer(path, schema).close()
        assert expected == dump(path), f"killed before statement {kill_at} of {total}"
        assert [] == sorted(one.name for one in here.iterdir() if one.name.endswith(".tmp"))


@pytest.mark.parametrize("start", FROM)
def test_refused_at_each_step_it_leaves_the_file_as_it_was_and_then_opens(tmp_path, monkeypatch, start):
    """SQLite asks an authorizer for each step of each statement; one is denied, as by a disk that fails."""
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / "bridge.db"
    schema = make(whole, start)
    asked = denied_at(monkeypatch, whole, schema, None)
    expected = dump(whole)
    refusals = 0
    for deny_at in range(1, asked + 1, max(1, asked // 40)):
        here = tmp_path / f"k{deny_at}"
        here.mkdir()
        path = here / "bridge.db"
        make(path, start)
        before = dump(path) if start else None
        try:
            denied_at(monkeypatch, path, schema, deny_at)
        except StoreError:
            refusals += 1
            if before is not None:
                assert dump(path) in (before, expected), f"half of it, denied at {deny_at} of {asked}"
        open_writer(path, schema).close()
        assert expected == dump(path), f"denied at {deny_at} of {asked}"
    assert refusals > 10


def denied_at(monkeypatch, path, schema, deny_at):
    """Open the database; the n-th thing that SQLite asks for is denied. How much it asked for."""
    count = 0

    def allow(*_asked):
        nonlocal count
        count += 1
        return sqlite3.SQLITE_DENY if count == deny_at else sqlite3.SQLITE_OK

    open_watched(monkeypatch, path, schema, lambda made: made.set_authorizer(allow))
    return count


def test_the_copy_from_before_the_migration_is_whole_or_not_there(tmp_path, monkeypatch):
    """A kill while the copy is made leaves a part of it under another name, which the next start clears away."""
    path = tmp_path / "bridge.db"
    make(path, SCHEMA_VERSION)
    schema = changed_by(rebuild)
    before = dump(path)
    seen = []
    total = statements_of(monkeypatch, path.with_name("other.db"), schema)
    for kill_at in range(1, total + 20):
        child = os.fork()
        if child == 0:
            try:
                statements_of(
                    monkeypatch, path, schema, lambda n, at=kill_at: n == at and os.kill(os.getpid(), signal.SIGKILL)
                )
            finally:
                os._exit(UNFINISHED)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        copy = path.with_name(f"bridge.db.v{SCHEMA_VERSION}.bak")
        if copy.exists():
            seen.append(kill_at)
            assert before == dump(copy)
    assert seen, "no copy was ever made"


def test_a_store_goes_on_where_a_killed_migration_left_it(tmp_path, monkeypatch):
    path = tmp_path / "bridge.db"
    make(path, 1)
    child = os.fork()
    if child == 0:
        try:
            statements_of(
                monkeypatch, path, connection.CURRENT, lambda n: n == 20 and os.kill(os.getpid(), signal.SIGKILL)
            )
        finally:
            os._exit(UNFINISHED)
    os.waitpid(child, 0)
    store = SqliteStore.open(path, deliver=lambda run: run())
    commit(store, lambda unit: unit.devices.put(device("after")))
    assert DEVICES + 1 == store.read(lambda unit: unit.devices.count())
    store.close()
    reader = open_reader(path)
    assert (SCHEMA_VERSION,) == reader.execute("PRAGMA user_version").fetchone()
    reader.close()
