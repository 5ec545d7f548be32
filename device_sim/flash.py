"""NOR-like flash in a sparse file: it erases sectors, programs erased words, and can lose its power.

1. `erase` sets whole sectors of 4 KiB to the erased value; `program` writes whole words that are erased.
   Programming a word twice without an erase is `FlashMisuse`: real chips with error correction forbid it.
2. Each sector erased and each call of `program` is one operation. `cut_power_at(i)` tears the i-th from now:
   half of it happens, `FlashPowerCut` is raised, and so does every access until `power_on`.
3. The file holds each byte XOR the erased value, so erased flash is a hole: a thousand devices take the disk
   space of what they programmed, and memory of theirs holds no image.
"""

import os
from pathlib import Path
from typing import Final

from device_sim.errors import FlashError, FlashMisuse, FlashPowerCut

SECTOR_BYTES: Final = 4096
WORD_BYTES: Final = 4

_ZEROS: Final = bytes(65536)


class Flash:
    """One flash chip of one device, kept in one file."""

    __slots__ = ("_cut_at", "_dead", "_fd", "_flip", "erased_value", "erases", "ops", "size_bytes")

    def __init__(self, path: Path, size_bytes: int, *, erased_value: int = 0xFF) -> None:
        if size_bytes % SECTOR_BYTES:
            raise FlashMisuse(f"{size_bytes} bytes are not whole sectors")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held = os.fstat(self._fd).st_size
            if held not in {0, size_bytes}:
                os.close(self._fd)
                raise FlashError(f"{path} holds a flash of {held} bytes, not of {size_bytes}: use another --state")
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            raise FlashError(f"the flash file {path} cannot be opened: {error.strerror}") from None
        self.size_bytes = size_bytes
        self.erased_value = erased_value
        self.ops = 0
        self.erases = 0
        self._flip = bytes(value ^ erased_value for value in range(256))
        self._cut_at: int | None = None
        self._dead = False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def cut_power_at(self, operation: int | None) -> None:
        """Tear the `operation`-th operation from now (1 is the next); None disarms."""
        self._cut_at = None if operation is None else self.ops + operation

    def power_on(self) -> None:
        """Bring a chip whose power was cut back to life, as it is."""
        self._dead = False
        self._cut_at = None

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`."""
        self._check(offset, size)
        return self._stored(offset, size).translate(self._flip)

    def is_erased(self, offset: int, size: int) -> bool:
        """Whether every byte of a range holds the erased value."""
        self._check(offset, size)
        while size:
            step = min(size, len(_ZEROS))
            if self._stored(offset, step) != _ZEROS[:step]:
                return False
            offset, size = offset + step, size - step
        return True

    def erase(self, offset: int, size: int) -> None:
        """Erase every sector of a range that lies on the sector grid."""
        self._check(offset, size)
        if offset % SECTOR_BYTES or size % SECTOR_BYTES:
            raise FlashMisuse(f"erase of {size} bytes at {offset} is off the sector grid")
        for sector in range(offset, offset + size, SECTOR_BYTES):
            torn = self._count()
            self.erases += 1
            self._write(sector, _ZEROS[: SECTOR_BYTES // 2 if torn else SECTOR_BYTES], torn=torn)

    def program(self, offset: int, data: bytes) -> None:
        """Program erased words; a short last word is filled up with the erased value."""
        filled = len(data) + -len(data) % WORD_BYTES
        self._check(offset, filled)
        if offset % WORD_BYTES:
            raise FlashMisuse(f"program at {offset} is off the word grid")
        if not self.is_erased(offset, filled):
            raise FlashMisuse(f"program of {len(data)} bytes at {offset} over words that are not erased")
        torn = self._count()
        self._write(offset, data[: len(data) // 2 if torn else len(data)].translate(self._flip), torn=torn)

    def _check(self, offset: int, size: int) -> None:
        if self._dead:
            raise FlashPowerCut("the flash has no power")
        if offset < 0 or size < 0 or offset + size > self.size_bytes:
            raise FlashMisuse(f"{size} bytes at {offset} are outside a flash of {self.size_bytes}")

    def _stored(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def _count(self) -> bool:
        self.ops += 1
        return self.ops == self._cut_at

    def _write(self, offset: int, stored: bytes, *, torn: bool) -> None:
        # A hole stays a hole: writing zeros would allocate disk for what is erased already.
        if stored.count(0) != len(stored) or self._stored(offset, len(stored)) != stored:
            os.pwrite(self._fd, stored, offset)
        if torn:
            self._dead = True
            raise FlashPowerCut(f"the power went away at flash operation {self.ops}")
