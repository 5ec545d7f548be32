"""How a flash chip is made: where its sectors begin, and what it programs at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from device_sim.errors import FlashMisuse

SECTOR_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """`runs` are (how many, of how many bytes) sectors in the order of their addresses; all sizes are powers of two.

    A word is programmed as a whole or not at all again until its sector is erased; a page is what one operation
    programs at most.
    """

    runs: tuple[tuple[int, int], ...]
    word_bytes: int = 4
    page_bytes: int = SECTOR_BYTES
    erased_value: int = 0xFF

    def __post_init__(self) -> None:
        sizes = [self.word_bytes, self.page_bytes, *(size for _, size in self.runs)]
        if any(size < 1 or size & (size - 1) for size in sizes):
            raise FlashMisuse(f"words, pages and sectors of {sizes} bytes: not all are powers of two")
        smallest = min(size for _, size in self.runs)
        if not self.word_bytes <= self.page_bytes <= smallest:
            raise FlashMisuse(f"a page of {self.page_bytes} bytes is shorter than a word, or longer than a sector")
        if not 0 <= self.erased_value <= 0xFF:  # noqa: PLR2004  a byte
            raise FlashMisuse(f"{self.erased_value} is no erased value")

    @classmethod
    def even(cls, size_bytes: int, *, erased_value: int = 0xFF) -> Self:
        """A chip of sectors of 4 KiB."""
        if size_bytes % SECTOR_BYTES:
            raise FlashMisuse(f"{size_bytes} bytes are not whole sectors")
        return cls(runs=((size_bytes // SECTOR_BYTES, SECTOR_BYTES),), erased_value=erased_value)

    @property
    def size_bytes(self) -> int:
        """The size of the whole."""
        return sum(count * size for count, size in self.runs)

    def sector_at(self, offset: int) -> tuple[int, int]:
        """Begin and size of the sector that holds a byte."""
        begin = 0
        for count, size in self.runs:
            if offset < begin + count * size:
                return begin + (offset - begin) // size * size, size
            begin += count * size
        raise FlashMisuse(f"there is no sector at {offset}")

    def sectors_of(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Begin and size of each sector of a range, which has to begin and end with one."""
        at, end = offset, offset + size
        while at < end:
            begin, sector_bytes = self.sector_at(at)
            if begin != at or begin + sector_bytes > end:
                raise FlashMisuse(f"{size} bytes at {offset} are off the sector grid")
            yield at, sector_bytes
            at += sector_bytes

    def whole_sectors(self, offset: int, size: int) -> int:
        """The size of the sectors that hold `size` bytes from the begin of a sector on."""
        if not size:
            return 0
        begin, sector_bytes = self.sector_at(offset + size - 1)
        return begin + sector_bytes - offset

    def largest_sector(self, offset: int, size: int) -> int:
        """The largest sector of a range."""
        return max(sector_bytes for _, sector_bytes in self.sectors_of(offset, size))

    def words(self, size: int) -> int:
        """A size on the word grid."""
        return size + -size % self.word_bytes
