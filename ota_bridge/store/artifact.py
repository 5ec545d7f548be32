"""Artifacts as the block plane reads them: slices of segments in memory whose every chunk was checked against the
signed tree.

1. A segment is read with `pread`, each of its chunks is checked, and only then it is kept; what does not match raises
   ArtifactDamaged, and nothing of that segment is handed out. Nothing is mapped: a file that is cut
   short or a bad sector is an error of a read, where the touch of a map would end the process by SIGBUS.
2. `view` never waits for the disk: it reads what the page cache holds, and raises ArtifactCold for the rest. `fetch`
   reads it in a thread, and what lies behind it ahead.
3. What is kept is bounded for all artifacts together (`SegmentCache`); a view keeps its segment alive.
4. `look` notices a file that was changed, replaced or removed (another inode, size or modification time): everything
   kept of it is dropped and read anew, so an altered file fails closed at the next chunk.
"""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import ArtifactCold, ArtifactDamaged, StoreError
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.merkle import HASH_BYTES, chunk_count, leaf_hash, root_of_list

SEGMENT_BYTES: Final = 65_536
"""What is read and checked at a time: a multiple of every chunk size."""
_SHIFT: Final = SEGMENT_BYTES.bit_length() - 1
_MASK: Final = SEGMENT_BYTES - 1
READ_AHEAD_BYTES: Final = 1 << 20
_WOULD_BLOCK: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_log = logging.getLogger(__name__)


