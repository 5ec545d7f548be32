from pathlib import Path

import pytest
from sqlite_utils import Migrations

from ota_bridge.core.errors import ConfigError
from ota_bridge.store.connection import CURRENT, Schema, open_writer
from ota_bridge.store.memory import MemoryStore
from ota_bridge.store.opening import open_store, sqlite_path
from ota_bridge.store.schema import MIGRATIONS
from ota_bridge.store.sqlite import SqliteStore


@pytest.mark.parametrize("prefix", ["sqlite://", "sqlite:", ""])
def test_a_sqlite_url_or_a_plain_path_opens_that_file(tmp_path, prefix):
    store = open_store(f"{prefix}{tmp_path}/bridge.db", lambda run: run())

    assert isinstance(store, SqliteStore)
    assert (tmp_path / "bridge.db").is_file()
    store.close()


def test_memory_opens_the_store_in_memory():
    assert isinstance(open_store("memory:", lambda run: run()), MemoryStore)


@pytest.mark.parametrize("url", ["postgres://host/db", "Redis:x"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(url):
    with pytest.raises(ConfigError, match="known are sqlite:, memory: and a plain path"):
        open_store(url, lambda run: run())


@pytest.mark.parametrize("url", ["sqlite://host/x.db", "sqlite:", "sqlite:///", "", "memory:x", "sqlite:///x?mode=ro"])
def test_a_url_that_names_no_store_is_refused(url):
    with pytest.raises(ConfigError):
        open_store(url, lambda run: run())


def test_a_sqlite_path_may_be_relative_and_escaped():
    assert sqlite_path("sqlite:state/bridge.db") == Path("state/bridge.db")
    assert sqlite_path("sqlite:///a%20b/c.db") == Path("/a b/c.db")
    assert sqlite_path("a%20b.db") == Path("a%20b.db")


def test_a_file_that_was_made_just_now_can_empty_its_log(tmp_path, caplog):
    open_store(f"{tmp_path}/bridge.db", lambda run: run()).close()
    assert [] == caplog.records


def test_devices_that_report_no_native_fields_get_the_dialect_of_the_public_shapes(tmp_path):
    path, known = tmp_path / "bridge.db", Migrations("ota_bridge")
    for one in MIGRATIONS._migrations[:9]:
        known(name=one.name)(one.fn)
    db = open_writer(path, Schema(known, 9))
    columns = db.execute("PRAGMA table_info(devices)").fetchall()
    for name, dialect, proto in (("old", "native", 0), ("native", "native", 1), ("new", "", 0)):
        row = {"product": "p", "name": name, "state": "active", "encoding": "json", "created_wall": 1.0}
        row |= {"dialect": dialect, "proto": proto}
        filled = [row.get(column, "[]" if kind == "TEXT" else None) for _, column, kind, *_ in columns]
        db.execute(f"INSERT INTO devices VALUES ({', '.join('?' * len(columns))})", filled)
    db.close()
    db = open_writer(path, CURRENT)
    found = dict(db.execute("SELECT name, dialect FROM devices").fetchall())
    db.close()
    assert {"old": "tencent", "native": "native", "new": ""} == found
