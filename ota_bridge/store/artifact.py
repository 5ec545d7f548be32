"""Artifacts as the block plane reads them: slices of memory whose every chunk has been checked against the signed tree.

1. A chunk is checked at its first touch in this process, and again after the file changed (another inode, size or
   modification time; looked for at most once per CHECK_S). What does not match raises ArtifactDamaged: nothing of a
   damaged chunk is ever handed out.
2. Checks read the file with `pread`: a short file or a bad sector is an error there, where a touch of the map would
   end the process by SIGBUS. What remains: a checked file that somebody truncates in place within the CHECK_S before
   the next look, or a page that was checked, dropped from memory and cannot be read again. The files are read-only in a
   directory of the owner's, and this package replaces files but never truncates one.
3. A view keeps its map alive; the memory and the file are let go with the last view.
"""

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from ota_bridge.core.errors import ArtifactDamaged, StoreError
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.merkle import HASH_BYTES, chunk_count, leaf_hash

CHECK_S: Final = 1.0


class Artifact(Protocol):
    """Bytes that can be served. Safe to use from any thread."""

    @property
    def size_bytes(self) -> int: ...
    def view(self, offset: int, length: int) -> memoryview:
        """These bytes, checked; raises ArtifactDamaged, or ValueError for a range outside the artifact."""
        ...

    def is_checked(self, offset: int, length: int) -> bool:
        """True if `view` of this range will not read the disk to check it; else it is better done in a thread."""
        ...

    def close(self) -> None:
        """Give it back; once for each time it was opened."""
        ...


class ChunkList:
    """The leaf hashes of an artifact, in memory, checked against the root when they were read."""

    def __init__(self, leaves: bytes, on_close: Callable[[], None]) -> None:
        self._view = memoryview(leaves)
        self._on_close = on_close

    @property
    def size_bytes(self) -> int:
        return len(self._view)

    def leaf(self, index: int) -> memoryview:
        """The hash of one chunk."""
        return self._view[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def view(self, offset: int, length: int) -> memoryview:
        check_range(offset, length, len(self._view))
        return self._view[offset : offset + length]

    def is_checked(self, offset: int, length: int) -> bool:
        check_range(offset, length, len(self._view))
        return True

    def close(self) -> None:
        self._on_close()


class MappedArtifact:
    """A file, mapped read-only."""

    def __init__(
        self,
        path: Path,
        manifest: ManifestFacts,
        leaves: ChunkList,
        clock: Callable[[], float],
        on_close: Callable[[], None],
    ) -> None:
        self._path = path
        self._leaves = leaves
        self._clock = clock
        self._on_close = on_close
        self._size = manifest.size_bytes
        self._chunk_bytes = manifest.chunk_bytes
        self._shift = manifest.chunk_bytes.bit_length() - 1
        self._lock = threading.Lock()
        self._look_again = clock() + CHECK_S
        self._file: _File | None = self._open()

    @property
    def size_bytes(self) -> int:
        return self._size

    def view(self, offset: int, length: int) -> memoryview:
        if self._clock() >= self._look_again:
            self._look()
        file = self._file
        if file is None:
            raise StoreError(f"artifact {self._path} is closed")
        check_range(offset, length, self._size)
        first, end = offset >> self._shift, (offset + length + self._chunk_bytes - 1) >> self._shift
        if file.checked.find(0, first, end) >= 0:
            self._check(file, first, end)
        return file.view[offset : offset + length]

    def is_checked(self, offset: int, length: int) -> bool:
        file = self._file
        first, end = offset >> self._shift, (offset + length + self._chunk_bytes - 1) >> self._shift
        return file is not None and file.checked.find(0, first, end) < 0

    def close(self) -> None:
        self._on_close()

    def free(self) -> None:
        """Let go of the file; views that were handed out keep theirs."""
        self._file = None

    def _open(self) -> "_File":
        return _File.open(self._path, self._size, chunk_count(self._size, self._chunk_bytes))

    def _check(self, file: "_File", first: int, end: int) -> None:
        for index in range(first, end):
            if not file.checked[index]:
                start = index * self._chunk_bytes
                chunk = file.read(start, min(self._chunk_bytes, self._size - start))
                if leaf_hash(chunk) != self._leaves.leaf(index):
                    raise ArtifactDamaged(f"artifact {self._path}: chunk {index} was altered; upload it again")
                file.checked[index] = 1

    def _look(self) -> None:
        """Notice a file that was changed, replaced or removed: it is opened anew, with nothing checked."""
        with self._lock:
            if self._file is not None and not self._file.is_unchanged():
                self._file.checked = bytearray(len(self._file.checked))
                self._file = self._open()
            self._look_again = self._clock() + CHECK_S


class _File:
    """One opened state of the file, and which of its chunks have been checked (one byte each)."""

    __slots__ = ("_descriptor", "_identity", "_path", "checked", "view")

    def __init__(self, path: Path, descriptor: int, state: os.stat_result, view: memoryview, chunks: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._identity = _identity(state)
        self.view = view
        self.checked = bytearray(chunks)

    @classmethod
    def open(cls, path: Path, size_bytes: int, chunks: int) -> "_File":
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactDamaged(f"artifact {path} cannot be read: {error.strerror}") from error
        try:
            state = os.fstat(descriptor)
            if state.st_size != size_bytes:
                raise ArtifactDamaged(  # noqa: TRY301 - the descriptor must be closed
                    f"artifact {path} has {state.st_size} bytes, its manifest says {size_bytes}; upload it again"
                )
            view = memoryview(mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ))
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"artifact {path} cannot be mapped: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, state, view, chunks)

    def is_unchanged(self) -> bool:
        try:
            return _identity(self._path.stat()) == self._identity
        except OSError:
            return False

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise ArtifactDamaged(f"artifact {self._path} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise ArtifactDamaged(f"artifact {self._path} ends before byte {offset + length}; upload it again")
        return data

    def __del__(self) -> None:
        os.close(self._descriptor)


def _identity(state: os.stat_result) -> tuple[int, int, int, int]:
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


def check_range(offset: int, length: int, size_bytes: int) -> None:
    """Raise ValueError unless `offset` and `length` name bytes of an artifact of this size."""
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ValueError(f"bytes {offset}..{offset + length} of an artifact of {size_bytes}")
