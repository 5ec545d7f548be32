"""Where things lie in the flash: the settings, two slots, the chunk list, and how far a download is.

    settings   2 sectors      `Journal` of `Settings`
    slot 0/1   1 + n sectors  a header sector with the manifest's envelope, then the image
    list       n / 8          the chunk list of the download, kept so that a restart does not ask for it again
    marks      per area       one word for each unit done: programming a word costs no erase and cannot tear

A *unit* is what is verified and programmed at once: a chunk, but at least a sector. Units are done in order.
A unit's mark is programmed after its bytes, so a mark that was begun stands for a finished unit, and only the
first unit without a mark can be torn.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final

from device_sim.flash import SECTOR_BYTES, WORD_BYTES, Flash
from device_sim.journal import AREA_BYTES, Journal, frame, framed_bytes, unframe
from device_sim.manifest import MAX_ENVELOPE_BYTES
from device_sim.settings import Settings

_LIST_SHARE: Final = 8  # 32 bytes of hash for each chunk of at least 256
_DONE: Final = bytes(WORD_BYTES)
_READ_BYTES: Final = 65536


def whole_sectors(size_bytes: int) -> int:
    """A size on the sector grid."""
    return size_bytes + -size_bytes % SECTOR_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A piece of flash that a download fills, and where the marks of its units are."""

    offset: int
    size_bytes: int
    marks: int

    @property
    def end(self) -> int:
        """The first byte behind the marks."""
        return self.marks + _marks_bytes(self.size_bytes)


def _marks_bytes(size_bytes: int) -> int:
    return whole_sectors(size_bytes // SECTOR_BYTES * WORD_BYTES)


class Storage:
    """The flash of one device, by meaning instead of by address."""

    __slots__ = ("_headers", "_journal", "flash", "image_erases", "list_area", "settings", "slot_bytes", "slots")

    def __init__(self, flash: Flash, *, slot_bytes: int, version: str) -> None:
        self.flash = flash
        self.slot_bytes = slot_bytes
        self.image_erases = 0  # without those of the settings, which a refused update may need too
        self._headers: list[int] = []
        self.slots: list[Area] = []
        at = AREA_BYTES
        for _ in range(2):
            self._headers.append(at)
            data = at + SECTOR_BYTES
            self.slots.append(Area(offset=data, size_bytes=slot_bytes, marks=data + slot_bytes))
            at = self.slots[-1].end
        list_bytes = whole_sectors(slot_bytes // _LIST_SHARE)
        self.list_area = Area(offset=at, size_bytes=list_bytes, marks=at + list_bytes)
        self.mount(version)

    @staticmethod
    def flash_bytes(slot_bytes: int) -> int:
        """The size of the chip that holds two slots of `slot_bytes`."""
        list_bytes = whole_sectors(slot_bytes // _LIST_SHARE)
        slots = 2 * (SECTOR_BYTES + slot_bytes + _marks_bytes(slot_bytes))
        return AREA_BYTES + slots + list_bytes + _marks_bytes(list_bytes)

    def mount(self, version: str) -> None:
        """Read the settings as a boot does; a blank chip is a device fresh from the factory."""
        self._journal = Journal(self.flash, 0)
        body = self._journal.body
        self.settings = Settings(version=version) if body is None else Settings.unpack(body)

    def save(self, **changes: Any) -> None:
        """Replace the named settings in one write that a power cut cannot halve."""
        changed = replace(self.settings, **changes)
        self._journal.write(changed.pack())
        self.settings = changed

    def envelope(self, slot: int) -> bytes | None:
        """The manifest envelope that stands before a slot's image, if a whole one does."""
        found = unframe(self.flash.read(self._headers[slot], framed_bytes(MAX_ENVELOPE_BYTES)))
        return None if found is None else found[1]

    def prepare(self, slot: int, *, envelope: bytes, image_bytes: int, list_bytes: int) -> None:
        """Erase what a download will program, and put its manifest before the slot."""
        area = self.slots[slot]
        self._erase(self._headers[slot], SECTOR_BYTES)
        self._erase(area.offset, whole_sectors(image_bytes))
        self._erase(area.marks, _marks_bytes(whole_sectors(image_bytes)))
        if list_bytes:
            self.prepare_list(list_bytes)
        self.flash.program(self._headers[slot], frame(0, envelope))

    def prepare_list(self, list_bytes: int) -> None:
        """Erase the place of the chunk list, to fetch it (again)."""
        self._erase(self.list_area.offset, whole_sectors(list_bytes))
        self._erase(self.list_area.marks, _marks_bytes(whole_sectors(list_bytes)))

    def units_done(self, area: Area, units: int) -> int:
        """How many units of a download are in flash, by their marks."""
        marks = self.flash.read(area.marks, units * WORD_BYTES)
        erased = bytes([self.flash.erased_value]) * WORD_BYTES
        for unit in range(units):
            if marks[unit * WORD_BYTES : (unit + 1) * WORD_BYTES] == erased:
                return unit
        return units

    def clean_unit(self, area: Area, offset: int, size_bytes: int) -> None:
        """Erase a unit that a power cut left half programmed."""
        if not self.flash.is_erased(area.offset + offset, size_bytes):
            self._erase(area.offset + offset, whole_sectors(size_bytes))

    def _erase(self, offset: int, size_bytes: int) -> None:
        self.image_erases += size_bytes // SECTOR_BYTES
        self.flash.erase(offset, size_bytes)

    def program_unit(self, area: Area, unit: int, offset: int, data: bytes) -> None:
        """Program one unit, then its mark."""
        self.flash.program(area.offset + offset, data)
        self.flash.program(area.marks + unit * WORD_BYTES, _DONE)

    def digest(self, slot: int, size_bytes: int) -> bytes:
        """SHA-256 of an image as it stands in its slot."""
        digest, area = hashlib.sha256(), self.slots[slot]
        for at in range(0, size_bytes, _READ_BYTES):
            digest.update(self.flash.read(area.offset + at, min(_READ_BYTES, size_bytes - at)))
        return digest.digest()

    def read_list(self, offset: int, size_bytes: int) -> bytes:
        """A piece of the chunk list in flash."""
        return self.flash.read(self.list_area.offset + offset, size_bytes)
