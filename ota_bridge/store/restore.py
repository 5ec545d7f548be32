"""A backup put in the place of what a stopped daemon left.

1. It runs under the lock of the data directory: never beside a daemon.
2. Everything is unpacked beside what is there and checked first: a backup that is damaged, foreign, of a newer schema
   or without an artifact that its database names changes nothing.
3. Artifacts come in under their digests, and none is taken away: whatever was there stays served if it is named.
4. The database, and with it its log, is moved into `before-restore-…`, never deleted. While it and its successor change
   places a mark lies beside them: cut off there, nothing opens the half of it, and another restore ends it.
5. A plain database (the copy from before a migration, or one that an earlier restore put aside) can be restored too.
"""

import os
import shutil
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import InvalidInput, NotFound, StoreDamaged, StoreError
from ota_bridge.store import archive
from ota_bridge.store.backup import Contents, Progress, artifact_names, contents_of
from ota_bridge.store.blobs import sync_directory
from ota_bridge.store.connection import check_copy, copy_database, restoring_mark
from ota_bridge.store.lock import DataDirectoryLock

_STAGING: Final = "restoring"
_ASIDE: Final = "before-restore-%Y%m%dT%H%M%SZ"
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_READ_ONLY: Final = 0o444
_OWNER_ONLY: Final = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was put in place. `aside` is where the older database lies; None where there was none."""

    data_dir: Path
    as_of_s: int | None
    schema: int
    devices: int
    releases: int
    artifacts: int
    missing: tuple[str, ...]
    aside: Path | None


def restore(file: Path, data_dir: Path, database_name: str, *, wall: float, progress: Progress) -> Restored:
    """Put the backup `file` in place; raises NotFound, InvalidInput or StoreError, and nothing has changed then."""
    try:
        if not file.is_file():
            raise NotFound(f"there is no backup {file}")
        is_archive = archive.is_archive(file)
        if not is_archive and not _is_database(file):
            raise InvalidInput(f"{file} is not a backup of the bridge")
        with _locked(data_dir):
            staging = _empty_staging(data_dir)
            try:
                return _restored(file, data_dir / database_name, staging, wall, progress, is_archive=is_archive)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"{file} cannot be restored to {data_dir}: {error.strerror or error}{place}") from error


def _restored(
    file: Path, database: Path, staging: Path, wall: float, progress: Progress, *, is_archive: bool
) -> Restored:
    data_dir, staged = database.parent, staging / archive.DATABASE_MEMBER
    progress.total = file.stat().st_size
    _check_room(data_dir, progress.total)
    missing = 0
    if is_archive:
        missing = _unpack(file, staging, progress)
    else:
        copy_database(file, staged, go_on=progress.go_on)
    schema = check_copy(staged, called=file, go_on=progress.go_on)
    contents = contents_of(staged)
    if is_archive:
        _check_complete(file, contents, staging, missing)
    _own([staging, *staging.rglob("*")], data_dir)
    artifacts = _take_artifacts(staging, data_dir)
    aside = _change_places(staged, database, wall)
    return Restored(
        data_dir=data_dir,
        as_of_s=contents.as_of_s,
        schema=schema,
        devices=contents.devices,
        releases=contents.releases,
        artifacts=artifacts,
        missing=tuple(_not_there(contents, data_dir)),
        aside=aside,
    )


def _is_database(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC


def _locked(data_dir: Path) -> DataDirectoryLock:
    lock = DataDirectoryLock(data_dir)
    try:
        lock.acquire()
    except StoreError as error:
        raise StoreError(f"{error}; a restore needs it stopped") from error
    return lock


def _empty_staging(data_dir: Path) -> Path:
    """A directory beside the data; what a restore that was cut off left in it goes."""
    staging = data_dir / _STAGING
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(mode=_OWNER_ONLY)
    return staging


def _check_room(data_dir: Path, wanted: int) -> None:
    free = shutil.disk_usage(data_dir).free
    if free < wanted:
        raise StoreError(f"{data_dir} has {free >> 20} MiB free, the backup has {(wanted >> 20) + 1} MiB")


def _unpack(file: Path, staging: Path, progress: Progress) -> int:
    """How many artifacts were missing when the backup was made."""

    def keep(name: str) -> Path:
        target = staging / name
        target.parent.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        return target

    index = archive.read(file, progress.gone, keep)
    if archive.DATABASE_MEMBER not in index.members:
        raise StoreDamaged(f"backup {file} is damaged (it holds no database): use another")
    return len(index.missing)


def _check_complete(file: Path, contents: Contents, staging: Path, missing: int) -> None:
    named = {name for _, manifest in contents.parts for name in artifact_names(manifest)}
    absent = [name for name in named if not (staging / name).is_file()]
    if len(absent) > missing:
        raise StoreDamaged(f"backup {file} is damaged ({len(absent)} artifacts are not in it): use another")


def _own(paths: Iterable[Path], data_dir: Path) -> None:
    """Root restores for the daemon's user."""
    owner = _owner(data_dir)
    if os.geteuid() == 0 and owner != (0, 0):
        for path in paths:
            os.chown(path, *owner)


def _owner(directory: Path) -> tuple[int, int]:
    state = directory.stat()
    return state.st_uid, state.st_gid


def _take_artifacts(staging: Path, data_dir: Path) -> int:
    """Give each artifact its place; one of the same name is replaced, which heals it."""
    count = 0
    for kind in ("chunks", "blobs"):
        for source in sorted((staging / kind).glob("*/*")):
            target = data_dir / kind / source.parent.name / source.name
            _make_directory(target.parent.parent, data_dir)
            _make_directory(target.parent, data_dir)
            source.chmod(_READ_ONLY)
            source.replace(target)
            sync_directory(target.parent)
            count += 1
    return count


def _make_directory(path: Path, data_dir: Path) -> None:
    if path.is_dir():
        return
    path.mkdir(mode=_OWNER_ONLY)
    _own([path], data_dir)
    sync_directory(path.parent)


def _change_places(staged: Path, database: Path, wall: float) -> Path | None:
    """Old database out, new one in; whatever cuts this off, it is one or the other or the mark."""
    directory, mark = database.parent, restoring_mark(database)
    mark.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    sync_directory(staged.parent)
    sync_directory(directory)
    olds = [path for suffix in (*_SIDE_FILES, "") if (path := database.with_name(database.name + suffix)).exists()]
    aside = _put_aside(olds, directory, wall) if olds else None
    staged.replace(database)
    sync_directory(directory)
    mark.unlink()
    sync_directory(directory)
    return aside


def _put_aside(files: list[Path], directory: Path, wall: float) -> Path:
    name = time.strftime(_ASIDE, time.gmtime(wall))
    aside, number = directory / name, 1
    while aside.exists():
        number += 1
        aside = directory / f"{name}-{number}"
    _make_directory(aside, directory)
    for path in files:
        path.rename(aside / path.name)
    sync_directory(aside)
    sync_directory(directory)
    return aside


def _not_there(contents: Contents, data_dir: Path) -> list[str]:
    return [
        f"{release} {manifest.component}"
        for release, manifest in contents.parts
        if not all((data_dir / name).is_file() for name in artifact_names(manifest))
    ]
