"""A backup: the database as one commit left it and the artifacts that it names, in one file (`archive`).

1. The database is copied through a connection that only reads, in one read transaction: the writer goes on meanwhile,
   and its log grows by what it writes until the copy is done. Artifacts are copied after it: one is there before the
   release that names it is committed, and never changes.
2. What was written is read back and checked before the file gets its name: the copy of the database by `quick_check`,
   everything by its digest. Until then it lies beside it under a name that begins with a dot.
3. An artifact that is not there, or is damaged, keeps the rest from nothing: it is left out and named in `missing`.
4. The file is its owner's alone (0600), on disk when it has its name, and never takes the place of another.
"""

import contextlib
import io
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from ota_bridge.core.errors import Conflict, InvalidInput, StoreDamaged, StoreError
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.merkle import HASH_BYTES, chunk_count, root_of_list
from ota_bridge.store import archive
from ota_bridge.store.blobs import BlobStore, sync_directory
from ota_bridge.store.catalog_rows import facts_from
from ota_bridge.store.connection import as_store_error, check_copy, copy_database, size_of

SPARE_BYTES: Final = 16 << 20
"""What has to stay free: the daemon may live on the same disk."""
_PREFIX: Final = ".ota-bridge-backup-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was made."""

    file: Path
    size_bytes: int
    taken_s: int
    as_of_s: int | None
    schema: int
    devices: int
    releases: int
    artifacts: int
    missing: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far it has come, in bytes; raises StoreError where it is not wanted any more."""

    told: Callable[[int, int], None] = lambda _done, _total: None
    """Called with the bytes that are done and those in all."""
    go_on: Callable[[], bool] = lambda: True
    total: int = 0
    done: int = 0

    def gone(self, count: int) -> None:
        """So many bytes more."""
        self.reached(self.done + count)
        if not self.go_on():
            raise StoreError("it was given up")

    def reached(self, done: int) -> None:
        """So many bytes in all."""
        self.done = min(done, self.total)
        self.told(self.done, self.total)


@dataclass(frozen=True, slots=True)
class _Artifact:
    """A file that the database names. `sha256` is known of images, the Merkle root of chunk lists."""

    name: str
    path: Path
    size_bytes: int
    sha256: str | None
    merkle_root: bytes
    what: str


def make_backup(database: Path, root: Path, target: Path, *, taken_s: int, progress: Progress) -> Backup:
    """Back up `database` and the artifacts under `root` into `target`.

    Raises InvalidInput or Conflict for a target that cannot be, StoreError where something cannot be read or written.
    Nothing is left behind then.
    """
    target = target.absolute()
    if target.exists():
        raise Conflict(f"{target} exists already: name another file, a backup replaces none")
    if not target.parent.is_dir():
        raise InvalidInput(f"{target.parent} is not a directory")
    progress.total = size_of(database)
    _check_room(target.parent, progress.total, what="a copy of the database")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=_PREFIX) as directory:
            copy = Path(directory) / "database"

            def go_on() -> bool:
                progress.reached(copy.stat().st_size)
                return progress.go_on()

            copy_database(database, copy, go_on=go_on)
            made = _pack(copy, root, Path(directory) / "archive", taken_s, progress)
            if target.exists():
                raise Conflict(f"{target} exists already: name another file, a backup replaces none")
            (Path(directory) / "archive").rename(target)
            sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error
    return Backup(
        file=target,
        size_bytes=target.stat().st_size,
        taken_s=taken_s,
        as_of_s=made.index.as_of_s,
        schema=made.index.schema,
        devices=made.devices,
        releases=made.releases,
        artifacts=len(made.index.members) - 1,
        missing=made.index.missing,
    )


@dataclass(frozen=True, slots=True)
class _Packed:
    index: archive.Index
    devices: int
    releases: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database that nobody writes holds and names."""

    devices: int
    releases: int
    as_of_s: int | None
    parts: tuple[tuple[str, ManifestFacts], ...]
    """The release and the manifest of each of its components."""


