"""Values that nobody would write, each from its seed: food for decoders.

A property test that draws such a value piece by piece spends its time on drawing. So it draws a seed, and has a hundred
times as many for the same time; a failure names the seed.
"""

import string
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

SEEDS = st.integers(0, 2**48)

_EDGES = sorted({(1 << bits) + off for bits in (0, 3, 5, 7, 8, 15, 16, 31, 32, 33, 48, 63, 64) for off in (-1, 0, 1)})
_FLOATS = (0.0, -0.0, 1.5, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"))
_LETTERS = string.ascii_letters + string.digits + ' ._/+#{}[]",:\\\0\n\x7fäß€\u200b\ud7ff\ufffd\U0001f600'

Leaf = Callable[[Random], Any]


def nothing(_rng: Random) -> None:
    """None."""


def boolean(rng: Random) -> bool:
    """True or False."""
    return rng.random() < 0.5


def unsigned(rng: Random) -> int:
    """0 to 2**64-1; often where a length of encoding ends."""
    return min(rng.choice(_EDGES), 2**64 - 1) if rng.random() < 0.5 else rng.getrandbits(rng.randint(1, 64))


def integer(rng: Random) -> int:
    """Of either sign, some beyond 64 bits."""
    return rng.choice((1, -1, 1, -1, 1 << 7)) * unsigned(rng)


def real(rng: Random) -> float:
    """Infinities and NaN included."""
    return rng.choice(_FLOATS) if rng.random() < 0.5 else rng.uniform(-1e6, 1e6)


def text(rng: Random) -> str:
    """Up to 30 characters, some of more than one byte."""
    return "".join(rng.choices(_LETTERS, k=rng.choice((0, 1, 2, 5, 23, 24, 30))))


def binary(rng: Random) -> bytes:
    """Up to 300 bytes; often as many as one byte of length can say."""
    return rng.randbytes(rng.choice((0, 1, 7, 8, 16, 23, 24, 32, 33, 255, 256, 300)))


ANYTHING: Sequence[Leaf] = (nothing, boolean, integer, real, text, binary)


def wild(rng: Random, *, leaves: Sequence[Leaf] = ANYTHING, key: Leaf = text, depth: int = 4) -> Any:
    """A value of lists, maps and leaves, at most so deep."""
    shape = rng.random()
    if not depth or shape < 0.5:
        return rng.choice(leaves)(rng)
    count = rng.choice((0, 1, 1, 2, 3, 5))
    if shape < 0.75:
        return [wild(rng, leaves=leaves, key=key, depth=depth - 1) for _ in range(count)]
    return {key(rng): wild(rng, leaves=leaves, key=key, depth=depth - 1) for _ in range(count)}


def changed(rng: Random, data: bytes) -> bytes:
    """The same with one byte changed, dropped or added."""
    at, how = rng.randrange(len(data) + 1), rng.random()
    put = b"" if how < 0.2 else rng.randbytes(1)
    return data[:at] + put + data[at + (how < 0.8) :]
