"""Reading beside the writer, or after it."""

import stat

import pytest
from contract.store_samples import commit, device, report

from ota_bridge.core.errors import StoreError
from ota_bridge.core.values import DeviceId
from ota_bridge.store.sqlite import SqliteStore, open_readonly

DEV1 = DeviceId("prod", "dev1")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "bridge.db"


@pytest.fixture
def store(path):
    opened = SqliteStore.open(path, deliver=lambda run: run())
    yield opened
    opened.close()


def test_the_time_of_the_last_commit_is_kept_and_a_group_that_changes_nothing_leaves_it(store, path):
    reader = open_readonly(path)
    assert reader.last_commit_wall() is None

    commit(store, lambda unit: unit.reports.add(report()))
    first = reader.last_commit_wall()
    commit(store, lambda unit: unit.devices.count())

    assert first is not None
    assert reader.last_commit_wall() == first
    reader.close()


def test_a_stopped_daemons_data_can_be_read(store, path):
    commit(store, lambda unit: unit.devices.put(device()))
    store.close()

    reader = open_readonly(path)
    assert reader.read(lambda unit: unit.devices.get(DEV1)) == device()
    with pytest.raises(StoreError):
        reader.read(lambda unit: unit.devices.put(device("x")))
    reader.close()


def test_reading_where_there_is_no_database_says_so(tmp_path):
    with pytest.raises(StoreError, match="no database"):
        open_readonly(tmp_path / "none.db")


def test_all_files_are_the_owners_alone(store, path):
    commit(store, lambda unit: unit.devices.put(device()))

    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["bridge.db", "bridge.db-shm", "bridge.db-wal"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
