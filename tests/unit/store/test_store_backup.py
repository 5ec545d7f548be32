"""A backup is one committed state with everything that it names, or it is not there."""

import errno
import os
import sqlite3
import stat
import threading
from shutil import _ntuple_diskusage as Usage

import pytest
from contract.artifact_samples import IMAGE, alter
from contract.backup_samples import NOW_S, OTHER, Data, back_up, names_in, put_back, rows
from contract.store_samples import commit, device, rollout

from ota_bridge.core.errors import Conflict, InvalidInput, NewerSchema, StoreDamaged, StoreError
from ota_bridge.core.values import DeviceId
from ota_bridge.store import archive, backup
from ota_bridge.store.schema import SCHEMA_VERSION


@pytest.fixture
def data(tmp_path):
    made = Data(tmp_path / "data")
    yield made
    made.stop()


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "backup.tar"


def unpacked(file, directory):
    directory.mkdir()

    def keep(name):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    return archive.read(file, lambda _count: None, keep)


def test_it_holds_the_database_and_each_artifact_and_says_so(data, target, tmp_path):
    data.add_devices("a", "b")
    first, second = data.add_release("1.1.0"), data.add_release("1.2.0", OTHER)
    made = data.back_up(target)
    index = unpacked(target, tmp_path / "x")
    names = [name for manifest in (first, second) for name in backup.artifact_names(manifest)]
    assert {archive.DATABASE_MEMBER, *names} == set(index.members)
    assert ["a", "b"] == names_in(tmp_path / "x" / archive.DATABASE_MEMBER)
    assert [IMAGE, OTHER] == [(tmp_path / "x" / name).read_bytes() for name in names[::2]]
    assert (2, 2, 4, ()) == (made.devices, made.releases, made.artifacts, made.missing)
    facts = (made.file, made.size_bytes, made.taken_s, made.schema)
    assert (target, target.stat().st_size, NOW_S, SCHEMA_VERSION) == facts
    assert rows(data.database, "SELECT CAST(last_commit_wall AS INTEGER) FROM store_facts") == [(made.as_of_s,)]


def test_the_file_is_its_owners_alone_and_nothing_lies_beside_it(data, target):
    data.back_up(target)
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    assert [target] == list(target.parent.iterdir())


def test_a_backup_has_its_name_only_once_it_is_whole_and_on_disk(data, target, disk):
    data.add_release("1.1.0")
    data.back_up(target)
    disk.assert_survives(target)


def test_two_releases_of_one_image_hold_it_once(data, target):
    data.add_release("1.1.0")
    data.add_release("1.2.0")
    assert 2 == data.back_up(target).artifacts


def test_a_stopped_daemons_database_is_read_with_what_its_log_holds(data, target):
    data.add_devices("a")
    assert data.database.with_name(data.database.name + "-wal").stat().st_size > 0
    back_up(data.root, target)
    assert 1 == back_up(data.root, target.with_name("2.tar")).devices


