from pathlib import Path

import pytest

from ota_bridge.core.errors import ConfigError
from ota_bridge.store.memory import MemoryStore
from ota_bridge.store.opening import open_store, sqlite_path
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
