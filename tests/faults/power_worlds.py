"""The devices that lose their power: chips, layouts and what happens to them, each ready to be updated.

A world is a device that runs image A (seq 2), with something else of the author in its free slot that it must not
boot: an older image, one for another class, or half of another release. The bridge offers B (seq 3).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from device_sim.chip import Chip
from device_sim.flash import Contents
from device_sim.layout import Layout
from tests.unit.device_sim.device_sim_bridge import Author, payload_for

KIB = 1024
NEWEST = 3  # the seq of B
REPLACED = 5  # the seq of C
TURNS = 12  # clean boots before, so that the settings change their sector at another moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A chip, its layout, and how its firmware fetches."""

    about: str
    layout: Callable[[int], Layout]
    image_bytes: int
    chunk_log2: int = 12
    block_bytes: int = 1024
    window: int = 4
    level: str = "L1"


def _chip(erased_value: int, *runs: tuple[int, int], word: int = 4, page: int = 256) -> Chip:
    return Chip(runs=runs, word_bytes=word, page_bytes=page, erased_value=erased_value)


BOARDS = {
    "even": Board(
        about="sectors of 4 KiB, as most external NOR has them; an update takes 1,100 operations",
        layout=lambda value: Layout.place(_chip(value, (160, 4 * KIB)), (256 * KIB, 256 * KIB)),
        image_bytes=250_001,
        block_bytes=2048,
        window=2,
    ),
    "uneven": Board(
        about="small sectors first and large ones last, a slot over all of them; chunks of several sectors",
        layout=lambda value: Layout.place(
            _chip(value, (18, 2 * KIB), (2, 8 * KIB), (5, 16 * KIB)), (48 * KIB, 48 * KIB), slots_last=True
        ),
        image_bytes=40_003,
        chunk_log2=15,
    ),
    "unequal": Board(
        about="slots of different size; several chunks to a sector, and a chunk list of several sectors",
        layout=lambda value: Layout.place(_chip(value, (80, 2 * KIB)), (64 * KIB, 44 * KIB)),
        image_bytes=44_000,
        chunk_log2=8,
        block_bytes=300,
        window=3,
    ),
    "small": Board(
        about="a small device: 1 KiB sectors, 64-byte pages, no memory for a chunk list",
        layout=lambda value: Layout.place(_chip(value, (48, KIB), word=8, page=64), (16 * KIB, 16 * KIB)),
        image_bytes=14_999,
        chunk_log2=8,
        block_bytes=64,
        window=8,
        level="L0",
    ),
    "wide": Board(
        about="words of 32 bytes with error correction, one operation each",
        layout=lambda value: Layout.place(_chip(value, (24, 8 * KIB), word=32, page=32), (24 * KIB, 24 * KIB)),
        image_bytes=17_000,
        chunk_log2=8,
        block_bytes=2048,
        window=2,
    ),
    "apart": Board(
        about="the state on small sectors of its own, the images on erase blocks of 32 KiB",
        layout=lambda value: Layout.place(
            _chip(value, (23, KIB), (7, 32 * KIB)), (96 * KIB, 128 * KIB), slots_last=True
        ),
        image_bytes=90_000,
        block_bytes=4096,
        window=2,
    ),
}

AUTHOR = Author()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An image and its signed manifest."""

    image: bytes
    payload: dict
    envelope: bytes
    digest: bytes
    seq: int


@lru_cache(maxsize=64)
def release(seq: int, size_bytes: int, chunk_log2: int, hw: str = "r1") -> Release:
    """A release; half of its image is runs of 0xFF and 0x00, which look like erased flash."""
    rng, image = Random(f"{seq}/{size_bytes}/{hw}"), bytearray()
    while len(image) < size_bytes:
        image += rng.choice((rng.randbytes(1500), rng.randbytes(300), b"\xff" * 900, bytes(900)))
    data = bytes(image[:size_bytes])
    payload = payload_for(data, seq=seq, version=f"1.{seq}.0", chunk_log2=chunk_log2, hw=hw)
    envelope = AUTHOR.envelope(payload)
    return Release(image=data, payload=payload, envelope=envelope, digest=hashlib.sha256(data).digest(), seq=seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A board, an erased value and a story.

    `update`: all goes well. `revert`: B never confirms. `spoiled`: blocks of it arrive damaged. `replaced`: half of
    another image (C) was fetched before it.
    """

    board: str
    erased_value: int
    story: str

    @property
    def name(self) -> str:
        return f"{self.board}/{self.erased_value:02x}/{self.story}"

    @property
    def make(self) -> Board:
        return BOARDS[self.board]

    @property
    def layout(self) -> Layout:
        return _layout(self.board, self.erased_value)

    def release(self, seq: int, hw: str = "r1") -> Release:
        shorter = 0 if seq == NEWEST else 777 * seq  # images differ in size, too
        return release(seq, self.make.image_bytes - shorter, self.make.chunk_log2, hw)


@lru_cache(maxsize=32)
def _layout(board: str, erased_value: int) -> Layout:
    return BOARDS[board].layout(erased_value)


WORLDS = tuple(
    World(board=board, erased_value=value, story=story)
    for story, boards in (
        ("update", tuple(BOARDS)),
        ("revert", ("uneven", "unequal", "small", "apart")),
        ("spoiled", ("unequal", "small", "wide")),
        ("replaced", ("uneven", "unequal", "small")),
    )
    for board in boards
    for value in (0xFF, 0x00)
)


@lru_cache(maxsize=512)
def before(world: World, turn: int) -> Contents:
    """What is in the chip before the update."""
    from tests.faults.power_bench import Bench

    first, second = world.release(1), world.release(2)
    bench = Bench.on_blank_chip(world, first if world.erased_value else second)
    bench.to_the_end()
    if world.erased_value:
        older, bench = bench, Bench.on(world, bench.flash.contents(), offered=second, installed=first)
        older.flash.close()
        bench.to_the_end()
    else:
        bench.flash.probe = None
        foreign, slot = world.release(4, hw="r2"), 1 - bench.storage.settings.active
        bench.storage.prepare(slot, envelope=foreign.envelope, image_bytes=len(foreign.image), list_bytes=0)
        bench.flash.program(world.layout.slots[slot].offset, foreign.image)
    for _ in range(turn):
        bench.power_on()
    if world.story == "replaced":
        half, bench = bench, Bench.on(world, bench.flash.contents(), offered=world.release(REPLACED), installed=second)
        half.flash.close()
        bench.go_on(lambda: 2 * bench.device.snapshot().position > len(bench.image), "half of the other image")
    contents = bench.flash.contents()
    bench.flash.close()
    return contents
