"""A restore puts everything in place or changes nothing, keeps what was there, and can be cut off anywhere."""

import errno
import os
import shutil
import signal
import sqlite3
import stat
import sys

import pytest
from contract.artifact_samples import IMAGE, alter
from contract.backup_samples import NAME, OTHER, Data, names_in, put_back

from ota_bridge.core.errors import InvalidInput, NewerSchema, NotFound, StoreDamaged, StoreError
from ota_bridge.store import archive, restore
from ota_bridge.store.connection import open_reader, open_writer, restoring_mark
from ota_bridge.store.lock import DataDirectoryLock


@pytest.fixture
def file(tmp_path):
    """A backup of devices `old1` and `old2` and release 1.1.0."""
    data = Data(tmp_path / "source")
    data.add_devices("old1", "old2")
    data.add_release("1.1.0")
    data.back_up(tmp_path / "backup.tar")
    data.stop()
    return tmp_path / "backup.tar"


@pytest.fixture
def later(tmp_path, file):
    """The directory that the backup is of, a day later: another device, another release; stopped."""
    data = Data(tmp_path / "source")
    data.add_devices("new")
    data.add_release("1.2.0", OTHER)
    data.stop()
    return data.root


def everything(root):
    """Each file's content by name, without the lock."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "daemon.pid"
    }


def change(path, sql):
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def repacked(file, edit):
    """The backup with its database changed and its index right."""
    directory = file.parent / "repacked"
    directory.mkdir()

    def keep(name):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    index = archive.read(file, lambda _count: None, keep)
    edit(directory)
    target = file.with_name("edited.tar")
    with target.open("wb") as out:
        writer = archive.ArchiveWriter(out, index.taken_s)
        for path in sorted(directory.rglob("*"), key=lambda one: one.name != NAME):
            if path.is_file():
                with path.open("rb") as source:
                    name = str(path.relative_to(directory))
                    assert writer.add(name, source, path.stat().st_size, lambda _count: None)
        writer.finish(as_of_s=None, schema=index.schema, missing=())
    return target


# --- what it does -----------------------------------------------------------------------------------------------------


def test_the_database_is_that_of_the_backup_and_the_older_one_is_aside(file, later):
    before = names_in(later / NAME)
    done = put_back(file, later)
    assert ["old1", "old2"] == names_in(later / NAME)
    assert later / "before-restore-20231114T221320Z" == done.aside
    assert before == names_in(done.aside / NAME) == ["new", "old1", "old2"]
    assert (2, 1, 2, ()) == (done.devices, done.releases, done.artifacts, done.missing)


def test_no_artifact_is_taken_away_and_a_damaged_one_is_healed(file, later):
    damaged = next(path for path in later.glob("blobs/*/*") if path.read_bytes() == IMAGE)
    alter(damaged, 100)
    put_back(file, later)
    assert sorted([IMAGE, OTHER]) == sorted(path.read_bytes() for path in later.glob("blobs/*/*"))
    assert {0o444} == {stat.S_IMODE(path.stat().st_mode) for path in later.glob("*/??/*")}


def test_an_artifact_is_on_disk_before_it_has_its_name_and_then_the_name(file, later, disk):
    put_back(file, later)
    restored = [path for path in later.glob("*/??/*") if ("named", path) in disk.steps]
    assert 2 == len(restored)
    for path in restored:
        disk.assert_survives(path)


def test_the_mark_is_on_disk_before_the_older_database_goes_and_the_newer_one_before_the_mark_goes(file, later, disk):
    mark = restoring_mark(later / NAME)
    aside = put_back(file, later).aside
    taken = [("made", mark), ("named", aside / NAME), ("named", later / NAME), ("gone", mark)]
    begun, old, new, ended = (disk.steps.index(step) for step in taken)
    for before, after in [(begun, old), (old, new), (new, ended), (ended, None)]:
        assert ("synced", later.stat().st_ino) in disk.steps[before:after], disk.steps
    assert ("synced", aside.stat().st_ino) in disk.steps[old:new]
    disk.assert_survives(later / NAME)


def test_a_new_directory_is_filled(file, tmp_path):
    root = tmp_path / "a" / "data"
    done = put_back(file, root)
    assert None is done.aside
    assert ["old1", "old2"] == names_in(root / NAME)
    assert [IMAGE] == [path.read_bytes() for path in root.glob("blobs/*/*")]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "blobs", root / "chunks", root / NAME)]
    assert [0o700, 0o700, 0o700, 0o600] == modes


def test_a_second_restore_in_the_same_second_overwrites_nothing(file, later):
    first, second = put_back(file, later).aside, put_back(file, later).aside
    assert ["new", "old1", "old2"] == names_in(first / NAME)
    assert ["old1", "old2"] == names_in(second / NAME)
    assert first.name + "-2" == second.name


def test_the_older_log_never_meets_the_newer_database(file, tmp_path):
    """A daemon that was killed leaves what it last committed in its log: it goes aside with the database it belongs to."""
    running = Data(tmp_path / "source")
    running.add_devices("in-the-log")
    killed = tmp_path / "killed"
    shutil.copytree(running.root, killed)
    running.stop()
    assert (killed / f"{NAME}-wal").stat().st_size > 0
    done = put_back(file, killed)
    assert not (killed / f"{NAME}-wal").exists()
    assert ["old1", "old2"] == names_in(killed / NAME)
    assert ["in-the-log", "old1", "old2"] == names_in(done.aside / NAME)


def test_what_was_put_aside_can_be_restored_with_its_log(file, tmp_path):
    running = Data(tmp_path / "source")
    running.add_devices("in-the-log")
    killed = tmp_path / "killed"
    shutil.copytree(running.root, killed)
    running.stop()
    done = put_back(file, killed)
    again = put_back(done.aside / NAME, killed)
    assert ["in-the-log", "old1", "old2"] == names_in(killed / NAME)
    assert ["old1", "old2"] == names_in(again.aside / NAME)


def test_a_damaged_database_is_replaced_and_kept_as_it_was(file, later):
    (later / NAME).write_bytes(b"garbage")
    done = put_back(file, later)
    assert b"garbage" == (done.aside / NAME).read_bytes()
    assert ["old1", "old2"] == names_in(later / NAME)


def test_a_plain_copy_says_which_files_it_lacks(file, later, tmp_path):
    shutil.copy(later / NAME, tmp_path / "copy.sqlite")
    done = put_back(tmp_path / "copy.sqlite", tmp_path / "elsewhere")
    assert ("prod/1.1.0 firmware", "prod/1.2.0 firmware") == done.missing
    assert 0 == done.artifacts


def test_a_backup_that_said_what_it_lacks_is_restored_without(tmp_path):
    data = Data(tmp_path / "source")
    manifest = data.add_release("1.1.0")
    data.add_release("1.2.0", OTHER)
    data.blobs.blob_path(manifest.sha256).unlink()
    data.back_up(tmp_path / "backup.tar")
    data.stop()
    assert ("prod/1.1.0 firmware",) == put_back(tmp_path / "backup.tar", tmp_path / "new").missing
    assert ("prod/1.1.0 firmware",) == put_back(tmp_path / "backup.tar", data.root).missing


def test_progress_ends_at_the_size_of_the_file(file, later):
    told = []
    put_back(file, later, told=lambda done, total: told.append((done, total)))
    assert {file.stat().st_size} == {total for _, total in told}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_root_restores_for_the_owner_of_the_directory(file, later, monkeypatch):
    owners = {}
    monkeypatch.setattr(restore.os, "geteuid", lambda: 0)
    monkeypatch.setattr(restore.os, "chown", lambda path, uid, gid: owners.setdefault(str(path), (uid, gid)))
    monkeypatch.setattr(restore, "_owner", lambda _directory: (1234, 5678))
    put_back(file, later)
    assert {(1234, 5678)} == set(owners.values())
    assert any(path.endswith(NAME) for path in owners)
    assert any("/blobs/" in path for path in owners)
    assert any("before-restore" in path for path in owners)


# --- what it refuses --------------------------------------------------------------------------------------------------


def refused(file, root, error, match):
    before = everything(root)
    with pytest.raises(error, match=match):
        put_back(file, root)
    assert before == everything(root)
    assert not (root / "restoring").exists()


def test_beside_a_daemon_it_is_refused(file, later):
    with DataDirectoryLock(later):
        refused(
            file, later, StoreError, rf"in use by another daemon \(process {os.getpid()}\); a restore needs it stopped"
        )


def test_a_file_that_is_not_there_or_something_else_is_refused(file, later, tmp_path):
    refused(tmp_path / "none.tar", later, NotFound, "there is no backup")
    refused(tmp_path, later, NotFound, "there is no backup")
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text", later, InvalidInput, "text is not a backup of the bridge")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", later, InvalidInput, "empty is not a backup of the bridge")


def test_a_database_of_something_else_is_refused(file, later, tmp_path):
    change(tmp_path / "notes.db", "CREATE TABLE notes (text)")
    refused(tmp_path / "notes.db", later, StoreError, "is not a database of the bridge")


@pytest.mark.parametrize("edit", ["PRAGMA user_version = 99"])
def test_a_newer_schema_is_refused(file, later, tmp_path, edit):
    newer = repacked(file, lambda directory: change(directory / NAME, edit))
    refused(newer, later, NewerSchema, "edited.tar has schema 99, this program knows")
    shutil.copy(later / NAME, tmp_path / "copy.sqlite")
    change(tmp_path / "copy.sqlite", edit)
    refused(tmp_path / "copy.sqlite", later, NewerSchema, "has schema 99")


def test_a_damaged_backup_is_refused(file, later):
    alter(file, 5000)
    refused(file, later, StoreDamaged, "is damaged .* use another")


def test_a_backup_cut_short_is_refused(file, later):
    os.truncate(file, file.stat().st_size // 2)
    refused(file, later, StoreDamaged, "cut off")


def test_a_damaged_database_in_a_whole_archive_is_refused(file, later):
    def harm(directory):
        path = directory / NAME
        with path.open("r+b") as opened:
            opened.seek(path.stat().st_size // 2)
            opened.write(b"\x55" * 20_000)

    refused(repacked(file, harm), later, StoreDamaged, "damaged")


def test_an_archive_without_an_artifact_that_its_database_names_is_refused(file, later):
    def lose(directory):
        next(directory.glob("blobs/*/*")).unlink()

    refused(repacked(file, lose), later, StoreDamaged, "1 artifacts are not in it")


def test_an_archive_without_a_database_is_refused(file, later):
    with file.open("wb") as out:
        archive.ArchiveWriter(out, 0).finish(as_of_s=None, schema=1, missing=())
    refused(file, later, StoreDamaged, "it holds no database")


def test_releases_that_no_bridge_has_written_are_damage(file, later):
    edit = "UPDATE release_parts SET facts = '{}'"
    refused(repacked(file, lambda directory: change(directory / NAME, edit)), later, StoreDamaged, "cannot be read")


def test_too_little_room_is_said_before_anything_is_written(file, later, monkeypatch):
    usage = shutil.disk_usage(later)._replace(free=1000)
    monkeypatch.setattr(restore.shutil, "disk_usage", lambda _path: usage)
    refused(file, later, StoreError, "has 0 MiB free, the backup has 1 MiB")


def test_a_disk_that_fills_up_on_the_way_changes_nothing(file, later, monkeypatch):
    real = os.write

    def full(descriptor, data):
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(archive.os, "write", full)
    refused(file, later, StoreError, "cannot be restored to .*: No space left on device")
    monkeypatch.undo()
    put_back(file, later)
    assert not (later / "restoring").exists()


# --- what cuts it off -------------------------------------------------------------------------------------------------

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.chmod", "os.rmdir", "os.truncate"}


def run_and_die(work, kill_at):
    """Do `work` in a child that is killed just before its n-th change of the directory; how it ended, and its count."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event, arguments):
            nonlocal count
            is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_TRUNC)
            if event in CHANGES or is_open:
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
            os.write(writing, b"%d" % count)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), int(told or b"0")


