"""Small records that survive a power cut at any operation: two equal flash sectors, written in turn.

A record is [magic, counter, length, CRC of counter and body, body]. Records are appended to one sector; when
it is full, the *other* is erased and begun. The valid record with the highest counter is the state. A torn
record fails its CRC and closes its sector for appending; a torn erase only ever hits the older sector.
"""

import struct
import zlib
from typing import Final

from device_sim.errors import FlashMisuse
from device_sim.flash import Flash

_HEAD: Final = struct.Struct(">IIII")
_MAGIC: Final = 0x4F544131
_MAX_BODY_BYTES: Final = 65536


def frame(counter: int, body: bytes) -> bytes:
    """One record as it stands in flash."""
    check = zlib.crc32(counter.to_bytes(4, "big") + body)
    return _HEAD.pack(_MAGIC, counter, len(body), check) + body


def unframe(data: bytes, at: int = 0) -> tuple[int, bytes] | None:
    """The counter and body of the record that begins at `at`, if there is a whole one."""
    if len(data) < at + _HEAD.size:
        return None
    magic, counter, length, check = _HEAD.unpack_from(data, at)
    body = data[at + _HEAD.size : at + _HEAD.size + length]
    if magic != _MAGIC or length > _MAX_BODY_BYTES or len(body) != length:
        return None
    if zlib.crc32(counter.to_bytes(4, "big") + body) != check:
        return None
    return counter, body


def framed_bytes(body_bytes: int, word_bytes: int) -> int:
    """The flash that a record takes, on the word grid."""
    size = _HEAD.size + body_bytes
    return size + -size % word_bytes


class Journal:
    """The latest record, and a safe way to replace it."""

    __slots__ = ("_at", "_counter", "_flash", "_offset", "_sector", "_sector_bytes", "body")

    def __init__(self, flash: Flash, offset: int) -> None:
        self._flash = flash
        self._offset = offset
        self._sector_bytes = flash.chip.sector_at(offset)[1]
        self.body: bytes | None = None
        self._counter = 0
        self._sector = 1  # so that the first record begins sector 0
        self._at: int | None = None
        for sector in (0, 1):
            self._scan(sector)

    def write(self, body: bytes) -> None:
        """Make `body` the latest record; after a power cut either it or the one before it is."""
        size = framed_bytes(len(body), self._flash.chip.word_bytes)
        if size > self._sector_bytes:
            raise FlashMisuse(f"a record of {len(body)} bytes is larger than a sector")
        if self._at is None or self._at + size > self._sector_bytes:
            self._sector = 1 - self._sector
            self._flash.erase(self._base(), self._sector_bytes)
            self._at = 0
        self._flash.program(self._base() + self._at, frame(self._counter + 1, body))
        self._at += size
        self._counter += 1
        self.body = body

    def _base(self) -> int:
        return self._offset + self._sector * self._sector_bytes

    def _scan(self, sector: int) -> None:
        data = self._flash.read(self._offset + sector * self._sector_bytes, self._sector_bytes)
        at = 0
        while (found := unframe(data, at)) is not None:
            counter, body = found
            at += framed_bytes(len(body), self._flash.chip.word_bytes)
            if self.body is None or counter > self._counter:
                self.body, self._counter, self._sector, self._at = body, counter, sector, None
        if self.body is not None and self._sector == sector:
            rest = data[at:]
            clean = rest == bytes([self._flash.chip.erased_value]) * len(rest)
            self._at = at if clean and rest else None
