"""NOR-like flash in a sparse file: it erases sectors, programs erased words, and can lose its power.

1. `erase` sets whole sectors to the erased value; `program` writes whole words. A word that was touched since the
   last *whole* erase of its sector is `FlashMisuse`, even where it reads as erased: chips with error correction
   forbid it, and a sector whose erase was torn keeps nothing for long.
2. Each sector erased and each page programmed is one operation. `cut_power_at(i)` takes the power away before, in
   the middle of or after the i-th from now: `FlashPowerCut` is raised, and so it is by every access until `power_on`.
3. The file holds each byte XOR the erased value, so erased flash is a hole: a thousand devices take the disk
   space of what they programmed, and memory of theirs holds no image. Without a path the file has no name.

Not modelled: words that read differently each time after a cut, bits that rot, sectors that wear out.
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Final

from device_sim.chip import Chip
from device_sim.errors import FlashError, FlashMisuse, FlashPowerCut

_ZEROS: Final = bytes(65536)
_EVERY_WORD: Final = -1  # as a mask


class Cut(StrEnum):
    """What the power leaves of the operation at which it goes away."""

    BEFORE = "before"
    TORN = "torn"  # a first part of it
    RANDOM = "random"  # any bits
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that a chip holds, to be put into another of the same make."""

    stored: bytes
    touched: dict[int, int] = field(default_factory=dict)