class SegmentCache:
    """Segments of all artifacts, in two generations: what is not used in a while goes, at no cost per use.

    A segment that is read or used again is young. When the young fill half of the budget they become the old, and
    what was old is dropped. Safe to use from any thread.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._half_bytes = budget_bytes // 2
        self._young_bytes = 0
        self._lock = threading.Lock()
        self._owners: set[Image] = set()

    def add(self, owner: "Image", index: int, segment: memoryview) -> None:
        """Keep this segment as young."""
        with self._lock:
            self._owners.add(owner)
            if self._young_bytes + len(segment) > self._half_bytes:
                for one in self._owners:
                    one.old, one.young = one.young, {}
                self._owners = {one for one in self._owners if one.old} | {owner}
                self._young_bytes = 0
            if index not in owner.young:
                owner.young[index] = segment
                self._young_bytes += len(segment)

    def drop(self, owner: "Image") -> None:
        """Keep nothing of this artifact."""
        with self._lock:
            self._young_bytes -= sum(map(len, owner.young.values()))
            owner.young, owner.old = {}, {}
            self._owners.discard(owner)


class ChunkList:
    """The leaf hashes of an image, in memory once they were read and checked against the root."""

    def __init__(self, path: Path, manifest: ManifestFacts, on_close: Callable[[], None]) -> None:
        self.size_bytes = chunk_count(manifest.size_bytes, manifest.chunk_bytes) * HASH_BYTES
        self._path = path
        self._root = manifest.merkle_root
        self._on_close = on_close
        self._lock = threading.Lock()
        self._view: memoryview | None = None
        self._error: StoreError | None = None

    def view(self, offset: int, length: int) -> memoryview:
        check_range(offset, length, self.size_bytes)
        if self._view is None:
            raise self._error or ArtifactCold(f"chunk list {self._path} has not been read")
        return self._view[offset : offset + length]

    def fetch(self, _offset: int = 0, _length: int = 0) -> None:
        """Read and check all of it (0.2 s for the list of a GiB)."""
        with contextlib.suppress(StoreError):
            self.leaves()

    def leaves(self) -> memoryview:
        """The whole list; reads it if need be. Raises StoreError."""
        with self._lock:
            if self._view is None:
                try:
                    self._view = memoryview(_read_leaves(self._path, self.size_bytes, self._root))
                    self._error = None
                except StoreError as error:
                    self._error = error
                    raise
            return self._view

    def close(self) -> None:
        """Give it back; once for each time it was opened."""
        self._on_close()

    def free(self) -> None:
        self._view = None

    def look(self) -> None:
        """Try again what could not be read. What is in memory was checked and cannot be altered."""
        self._error = None


class Image:
    """One image; see the module."""

    def __init__(
        self,
        path: Path,
        manifest: ManifestFacts,
        chunk_list: ChunkList,
        cache: SegmentCache,
        on_close: Callable[[], None],
    ) -> None:
        self.size_bytes = manifest.size_bytes
        self.young: dict[int, memoryview] = {}
        self.old: dict[int, memoryview] = {}
        self._path = path
        self._chunk_list = chunk_list
        self._chunk_bytes = manifest.chunk_bytes
        self._cache = cache
        self._on_close = on_close
        self._lock = threading.Lock()
        self._file: _File | None = None
        self._failed: dict[int, StoreError] = {}

    def view(self, offset: int, length: int) -> memoryview:
        segment = self.young.get(offset >> _SHIFT)
        if segment is not None:
            start = offset & _MASK
            found = segment[start : start + length]
            if len(found) == length:
                return found
        check_range(offset, length, self.size_bytes)
        parts = [self._segment(index) for index in range(offset >> _SHIFT, (offset + max(length, 1) - 1 >> _SHIFT) + 1)]
        start = offset & _MASK
        if len(parts) == 1:
            return parts[0][start : start + length]
        return memoryview(b"".join(parts))[start : start + length]

    def fetch(self, offset: int, length: int) -> None:
        """Read, check and keep these bytes, waiting for the disk; `view` tells what was wrong."""
        for index in range(offset >> _SHIFT, (offset + max(length, 1) - 1 >> _SHIFT) + 1):
            if index << _SHIFT < self.size_bytes and index not in self.young:
                with contextlib.suppress(StoreError):
                    self._load(index, wait=True)

    def close(self) -> None:
        """Give it back; once for each time it was opened."""
        self._on_close()

    def free(self) -> None:
        """Let go of the file and of what is kept; views that were handed out keep theirs."""
        self._cache.drop(self)
        self._failed.clear()
        self._file = None

    def look(self) -> None:
        """Notice a file that changed; try again what failed. Touches the disk."""
        file = self._file
        if file is not None and not file.is_unchanged():
            _log.warning("artifact %s changed on disk: what is served of it is checked anew", self._path)
            self.free()
        self._failed.clear()

    def _segment(self, index: int) -> memoryview:
        segment = self.young.get(index)
        if segment is None:
            segment = self.old.get(index)
            if segment is not None:
                self._cache.add(self, index, segment)
        if segment is None:
            failed = self._failed.get(index)
            if failed is not None:
                raise failed
            segment = self._load(index, wait=False)
        return segment

    def _load(self, index: int, *, wait: bool) -> memoryview:
        start = index << _SHIFT
        length = min(SEGMENT_BYTES, self.size_bytes - start)
        try:
            file = self._opened(wait=wait)
            data = file.read(start, length, wait=wait)
            if wait:
                self._chunk_list.leaves()
            self._check(start, data)
        except ArtifactCold:
            raise
        except StoreError as error:
            self._failed[index] = error
            raise
        segment = memoryview(data)
        self._cache.add(self, index, segment)
        if file is not self._file:  # it changed while this was read: nothing of it is kept
            self._cache.drop(self)
        return segment

    def _opened(self, *, wait: bool) -> "_File":
        file = self._file
        if file is None:
            if not wait:
                raise ArtifactCold(f"artifact {self._path} is not open")
            with self._lock:
                file = self._file
                if file is None:
                    file = self._file = _File(self._path, self.size_bytes)
        return file

    def _check(self, start: int, data: bytes) -> None:
        chunk_bytes = self._chunk_bytes
        first, count = start // chunk_bytes, chunk_count(len(data), chunk_bytes)
        leaves, view = self._chunk_list.view(first * HASH_BYTES, count * HASH_BYTES), memoryview(data)
        for number in range(count):
            chunk = view[number * chunk_bytes : (number + 1) * chunk_bytes]
            if leaf_hash(chunk) != leaves[number * HASH_BYTES : (number + 1) * HASH_BYTES]:
                raise ArtifactDamaged(f"artifact {self._path}: chunk {first + number} was altered; upload it again")


class _File:
    """One opened state of the file."""

    __slots__ = ("_descriptor", "_identity", "_path")

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._descriptor = -1
            raise ArtifactDamaged(f"artifact {path} cannot be read: {error.strerror}") from error
        state = os.fstat(self._descriptor)
        if state.st_size != size_bytes:
            raise ArtifactDamaged(
                f"artifact {path} has {state.st_size} bytes, its manifest says {size_bytes}; upload it again"
            )
        self._identity = _identity(state)

    def is_unchanged(self) -> bool:
        try:
            return _identity(self._path.stat()) == self._identity
        except OSError:
            return False

    def read(self, offset: int, length: int, *, wait: bool) -> bytes:
        """These bytes; without `wait` only if the page cache has them all, else ArtifactCold."""
        try:
            if wait:
                data = os.pread(self._descriptor, length, offset)
                os.posix_fadvise(self._descriptor, offset + length, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            else:
                buffer = bytearray(length)
                if os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT) != length:
                    raise ArtifactCold(f"artifact {self._path} is not in memory at byte {offset}")
                data = bytes(buffer)
        except OSError as error:
            if not wait and error.errno in _WOULD_BLOCK:
                raise ArtifactCold(f"artifact {self._path} is not in memory at byte {offset}") from None
            raise ArtifactDamaged(f"artifact {self._path} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise ArtifactDamaged(f"artifact {self._path} ends before byte {offset + length}; upload it again")
        return data

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _identity(state: os.stat_result) -> tuple[int, int, int, int]:
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


def _read_leaves(path: Path, expected_bytes: int, root: bytes) -> bytes:
    try:
        with path.open("rb") as file:
            leaves = file.read(expected_bytes + 1)
    except OSError as error:
        raise ArtifactDamaged(f"chunk list {path} cannot be read: {error.strerror}") from error
    if len(leaves) != expected_bytes:
        raise ArtifactDamaged(f"chunk list {path} should have {expected_bytes} bytes; upload the artifact again")
    if root_of_list(leaves) != root:
        raise ArtifactDamaged(f"chunk list {path} was altered; upload the artifact again")
    return leaves


def check_range(offset: int, length: int, size_bytes: int) -> None:
    """Raise ValueError unless `offset` and `length` name bytes of an artifact of this size."""
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ValueError(f"bytes {offset}..{offset + length} of an artifact of {size_bytes}")
