"""The flash of one device by meaning: what a download erases, programs and finds again after a restart.

1. A unit is programmed, then its mark; units are done in order. So a mark that was begun stands for a finished
   unit, and only the first unit without a mark can be torn. Programming a mark costs no erase.
2. What a restart may have torn is erased before it is programmed, even where it reads as erased: a program of
   erased bytes and an erase that was cut short cannot be seen.
"""

import hashlib
from dataclasses import replace
from typing import Any, Final

from device_sim.flash import Flash
from device_sim.journal import Journal, frame, framed_bytes, unframe
from device_sim.layout import Area, Layout
from device_sim.manifest import MAX_ENVELOPE_BYTES
from device_sim.settings import Settings

_READ_BYTES: Final = 65536


class Storage:
    """The flash of one device, by meaning instead of by address."""

    __slots__ = ("_erased_in_this_boot", "_journal", "flash", "image_erases", "layout", "settings")

    def __init__(self, flash: Flash, layout: Layout, *, version: str) -> None:
        self.flash = flash
        self.layout = layout
        self.image_erases = 0  # without those of the settings, which a refused update may need too
        self.mount(version)

    def mount(self, version: str) -> None:
        """Read the settings as a boot does; a blank chip is a device fresh from the factory."""
        self._erased_in_this_boot: set[Area] = set()
        self._journal = Journal(self.flash, self.layout.settings)
        body = self._journal.body
        self.settings = Settings(version=version) if body is None else Settings.unpack(body)

    def save(self, **changes: Any) -> None:
        """Replace the named settings in one write that a power cut cannot halve."""
        changed = replace(self.settings, **changes)
        self._journal.write(changed.pack())
        self.settings = changed

    @property
    def free_slot(self) -> Area:
        """The slot that the next image goes into."""
        return self.layout.slots[1 - self.settings.active]

    def envelope(self, slot: int) -> bytes | None:
        """The manifest envelope that stands before a slot's image, if a whole one does."""
        size = framed_bytes(MAX_ENVELOPE_BYTES, self.flash.chip.word_bytes)
        found = unframe(self.flash.read(self.layout.headers[slot], size))
        return None if found is None else found[1]

    def prepare(self, slot: int, *, envelope: bytes, image_bytes: int, list_bytes: int) -> None:
        """Erase what a download will program, and put its manifest before the slot."""
        header, record = self.layout.headers[slot], frame(0, envelope)
        self._erase(header, len(record))
        self._prepare_area(self.layout.slots[slot], image_bytes)
        if list_bytes:
            self.prepare_list(list_bytes)
        self.flash.program(header, record)

    def prepare_list(self, list_bytes: int) -> None:
        """Erase the place of the chunk list, to fetch it (again)."""
        self._prepare_area(self.layout.chunk_list, list_bytes)

    def units_done(self, area: Area, units: int) -> int:
        """How many units of a download are in flash, by their marks."""
        chip = self.flash.chip
        marks = self.flash.read(area.marks, units * chip.word_bytes)
        erased = bytes([chip.erased_value]) * chip.word_bytes
        for unit in range(units):
            if marks[unit * chip.word_bytes : (unit + 1) * chip.word_bytes] == erased:
                return unit
        return units

    def clean_unit(self, area: Area, offset: int, size_bytes: int) -> None:
        """Erase the first unit without a mark, unless its area was erased since the last boot."""
        if area not in self._erased_in_this_boot:
            self._erase(area.offset + offset, size_bytes)
            self._erased_in_this_boot.add(area)

    def program_unit(self, area: Area, unit: int, offset: int, data: bytes) -> None:
        """Program one unit, then its mark."""
        chip = self.flash.chip
        done = bytes([chip.erased_value ^ 0xFF]) * chip.word_bytes
        self.flash.program(area.offset + offset, data)
        self.flash.program(area.marks + unit * chip.word_bytes, done)

    def digest(self, slot: int, size_bytes: int) -> bytes:
        """SHA-256 of an image as it stands in its slot."""
        digest, area = hashlib.sha256(), self.layout.slots[slot]
        for at in range(0, size_bytes, _READ_BYTES):
            digest.update(self.flash.read(area.offset + at, min(_READ_BYTES, size_bytes - at)))
        return digest.digest()

    def read_list(self, offset: int, size_bytes: int) -> bytes:
        """A piece of the chunk list in flash."""
        return self.flash.read(self.layout.chunk_list.offset + offset, size_bytes)

    def _prepare_area(self, area: Area, size_bytes: int) -> None:
        self._erase(area.offset, size_bytes)
        self._erase(area.marks, -(-size_bytes // area.sector_bytes) * self.flash.chip.word_bytes)
        self._erased_in_this_boot.add(area)

    def _erase(self, offset: int, size_bytes: int) -> None:
        before = self.flash.erases
        self.flash.erase(offset, self.flash.chip.whole_sectors(offset, size_bytes))
        self.image_erases += self.flash.erases - before