def test_under_load_it_is_one_committed_state_and_the_writer_goes_on(data, target, tmp_path):
    """Every work adds a pair of devices and rewrites all others: a torn copy would show a half or two states."""
    stop = threading.Event()
    rounds = []

    def load():
        while not stop.is_set():
            number = len(rounds)

            def work(unit, number=number):
                unit.devices.put(device(f"a{number % 400}", tags=(str(number),)))
                unit.devices.put(device(f"b{number % 400}", tags=(str(number),)))
                for one in unit.devices.page(limit=1000):
                    unit.devices.put(device(one.id.name, tags=(str(number),)))

            commit(data.store, work)
            rounds.append(number)

    writer = threading.Thread(target=load)
    writer.start()
    try:
        while len(rounds) < 5:
            pass
        before = len(rounds)
        for number in range(5):
            file = target.with_name(f"{number}.tar")
            data.back_up(file)
            unpacked(file, tmp_path / f"x{number}")
            copy = tmp_path / f"x{number}" / archive.DATABASE_MEMBER
            assert [("ok",)] == rows(copy, "PRAGMA integrity_check")
            assert 1 == len(rows(copy, "SELECT DISTINCT tags FROM devices"))
            halves = "SELECT substr(name, 2) FROM devices GROUP BY 1 HAVING count(*) <> 2"
            assert [] == rows(copy, halves)
        assert len(rounds) > before, "the writer stood still"
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("harm", ["missing", "altered", "cut"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_artifact_is_left_out_and_named_and_the_rest_is_there(data, target, tmp_path, harm, which):
    manifest = data.add_release("1.1.0")
    data.add_release("1.2.0", OTHER)
    path = data.root / backup.artifact_names(manifest)[which]
    if harm == "missing":
        path.unlink()
    elif harm == "altered":
        alter(path, 40)
    else:
        os.truncate(path, path.stat().st_size - 1)
    made = data.back_up(target)
    assert (("prod/1.1.0 firmware", "prod/1.1.0 firmware (chunk list)")[which],) == made.missing
    assert 3 == made.artifacts
    assert made.missing == unpacked(target, tmp_path / "x").missing


def test_what_is_there_is_never_replaced(data, target):
    target.write_text("precious")
    with pytest.raises(Conflict, match="exists already"):
        data.back_up(target)
    assert "precious" == target.read_text()


@pytest.mark.parametrize("name", ["nowhere/backup.tar", "file/backup.tar"])
def test_a_directory_that_is_none_is_refused(data, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="is not a directory"):
        data.back_up(tmp_path / name)


def test_a_directory_that_may_not_be_written_is_said_so(data, target, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(backup.tempfile, "mkdtemp", refuse)
    with pytest.raises(StoreError, match="backup.tar cannot be written: Permission denied"):
        data.back_up(target)


def test_no_database_is_said_so(tmp_path, target):
    with pytest.raises(StoreError, match="there is no database"):
        back_up(tmp_path, target)
    assert [] == list(target.parent.iterdir())


def test_a_database_of_something_else_or_of_a_newer_program_is_refused(data, target):
    data.stop()
    with sqlite3.connect(data.database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(NewerSchema):
        back_up(data.root, target)
    with sqlite3.connect(data.database) as connection:
        connection.execute("PRAGMA application_id = 1")
    connection.close()
    with pytest.raises(StoreError, match="not a database of the bridge"):
        back_up(data.root, target)
    assert [] == list(target.parent.iterdir())


def test_a_damaged_database_is_never_passed_off_as_a_backup(data, target):
    data.add_devices(*(f"device-{number:04}" for number in range(2000)))
    data.stop()
    size = data.database.stat().st_size
    with data.database.open("r+b") as file:  # one page could be of an index, which a copy makes anew
        file.seek(size // 3 // 4096 * 4096)
        file.write(b"\x55" * (size // 3))
    with pytest.raises(StoreDamaged):
        back_up(data.root, target)
    assert [] == list(target.parent.iterdir())


def test_given_up_at_any_moment_it_leaves_nothing(data, target, monkeypatch):
    monkeypatch.setattr("ota_bridge.store.connection._ASK_EVERY", 500)
    data.add_release("1.1.0")
    asked = []
    data.back_up(target, go_on=lambda: asked.append(None) or True)
    target.unlink()
    assert len(asked) > 5
    for last in range(len(asked)):
        left = iter([True] * last)
        with pytest.raises(StoreError, match="given up"):
            data.back_up(target, go_on=lambda left=left: next(left, False))
        assert [] == list(target.parent.iterdir())


def test_progress_only_grows_and_ends_at_the_total(data, target, monkeypatch):
    monkeypatch.setattr("ota_bridge.store.connection._ASK_EVERY", 500)
    tags = ("x" * 3000,)
    commit(data.store, lambda unit: [unit.devices.put(device(str(number), tags=tags)) for number in range(3000)])
    data.add_release("1.1.0")
    told = []
    data.back_up(target, told=lambda done, total: told.append((done, total)))
    done = [one for one, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    size = told[0][1]
    assert len({one for one in done if one < size}) > 2, "the copy of the database is told too"


def test_it_asks_for_room_before_it_takes_any(data, target, monkeypatch):
    monkeypatch.setattr(backup.shutil, "disk_usage", lambda _path: Usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(StoreError, match=r"has 1 MiB free, .* come to 17 MiB: name a file on another disk"):
        data.back_up(target)


class Refusing:
    """A disk that is full after so many bytes of the archive."""

    def __init__(self, file, left):
        self._file, self._left = file, left

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, data):
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


@pytest.mark.parametrize("left", [0, 512, 70_000, 130_000])
def test_a_disk_that_fills_up_on_the_way_is_an_error_and_leaves_nothing(data, target, monkeypatch, left):
    data.add_release("1.1.0")
    real = backup._new_file
    monkeypatch.setattr(backup, "_new_file", lambda path: Refusing(real(path), left))
    with pytest.raises(StoreError, match="backup.tar cannot be written: No space left on device"):
        data.back_up(target)
    assert [] == list(target.parent.iterdir())


def test_a_disk_that_keeps_something_else_is_found_out(data, target, monkeypatch):
    data.add_release("1.1.0")
    real = archive.read

    def read(path, gone, keep):
        alter(path, 5000)
        return real(path, gone, keep)

    monkeypatch.setattr(backup.archive, "read", read)
    with pytest.raises(StoreError):
        data.back_up(target)
    assert [] == list(target.parent.iterdir())


def test_a_backup_of_an_older_schema_is_made_as_it_is(data, target, tmp_path, monkeypatch):
    data.add_devices("a")
    data.stop()
    with sqlite3.connect(data.database) as connection:
        connection.execute("PRAGMA user_version = 0")
    connection.close()
    assert (0, 1) == ((made := back_up(data.root, target)).schema, made.devices)
    assert 0 == put_back(target, tmp_path / "new").schema


def test_what_came_first_is_still_first(data, target, tmp_path):
    data.add_release("1.1.0")
    for name, wall in (("r-00000c", 5.0), ("r-00000a", 9.0), ("r-00000b", 1.0)):
        commit(data.store, lambda unit, name=name, wall=wall: unit.rollouts.put(rollout(name, created_wall=wall)))
    data.back_up(target)
    put_back(target, tmp_path / "new")
    again = Data(tmp_path / "new")
    assert ["r-00000c", "r-00000a", "r-00000b"] == again.store.read(
        lambda unit: [one.id for one in unit.rollouts.all()]
    )
    again.stop()


def test_what_comes_back_is_what_was_there(data, target, tmp_path):
    data.add_devices("a", "b")
    manifest = data.add_release("1.1.0")
    data.back_up(target)
    put_back(target, tmp_path / "new")
    again = Data(tmp_path / "new")
    assert ["a", "b"] == again.devices()
    assert data.store.read(lambda unit: unit.releases.get("prod/1.1.0")) == again.store.read(
        lambda unit: unit.releases.get("prod/1.1.0")
    )
    assert again.blobs.has(manifest)
    artifact = again.blobs.open(manifest)
    artifact.fetch(0, len(IMAGE))
    assert IMAGE == bytes(artifact.view(0, len(IMAGE)))
    commit(again.store, lambda unit: unit.devices.put(device("c")))
    assert again.store.read(lambda unit: unit.devices.get(DeviceId("prod", "c"))) == device("c")
    again.stop()
