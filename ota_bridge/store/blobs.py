"""Artifacts on disk: files named by their content.

    ROOT/blobs/ab/<sha256 of the image, hex>     the image, 0444
    ROOT/chunks/ab/<Merkle root, hex>            its chunk list, 0444
    ROOT/unfinished/artifact-*                   what is being written; removed when the store is opened

1. A file appears under its name only complete, checked and on disk: written in `unfinished`, fsync, rename, fsync of
   the directory; the chunk list before the image. One that is there is replaced, which also heals a damaged one.
2. A file is never changed, truncated or removed in place, so what is being served stays what it was.
3. Only the daemon, which holds the data directory's lock, opens this store to write.
"""

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import InvalidInput, StoreError
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.core.values import MAX_ARTIFACT_BYTES, Sha256
from ota_bridge.store.artifact import ChunkList, Image, SegmentCache

_READ_ONLY: Final = 0o444
_OWNER_ONLY: Final = 0o700
_UNFINISHED: Final = "unfinished"
_PREFIX: Final = "artifact-"
IDLE_S: Final = 60.0
"""How long an artifact that nobody has open stays checked in memory: devices often come one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """What was stored."""

    sha256: Sha256
    size_bytes: int
    md5: str
    """Lower-case hex."""
    merkle_root: Sha256


@dataclass(slots=True)
class _Opened:
    artifact: Image | ChunkList
    count: int = 0
    idle_since_mono: float = 0.0


class BlobStore:
    """All artifacts under one directory. Safe to use from any thread; `open` and `open_chunk_list` touch no disk."""

    def __init__(
        self,
        root: Path,
        *,
        cache_bytes: int = 1 << 26,
        clock: Callable[[], float] = time.monotonic,
        writes: bool = True,
    ) -> None:
        """Make the directories and remove what an earlier process left unfinished; raises StoreError.

        `writes` False only reads what another process of the same daemon writes.
        """
        self._root = root
        self._clock = clock
        self._cache = SegmentCache(cache_bytes)
        self._lock = threading.RLock()
        self._opened: dict[tuple[str, bytes, bytes], _Opened] = {}
        if not writes:
            return
        try:
            root.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
            for name in ("blobs", "chunks", _UNFINISHED):
                (root / name).mkdir(mode=_OWNER_ONLY, exist_ok=True)
            for stale in (root / _UNFINISHED).glob(_PREFIX + "*"):
                stale.unlink()
        except OSError as error:
            raise StoreError(f"the artifact store {root} cannot be used: {error}") from error

    def begin(self, chunk_bytes: int) -> "BlobWriter":
        """Start to write one artifact whose tree has chunks of this size."""
        return BlobWriter(self._root, chunk_bytes)

    def has(self, manifest: ManifestFacts) -> bool:
        """True if both files are there."""
        return self.blob_path(manifest.sha256).is_file() and self.chunk_list_path(manifest.merkle_root).is_file()

    def open(self, manifest: ManifestFacts) -> Image:
        """The image; what is wrong with its files shows at the first view.

        The same object for all who have it open; each closes it once.
        """

        def made(on_close: Callable[[], None]) -> Image:
            path = self.blob_path(manifest.sha256)
            return Image(path, manifest, self.open_chunk_list(manifest), self._cache, on_close)

        found = self._open(("blob", manifest.sha256, manifest.merkle_root), made)
        assert isinstance(found, Image)
        return found

    def open_chunk_list(self, manifest: ManifestFacts) -> ChunkList:
        """The chunk list of the image."""

        def made(on_close: Callable[[], None]) -> ChunkList:
            return ChunkList(self.chunk_list_path(manifest.merkle_root), manifest, on_close)

        found = self._open(("chunks", b"", manifest.merkle_root), made)
        assert isinstance(found, ChunkList)
        return found

    def look(self) -> None:
        """Notice files that changed and let go of what nobody has had open for IDLE_S; in a thread, every second."""
        with self._lock:
            opened = list(self._opened.items())
        for key, one in opened:
            one.artifact.look()
            with self._lock:
                if one.count == 0 and self._clock() - one.idle_since_mono >= IDLE_S and key in self._opened:
                    del self._opened[key]
                    one.artifact.free()
                    if isinstance(one.artifact, Image):
                        self._close(("chunks", b"", key[2]))

    def close(self) -> None:
        """Let go of every artifact; views that were handed out stay valid."""
        with self._lock:
            for opened in self._opened.values():
                opened.artifact.free()
            self._opened.clear()

    def _open(
        self, key: tuple[str, bytes, bytes], made: Callable[[Callable[[], None]], Image | ChunkList]
    ) -> Image | ChunkList:
        with self._lock:
            opened = self._opened.get(key)
            if opened is None:
                opened = self._opened[key] = _Opened(made(lambda: self._close(key)))
            opened.count += 1
            return opened.artifact

    def _close(self, key: tuple[str, bytes, bytes]) -> None:
        with self._lock:
            opened = self._opened.get(key)
            if opened is not None:
                opened.count -= 1
                opened.idle_since_mono = self._clock()

    def blob_path(self, sha256: bytes) -> Path:
        """Where the image of this digest lies."""
        return _path(self._root / "blobs", sha256)

    def chunk_list_path(self, merkle_root: bytes) -> Path:
        """Where the chunk list of this root lies."""
        return _path(self._root / "chunks", merkle_root)


class BlobWriter:
    """One artifact on its way in. End it with `finish` or `abort`."""

    def __init__(self, root: Path, chunk_bytes: int) -> None:
        self._root = root
        self._chunk_bytes = chunk_bytes
        self._hasher = ChunkHasher(chunk_bytes, keep_list=True)
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._size = 0
        self._descriptor, self._tmp = _new_file(root / _UNFINISHED)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; raises StoreError if the disk does not."""
        if self._size + len(data) > MAX_ARTIFACT_BYTES:
            raise InvalidInput(f"the artifact is larger than {MAX_ARTIFACT_BYTES} bytes")
        self._size += len(data)
        self._sha256.update(data)
        self._md5.update(data)
        self._hasher.update(data)
        try:
            _write_all(self._descriptor, data)
        except OSError as error:
            raise StoreError(f"the artifact cannot be written to {self._root}: {error.strerror}") from error

    def finish(self, expected: ManifestFacts) -> StoredBlob:
        """Check against the manifest and keep it; raises InvalidInput, and keeps nothing, if it is something else."""
        try:
            stored = self._checked(expected)
            _keep_bytes(self._root, _path(self._root / "chunks", stored.merkle_root), self._hasher.chunk_list)
            _keep(self._descriptor, self._tmp, _path(self._root / "blobs", stored.sha256))
        except OSError as error:
            raise StoreError(f"the artifact cannot be kept in {self._root}: {error.strerror}") from error
        finally:
            self.abort()
        return stored

    def abort(self) -> None:
        """Leave nothing behind. May be called at any time, also after `finish`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            self._tmp.unlink(missing_ok=True)

    def _checked(self, expected: ManifestFacts) -> StoredBlob:
        if expected.chunk_bytes != self._chunk_bytes:
            raise InvalidInput(
                f"the artifact was hashed in chunks of {self._chunk_bytes} bytes, "
                f"its manifest says {expected.chunk_bytes}"
            )
        if expected.size_bytes != self._size:
            raise InvalidInput(
                f"the artifact has {self._size} bytes, its manifest says {expected.size_bytes}: "
                "sign this file, or upload the one that was signed"
            )
        digest = Sha256(self._sha256.digest())
        if expected.sha256 != digest:
            raise InvalidInput(
                f"the artifact's SHA-256 is {digest.hex()}, its manifest says {expected.sha256.hex()}: "
                "sign this file, or upload the one that was signed"
            )
        root = Sha256(self._hasher.finish())
        if expected.merkle_root != root:
            raise InvalidInput(
                f"the artifact's Merkle root is {root.hex()}, its manifest says {expected.merkle_root.hex()}: "
                "sign it again with this version's tool"
            )
        return StoredBlob(sha256=digest, size_bytes=self._size, md5=self._md5.hexdigest(), merkle_root=root)


def _path(directory: Path, digest: bytes) -> Path:
    name = digest.hex()
    return directory / name[:2] / name


def _new_file(directory: Path) -> tuple[int, Path]:
    try:
        descriptor, name = tempfile.mkstemp(dir=directory, prefix=_PREFIX)
    except OSError as error:
        raise StoreError(f"nothing can be written to {directory}: {error.strerror}") from error
    return descriptor, Path(name)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _keep_bytes(root: Path, target: Path, data: bytes) -> None:
    descriptor, tmp = _new_file(root / _UNFINISHED)
    try:
        _write_all(descriptor, data)
        _keep(descriptor, tmp, target)
    finally:
        os.close(descriptor)
        tmp.unlink(missing_ok=True)


def _keep(descriptor: int, tmp: Path, target: Path) -> None:
    """Give a complete file its name, in the order that survives a power cut."""
    os.fchmod(descriptor, _READ_ONLY)
    os.fsync(descriptor)
    if not target.parent.is_dir():
        target.parent.mkdir(mode=_OWNER_ONLY, exist_ok=True)
        sync_directory(target.parent.parent)
    tmp.replace(target)
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
