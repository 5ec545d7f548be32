"""Where things lie in the flash: the settings, two slots, the chunk list, and how far a download is.

    settings   2 equal sectors    `Journal` of `Settings`
    header     before each slot   the manifest's envelope
    slot 0, 1  whole sectors      the image; the two may differ in size
    marks      behind each area   one word for each unit done
    list       an eighth          the chunk list of the download, kept so that a restart does not ask for it again

Nothing shares a sector with anything else. `plain` is what the devices of a fleet have, on sectors of 4 KiB;
`place` divides any chip.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

from device_sim.chip import SECTOR_BYTES, Chip
from device_sim.errors import FlashMisuse
from device_sim.journal import framed_bytes
from device_sim.manifest import MAX_ENVELOPE_BYTES

LIST_SHARE: Final = 8  # 32 bytes of hash for each chunk of at least 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A piece of flash that a download fills, and where the marks of its units are."""

    offset: int
    size_bytes: int
    sector_bytes: int  # of the largest sector in it
    marks: int
    marks_bytes: int

    def unit_bytes(self, chunk_bytes: int) -> int:
        """What is verified and programmed at once: a chunk, but at least a sector, so that it can be erased again."""
        return max(chunk_bytes, self.sector_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to divide a chip."""

    chip: Chip
    settings: int
    headers: tuple[int, int]
    slots: tuple[Area, Area]
    chunk_list: Area

    def __post_init__(self) -> None:
        areas, header_bytes = (*self.slots, self.chunk_list), framed_bytes(MAX_ENVELOPE_BYTES, self.chip.word_bytes)
        spans = [(self.settings, 2 * self.chip.sector_at(self.settings)[1])]
        spans += [(offset, header_bytes) for offset in self.headers]
        spans += [(area.offset, area.size_bytes) for area in areas]
        spans += [(area.marks, area.marks_bytes) for area in areas]
        sectors = [(begin, begin + self.chip.whole_sectors(begin, size)) for begin, size in sorted(spans)]
        if any(end > begin for (_, end), (begin, _) in pairwise(sectors)):
            raise FlashMisuse("two parts of this layout share a sector")
        if self.chip.largest_sector(*spans[0]) * 2 != spans[0][1]:
            raise FlashMisuse("the two sectors of the settings are not equal")
        for area in areas:
            for unit in range(area.offset, area.offset + area.size_bytes, area.sector_bytes):
                self.chip.largest_sector(unit, area.sector_bytes)  # raises where a unit is no whole sectors

    @classmethod
    def plain(cls, slot_bytes: int) -> Self:
        """Two equal slots on a chip of even sectors that just holds them."""
        sizes = [size for _, size in _parts(Chip.even(SECTOR_BYTES), (slot_bytes, slot_bytes))]
        whole = sum(size + -size % SECTOR_BYTES for size in sizes)
        return cls.place(Chip.even(whole), (slot_bytes, slot_bytes))

    @classmethod
    def place(cls, chip: Chip, slot_bytes: tuple[int, int], *, slots_last: bool = False) -> Self:
        """Each part on the next whole sectors; with `slots_last` the slots come behind everything that is small."""
        parts = _parts(chip, slot_bytes)
        if slots_last:
            parts.sort(key=lambda part: part[0] in {"slot 0", "slot 1"})
        places: dict[str, tuple[int, int]] = {}
        at = 0
        for name, size in parts:
            places[name] = at, chip.whole_sectors(at, size)
            at += places[name][1]

        def area(name: str) -> Area:
            (offset, size_bytes), (marks, marks_bytes) = places[name], places[f"{name} marks"]
            return Area(
                offset=offset,
                size_bytes=size_bytes,
                sector_bytes=chip.largest_sector(offset, size_bytes),
                marks=marks,
                marks_bytes=marks_bytes,
            )

        return cls(
            chip=chip,
            settings=places["settings"][0],
            headers=(places["header 0"][0], places["header 1"][0]),
            slots=(area("slot 0"), area("slot 1")),
            chunk_list=area("list"),
        )


def _parts(chip: Chip, slot_bytes: tuple[int, int]) -> list[tuple[str, int]]:
    """Every part by its name and the size that it needs."""
    smallest = min(size for _, size in chip.runs)
    list_bytes = max(slot_bytes) // LIST_SHARE
    parts = [("settings", 2 * chip.sector_at(0)[1])]
    for number, size in enumerate(slot_bytes):
        parts.append((f"header {number}", framed_bytes(MAX_ENVELOPE_BYTES, chip.word_bytes)))
        parts += [(f"slot {number}", size), (f"slot {number} marks", _marks_bytes(chip, size, smallest))]
    return [*parts, ("list", list_bytes), ("list marks", _marks_bytes(chip, list_bytes, smallest))]


def _marks_bytes(chip: Chip, size_bytes: int, unit_bytes: int) -> int:
    return -(-size_bytes // unit_bytes) * chip.word_bytes