def contents_of(database: Path) -> Contents:
    """Look into a whole copy; raises StoreError, or StoreDamaged for releases that no bridge has written."""
    uri = f"file:{quote(str(database.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as db:
            counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("devices", "releases")]  # noqa: S608
            last = db.execute("SELECT last_commit_wall FROM store_facts").fetchone()[0]
            rows = db.execute("SELECT release, facts FROM release_parts ORDER BY release, position")
            parts = tuple((row[0], facts_from(row[1])) for row in rows)
    except sqlite3.Error as error:
        raise as_store_error(error, database) from error
    except (LookupError, TypeError, ValueError, InvalidInput) as error:
        raise StoreDamaged(f"the database {database} holds a release that cannot be read ({error})") from error
    return Contents(counts[0], counts[1], None if last is None else int(last), parts)


def artifact_names(manifest: ManifestFacts) -> tuple[str, str]:
    """The members of a backup that are the image and its chunk list."""
    root = BlobStore(Path(), writes=False)
    return str(root.blob_path(manifest.sha256)), str(root.chunk_list_path(manifest.merkle_root))


def _pack(copy: Path, root: Path, target: Path, taken_s: int, progress: Progress) -> _Packed:
    schema = check_copy(copy, go_on=progress.go_on)
    contents = contents_of(copy)
    artifacts = list(_artifacts(contents, root))
    size = copy.stat().st_size + sum(one.size_bytes for one in artifacts)
    _check_room(target.parent, size, what="the database and the artifacts")
    progress.total += 2 * size
    missing = []
    with _new_file(target) as file:
        writer = archive.ArchiveWriter(file, taken_s)
        with copy.open("rb") as source:
            writer.add(archive.DATABASE_MEMBER, source, copy.stat().st_size, progress.gone)
        copy.unlink()
        missing = [one.what for one in artifacts if not _add(writer, one, progress)]
        index = writer.finish(as_of_s=contents.as_of_s, schema=schema, missing=tuple(missing))
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # so that what is read back comes from the disk
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if archive.read(target, progress.gone, lambda _name: None) != index:
        raise StoreError(f"{target} does not hold what was written: the disk cannot be trusted")
    progress.done = progress.total
    progress.gone(0)
    return _Packed(index, contents.devices, contents.releases)


def _artifacts(contents: Contents, root: Path) -> Iterator[_Artifact]:
    seen: set[str] = set()
    for release, manifest in contents.parts:
        image, leaves = artifact_names(manifest)
        leaves_bytes = chunk_count(manifest.size_bytes, manifest.chunk_bytes) * HASH_BYTES
        what = f"{release} {manifest.component}"
        for one in (
            _Artifact(image, root / image, manifest.size_bytes, manifest.sha256.hex(), b"", what),
            _Artifact(leaves, root / leaves, leaves_bytes, None, manifest.merkle_root, f"{what} (chunk list)"),
        ):
            if one.name not in seen:
                seen.add(one.name)
                yield one


def _add(writer: archive.ArchiveWriter, artifact: _Artifact, progress: Progress) -> bool:
    """Copy one artifact; False if it is not there or not what its name says."""
    try:
        source = artifact.path.open("rb")
    except OSError:
        return False
    with source:
        if artifact.sha256 is not None:
            return writer.add(artifact.name, source, artifact.size_bytes, progress.gone, artifact.sha256)
        leaves = archive.given(source, artifact.size_bytes)
    if len(leaves) != artifact.size_bytes or root_of_list(leaves) != artifact.merkle_root:
        return False
    return writer.add(artifact.name, io.BytesIO(leaves), len(leaves), progress.gone)


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _check_room(directory: Path, wanted: int, *, what: str) -> None:
    free = shutil.disk_usage(directory).free
    if free < wanted + SPARE_BYTES:
        raise StoreError(
            f"{directory} has {free >> 20} MiB free, {what} and what has to stay free come to "
            f"{(wanted + SPARE_BYTES >> 20) + 1} MiB: name a file on another disk"
        )
