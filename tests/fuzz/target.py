"""What a fuzz target is: something that reads bytes which somebody else chose, and the rules it has to keep.

`read` takes any bytes. It returns when they were taken and their meaning holds what is promised (it writes back to the
same value, both programs agree), raises one of `refusals` when they were refused as they should be, and anything else
is a finding: an AssertionError for a promise that does not hold, any other exception for one that leaves a decoder.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import Form

CORPUS = Path(__file__).parent / "corpus"
SLOW_S = 0.010
PEAK_BYTES = 64 * 1024
_HEAD = struct.Struct(">BH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One decoder, or several that read the same bytes and must agree."""

    name: str
    about: str
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    words: tuple[bytes, ...] = ()
    forms: tuple[Form, ...] = ()
    max_bytes: int = 9_000
    one_in: int = 1  # inputs of the others for one of this: those that build a whole world each time
    slow_s: float = SLOW_S
    peak_bytes: int = PEAK_BYTES
    bytes_per_byte: int = 32  # of memory at the peak, for each byte of input, beside `peak_bytes`

    @property
    def seeds(self) -> list[bytes]:
        """Its corpus, in the order of its names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]

    def share(self, count: int) -> int:
        """How many inputs it gets where the others get `count`."""
        return max(20, count // self.one_in)


def framed(messages: Iterable[tuple[int, bytes]]) -> bytes:
    """Several messages, each of a kind, as one input."""
    return b"".join(_HEAD.pack(kind, len(payload)) + payload for kind, payload in messages)


def unframed(data: bytes, most: int = 64) -> Iterator[tuple[int, bytes]]:
    """The reverse, for any bytes: a length that lies takes what is there."""
    at = 0
    for _ in range(most):
        if len(data) - at < _HEAD.size:
            return
        kind, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield kind, data[at : at + length]
        at += length


def text_of(data: bytes) -> str:
    """Bytes as text that may hold half surrogate pairs, as environment and command line may."""
    return data.decode("utf-8", "surrogateescape")
