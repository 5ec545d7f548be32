"""One daemon per data directory: a lock on a file that holds the process id.

The system drops the lock when the process ends, however it ends.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ota_bridge.core.errors import StoreError

LOCK_NAME: Final = "daemon.pid"


class DataDirectoryLock:
    """Held from `acquire` to `release`, or for a `with` block. Two objects never hold the same directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    @property
    def path(self) -> Path:
        """The file that is locked. It stays: removing it would let two daemons lock two files of one name."""
        return self._directory / LOCK_NAME

    def acquire(self) -> None:
        """Lock the directory, which is made if it is missing; raises StoreError if another process has it."""
        if self._descriptor is not None:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"the data directory {self._directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreError(
                f"the data directory {self._directory} is in use by another daemon (process {holder})"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. May be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
