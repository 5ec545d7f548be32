"""What a Xively device keeps over a restart: its files, the revision beside each, and the mailbox of the firmware.

A file is overwritten in place from its first chunk, with no temporary copy; nothing else of a download is kept.
"""

from pathlib import Path
from typing import Final

MAILBOX: Final = "firmware_update_revision.mailbox"
RUNNING: Final = "running.image"
"""Not of the vendor: which revision the boot loader starts, so that a process can be started again."""
_REVISION_SUFFIX: Final = ".xirev"
_REVISION_BYTES_MAX: Final = 1024


class Files:
    """Named byte strings, in memory and, with a directory, on disk as well."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._held: dict[str, bytes] = {}
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._held = {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}

    def read(self, name: str) -> bytes | None:
        return self._held.get(name)

    def write(self, name: str, data: bytes) -> None:
        self._held[name] = data
        if self._directory is not None:
            (self._directory / name).write_bytes(data)

    def remove(self, name: str) -> None:
        self._held.pop(name, None)
        if self._directory is not None:
            (self._directory / name).unlink(missing_ok=True)

    def revision(self, name: str) -> str | None:
        """What stands beside a file; it says nothing of whether the file is whole."""
        stored = self.read(name + _REVISION_SUFFIX)
        return None if stored is None else stored[:_REVISION_BYTES_MAX].decode("utf-8", "replace")

    def set_revision(self, name: str, revision: str) -> None:
        self.write(name + _REVISION_SUFFIX, revision.encode())

    def mail(self, name: str, revision: str) -> None:
        """Leave word of a firmware for the boot that commits it."""
        self.write(MAILBOX, f"{name}\n{revision}".encode())

    def mailed(self) -> tuple[str, str] | None:
        """The firmware that waits to be committed, and its revision."""
        stored = self.read(MAILBOX)
        if stored is None:
            return None
        name, _, revision = stored.decode("utf-8", "replace").partition("\n")
        return name, revision

    def commit(self) -> None:
        """Turn the mailbox into the firmware's revision."""
        if (mailed := self.mailed()) is not None:
            self.set_revision(*mailed)
            self.remove(MAILBOX)