def test_killed_before_each_of_its_changes_it_is_old_or_new_or_says_so_and_another_restore_ends_it(
    file, later, tmp_path
):
    states = {"old": 0, "new": 0, "half": 0}
    whole = tmp_path / "whole"
    shutil.copytree(later, whole)
    died, steps = run_and_die(lambda: put_back(file, whole), 0)
    assert 0 == died
    assert steps > 15
    for kill_at in range(1, steps + 1):
        here = tmp_path / f"kill-{kill_at}"
        shutil.copytree(later, here)
        died, _ = run_and_die(lambda here=here, kill_at=kill_at: put_back(file, here), kill_at)
        assert signal.SIGKILL == died, f"step {kill_at} of {steps}"
        if restoring_mark(here / NAME).exists():
            states["half"] += 1
            for opened in (open_writer, open_reader):
                with pytest.raises(StoreError, match="a restore of .* was cut off: run `ota-bridge restore` once more"):
                    opened(here / NAME)
        else:
            names = names_in(here / NAME)
            assert names in (["new", "old1", "old2"], ["old1", "old2"])
            states["old" if "new" in names else "new"] += 1
            open_writer(here / NAME).close()
        put_back(file, here)
        assert ["old1", "old2"] == names_in(here / NAME), f"step {kill_at}"
        asides = [path for path in here.glob("before-restore-*") if (path / NAME).exists()]
        assert ["new", "old1", "old2"] in [names_in(path / NAME) for path in asides], f"step {kill_at}: the old is lost"
        open_writer(here / NAME).close()
        shutil.rmtree(here)
    assert all(states.values()), states