class Flash:
    """One flash chip of one device. `probe` hears of each whole operation: its offset and size."""

    __slots__ = (
        "_cut", "_cut_at", "_dead", "_fd", "_flip", "_rng", "_touched", "chip", "erases", "ops", "probe", "size_bytes",
    )  # fmt: skip

    def __init__(self, path: Path | None, chip: Chip) -> None:
        self.chip = chip
        self.size_bytes = chip.size_bytes
        self._fd = os.memfd_create("flash") if path is None else _opened(path, chip.size_bytes)
        os.ftruncate(self._fd, chip.size_bytes)
        self.ops = 0
        self.erases = 0
        self.probe: Callable[[int, int], None] | None = None
        self._flip = bytes(value ^ chip.erased_value for value in range(256))
        self._touched: dict[int, int] = {}  # sector: mask of words that read as erased, and are not
        self._cut = Cut.TORN
        self._cut_at: int | None = None
        self._rng: Random | None = None
        self._dead = False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def own(self) -> bool:
        """Keep every other run off this file until `close`; False where one has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def cut_power_at(self, operation: int | None, how: Cut = Cut.TORN, rng: Random | None = None) -> None:
        """Lose the power at the `operation`-th operation from now (1 is the next); None disarms.

        Without `rng` a torn operation is carried out to its half.
        """
        self._cut_at = None if operation is None else self.ops + operation
        self._cut, self._rng = how, rng

    def power_on(self) -> None:
        """Bring a chip whose power was cut back to life, as it is."""
        self._dead = False
        self._cut_at = None

    def contents(self) -> Contents:
        """A copy of all that is in it."""
        return Contents(stored=os.pread(self._fd, self.size_bytes, 0), touched=dict(self._touched))

    def restore(self, contents: Contents) -> None:
        """Hold exactly this from now on."""
        os.pwrite(self._fd, contents.stored, 0)
        self._touched = dict(contents.touched)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`."""
        self._check(offset, size)
        return self._stored(offset, size).translate(self._flip)

    def is_erased(self, offset: int, size: int) -> bool:
        """Whether every byte of a range reads as the erased value."""
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
        sectors = list(self.chip.sectors_of(offset, size))
        if self._cut_at is None and self.probe is None:
            self._erase_at_once(offset, size, [sector for sector, _ in sectors])
            return
        for sector, sector_bytes in sectors:
            self.erases += 1
            if not self._operation(sector, bytes(sector_bytes)):
                self._touched[sector] = _EVERY_WORD
                self._lose_power()
            self._touched.pop(sector, None)
            self._done(sector, sector_bytes)

    def _erase_at_once(self, offset: int, size: int, sectors: list[int]) -> None:
        """The same, where nobody looks and nothing can happen in between: a fleet erases megabytes."""
        self.erases += len(sectors)
        self.ops += len(sectors)
        while size:
            step = min(size, len(_ZEROS))
            if self._stored(offset, step) != _ZEROS[:step]:  # a hole stays a hole
                os.pwrite(self._fd, _ZEROS[:step], offset)
            offset, size = offset + step, size - step
        for sector in sectors if self._touched else ():
            self._touched.pop(sector, None)

    def program(self, offset: int, data: bytes) -> None:
        """Program untouched words; a short last word is filled up with the erased value."""
        word, page = self.chip.word_bytes, self.chip.page_bytes
        stored = data.translate(self._flip) + bytes(-len(data) % word)
        self._check(offset, len(stored))
        if offset % word:
            raise FlashMisuse(f"program at {offset} is off the word grid")
        if not self.is_erased(offset, len(stored)) or self._was_touched(offset, len(stored)):
            raise FlashMisuse(f"program of {len(data)} bytes at {offset} over words that are not erased")
        at, end = offset, offset + len(stored)
        while at < end:
            stop = min(end, at - at % page + page)
            piece = stored[at - offset : stop - offset]
            if self._operation(at, piece):
                self._touch(at, piece)
            else:
                left = self._stored(at, stop - at)
                if any(left):  # else the pulse was too short to do anything
                    self._touch(at, left)
                self._lose_power()
            self._done(at, stop - at)
            at = stop

    def _check(self, offset: int, size: int) -> None:
        if self._dead:
            raise FlashPowerCut("the flash has no power")
        if offset < 0 or size < 0 or offset + size > self.size_bytes:
            raise FlashMisuse(f"{size} bytes at {offset} are outside a flash of {self.size_bytes}")

    def _stored(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def _operation(self, offset: int, stored: bytes) -> bool:
        """Carry one out as far as the power goes; whether it is whole."""
        self.ops += 1
        cut = self._cut if self.ops == self._cut_at else None
        if cut is Cut.BEFORE:
            self._lose_power()
        torn = cut is Cut.TORN or cut is Cut.RANDOM
        if torn:
            stored = self._torn(offset, stored)
        # A hole stays a hole: writing zeros would allocate disk for what is erased already.
        if stored.count(0) != len(stored) or self._stored(offset, len(stored)) != stored:
            os.pwrite(self._fd, stored, offset)
        return not torn

    def _torn(self, offset: int, stored: bytes) -> bytes:
        old, size = self._stored(offset, len(stored)), len(stored)
        if self._cut is Cut.TORN or self._rng is None:
            part = size // 2 if self._rng is None else self._rng.randrange(1, size)
            return stored[:part] + old[part:]
        return _mixed(self._rng, old, stored, self.chip.word_bytes)

    def _done(self, offset: int, size: int) -> None:
        if self.probe is not None:
            self.probe(offset, size)
        if self.ops == self._cut_at:
            self._lose_power()

    def _lose_power(self) -> None:
        self._dead = True
        raise FlashPowerCut(f"the power went away at flash operation {self.ops}")

    def _touch(self, offset: int, stored: bytes) -> None:
        # What does not read as erased needs no note.
        if bytes(self.chip.word_bytes) in stored:
            for sector, mask in self._masks(offset, len(stored)):
                self._touched[sector] = self._touched.get(sector, 0) | mask

    def _was_touched(self, offset: int, size: int) -> bool:
        if not self._touched:
            return False
        return any(self._touched.get(sector, 0) & mask for sector, mask in self._masks(offset, size))

    def _masks(self, offset: int, size: int) -> list[tuple[int, int]]:
        """The words of a range as a mask for each sector that it lies in."""
        masks: list[tuple[int, int]] = []
        word, end = self.chip.word_bytes, offset + size
        while offset < end:
            sector, sector_bytes = self.chip.sector_at(offset)
            stop = min(end, sector + sector_bytes)
            words = -(-(stop - offset) // word)
            masks.append((sector, ((1 << words) - 1) << (offset - sector) // word))
            offset = stop
        return masks


def _opened(path: Path, size_bytes: int) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FlashError(f"the flash file {path} cannot be opened: {error.strerror}") from None
    held = os.fstat(fd).st_size
    if held not in {0, size_bytes}:
        os.close(fd)
        raise FlashError(f"{path} holds a flash of {held} bytes, not of {size_bytes}: use another --state")
    return fd


def _mixed(rng: Random, old: bytes, new: bytes, word_bytes: int) -> bytes:
    """What may stand where an operation was torn: any bits, bits of both, or words of both."""
    size = len(new)
    match rng.randrange(3):
        case 0:
            return rng.randbytes(size)
        case 1:
            mask = rng.getrandbits(size * 8)
        case _:
            words = rng.choices((bytes(word_bytes), b"\xff" * word_bytes), k=-(-size // word_bytes))
            mask = int.from_bytes(b"".join(words)[:size], "big")
    before, after = int.from_bytes(old, "big"), int.from_bytes(new, "big")
    return (before ^ (before ^ after) & mask).to_bytes(size, "big")
