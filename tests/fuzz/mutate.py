"""Hostile inputs by a seed: damaged copies of good ones, as bytes and, where the form is known, as trees.

A mutator works on a list of good inputs (the corpus) and a dictionary of words that the decoder looks for. The same
seed gives the same inputs on every machine: nothing here depends on hashes, clocks or set order.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import cbor2
import msgpack

DEEP = 2_000  # nested deeper than any stack
BIG_NUMBERS = (
    *(
        0,
        1,
        2,
        7,
        8,
        15,
        16,
        17,
        23,
        24,
        31,
        32,
        33,
        63,
        64,
        127,
        128,
        255,
        256,
        257,
        1023,
        1024,
        1025,
        4095,
        4096,
        8191,
    ),
    *(8192, 16_384, 32_767, 32_768, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63),
    2**64 - 1,
)
NUMBER_TEXTS = (
    b"-1",
    b"0",
    b"00",
    b"-0",
    b"1e9",
    b"0x10",
    b"1_0",
    b"NaN",
    b"1e999",
    b"9" * 20,
    b"9" * 400,
    b"9" * 5000,
)
WHITESPACE = (b" ", b"\n", b"\r\n", b"\t", b"\0", b"\xc2\x85", b"\xef\xbb\xbf")
STRANGE_TEXTS = (
    *(
        "",
        "\0",
        "a" * 33,
        "a" * 65,
        "é",
        "\ud800",
        "\x1b[2J",
        "\x9b2J",
        "\u202e",
        "../..",
        "+",
        "#",
        "$ota/x",
        "💥" * 20,
    ),
    *("NaN", "-1", "1.5", "1e3", "007", "9" * 30, "A" * 300, "null", "\u2028", "\x7f"),
)


@dataclass(frozen=True, slots=True)
class Form:
    """How trees become bytes and back, for inputs that are nearly right: what damaged bytes alone hardly ever are."""

    name: str
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]

    def tree(self, data: bytes) -> Any:
        """What these bytes are in this form, or None."""
        try:
            return self.read(data)
        except Exception:  # of other libraries, which raise anything at damaged bytes: cbor2 alone ten kinds of error
            return None


@dataclass(frozen=True, slots=True)
class Nested:
    """Bytes inside a tree that are a tree of their own, as the payload of an envelope is."""

    value: Any


def _read_cbor(data: bytes) -> Any:
    value = cbor2.loads(data)
    return _opened(value) if isinstance(value, list) else value


def _opened(value: list[Any]) -> list[Any]:
    """The payload at the head of an envelope as a tree."""
    if value and isinstance(value[0], bytes) and len(value[0]) > 40:
        payload = cbor2.loads(value[0])
        if isinstance(payload, dict):
            return [Nested(payload), *value[1:]]
    return value


def _write_cbor(value: Any) -> bytes:
    return cbor2.dumps(value, default=_write_nested)


def _write_nested(encoder: Any, nested: Any) -> None:
    encoder.encode(_write_cbor(nested.value))


def _write_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode("utf-8", "surrogatepass")


JSON = Form("json", json.loads, _write_json)
MSGPACK = Form("msgpack", lambda data: msgpack.unpackb(data, strict_map_key=False), msgpack.packb)
CBOR = Form("cbor", _read_cbor, _write_cbor)


def bombs(max_bytes: int) -> Iterator[bytes]:
    """A few bytes that mean much: deep, wide, and the same many times over."""
    wide = range(1_000)
    for piece in (
        b"[",
        b'{"a":',
        b"[],",
        b"\x91",
        b"\x9f",
        b"\x81\x01",
        b"\xdc\x04\x00",
        b"\xde\x04\x00\xa1a",
        b"\x81\x00",
    ):
        yield (piece * max_bytes)[:max_bytes]
    yield (b"{" + b",".join(b'"%d":1' % number for number in wide) + b',"999":1}')[:max_bytes]
    yield (b"[" + b"[]," * (max_bytes // 3))[: max_bytes - 1] + b"]"
    yield (b"\xde\x03\xe9" + b"".join(msgpack.packb(str(number)) + b"\xc0" for number in (*wide, 999)))[:max_bytes]
    yield (b"\xb9\x03\xe8" + b"".join(cbor2.dumps(number) + b"\xf6" for number in wide))[:max_bytes]
    yield b"9" * max_bytes
    yield bytes(max_bytes)


class Mutator:
    """An endless row of inputs. `grown` inputs (given back by the caller) are mutated further, too."""

    def __init__(
        self, seeds: Sequence[bytes], words: Sequence[bytes], *, seed: int, max_bytes: int, forms: Sequence[Form] = ()
    ) -> None:
        self._rng = Random(seed)
        self._seeds = sorted((seed[:max_bytes] for seed in seeds), key=len) or [b""]  # small ones are taken more often
        self._words = [*words, *WHITESPACE, *NUMBER_TEXTS]
        self._max_bytes = max_bytes
        self._trees = [
            (form, tree) for seed in self._seeds for form in forms if (tree := _tree(form, seed)) is not None
        ]

    def next(self) -> bytes:
        """One more input, of at most `max_bytes`."""
        random = self._rng.random
        if self._trees and random() < 0.2:
            data = self._from_tree()
            if random() < 0.8:
                return data[: self._max_bytes]
        else:
            seeds = self._seeds
            data = seeds[int(random() * random() * len(seeds))]
        changes = _CHANGES
        for _ in range(_HOW_OFTEN[int(random() * len(_HOW_OFTEN))]):
            data = changes[int(random() * len(changes))](self, data)
        return data[: self._max_bytes]

    # --- trees -------------------------------------------------------------------------------------------

    def _from_tree(self) -> bytes:
        random = self._rng.random
        form, tree = self._trees[int(random() * random() * len(self._trees))]
        for _ in range(1 + int(random() * 3)):
            tree = self._changed(tree)
        try:
            return form.write(tree)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return json.dumps(str(tree)[:50]).encode()

    def _changed(self, node: Any) -> Any:
        """A copy with one place changed; the way down is random, so most changes are near the leaves."""
        random = self._rng.random
        if isinstance(node, Nested):
            return Nested(self._changed(node.value)) if random() < 0.9 else self._leaf()
        if isinstance(node, dict) and node and random() < 0.85:
            return self._changed_map(node)
        if isinstance(node, list) and node and random() < 0.85:
            at = int(random() * len(node))
            match int(random() * 8):
                case 0:
                    return node[:at] + node[at + 1 :]
                case 1:
                    return [*node[:at], node[at], *node[at:]]
                case 2:
                    return node * (2 + int(random() * (4 if random() < 0.9 else 40)))
                case _:
                    return [*node[:at], self._changed(node[at]), *node[at + 1 :]]
        return self._near(node) if random() < 0.5 else self._leaf()

    def _changed_map(self, node: dict[Any, Any]) -> dict[Any, Any]:
        random = self._rng.random
        keys = list(node)
        key = keys[int(random() * len(keys))]
        copy = dict(node)
        match int(random() * 8):
            case 0:
                del copy[key]
            case 1:
                copy[self._key(key)] = copy.pop(key)
            case 2:
                copy[self._key(key)] = self._leaf()
            case 3:
                copy[key] = node[keys[int(random() * len(keys))]]
            case _:
                copy[key] = self._changed(node[key])
        return copy

    def _key(self, key: Any) -> Any:
        if isinstance(key, int) and self._rng.random() < 0.8:
            return int(self._rng.random() * 26)
        texts = STRANGE_TEXTS
        return texts[int(self._rng.random() * len(texts))]

    def _leaf(self) -> Any:
        random = self._rng.random
        match int(random() * 9):
            case 0:
                return BIG_NUMBERS[int(random() * len(BIG_NUMBERS))]
            case 1:
                return -BIG_NUMBERS[int(random() * 20)]
            case 2:
                return STRANGE_TEXTS[int(random() * len(STRANGE_TEXTS))]
            case 3:
                return self._rng.randbytes(_LENGTHS[int(random() * len(_LENGTHS))])
            case 4:
                return (None, True, False, 1.5, float("inf"))[int(random() * 5)]
            case 5:
                return [self._leaf() for _ in range(int(random() * 4))]
            case 6:
                return {self._key("a"): self._leaf() for _ in range(int(random() * 4))}
            case 7:
                return _nested(1 + int(random() * 12))
            case _:
                return int(random() * 256)

    def _near(self, node: Any) -> Any:
        random = self._rng.random
        if isinstance(node, bool) or node is None:
            return not node
        if isinstance(node, int):
            return node + int(random() * 5) - 2
        if isinstance(node, bytes):
            return (
                self._bit(node)
                if random() < 0.7
                else node[: int(random() * (len(node) + 1))] + b"\0" * int(random() * 3)
            )
        if isinstance(node, str):
            at = int(random() * (len(node) + 1))
            extra = STRANGE_TEXTS[int(random() * len(STRANGE_TEXTS))]
            return node[:at] + extra + node[at:] if random() < 0.5 else node[:at]
        return self._leaf()

    # --- bytes -------------------------------------------------------------------------------------------

    def _bit(self, data: bytes) -> bytes:
        if not data:
            return b"\x80"
        random = self._rng.random
        at = int(random() * len(data))
        return data[:at] + bytes((data[at] ^ 1 << int(random() * 8),)) + data[at + 1 :]

    def _byte(self, data: bytes) -> bytes:
        random = self._rng.random
        at = int(random() * (len(data) + 1))
        return data[:at] + bytes((int(random() * 256),)) + data[at + 1 :]

    def _length_lie(self, data: bytes) -> bytes:
        """A byte that may be a length says a little more or less."""
        if not data:
            return b"\xff"
        random = self._rng.random
        at = int(random() * len(data))
        return data[:at] + bytes(((data[at] + (-2, -1, 1, 2, 64)[int(random() * 5)]) & 0xFF,)) + data[at + 1 :]

    def _number(self, data: bytes) -> bytes:
        random = self._rng.random
        size = (1, 2, 4, 8)[int(random() * 4)]
        number = BIG_NUMBERS[int(random() * len(BIG_NUMBERS))] & (1 << 8 * size) - 1
        at = int(random() * (len(data) + 1))
        kept = at if random() < 0.3 else at + size
        return data[:at] + number.to_bytes(size, "big") + data[kept:]

    def _insert(self, data: bytes) -> bytes:
        random = self._rng.random
        word = self._words[int(random() * len(self._words))]
        at = int(random() * (len(data) + 1))
        kept = at if random() < 0.6 else at + len(word)
        return data[:at] + word + data[kept:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: int(self._rng.random() * (len(data) + 1))]

    def _delete(self, data: bytes) -> bytes:
        start, end = self._range(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        """A piece many times over: nesting, keys that stand twice, long runs."""
        start, end = self._range(data)
        random = self._rng.random
        times = 2 if random() < 0.8 else 1 + int(random() * DEEP)
        times = min(times, 1 + self._max_bytes // max(1, end - start))
        return data[:start] + data[start:end] * times + data[end:]

    def _move(self, data: bytes) -> bytes:
        start, end = self._range(data)
        piece, rest = data[start:end], data[:start] + data[end:]
        at = int(self._rng.random() * (len(rest) + 1))
        return rest[:at] + piece + rest[at:]

    def _splice(self, data: bytes) -> bytes:
        random = self._rng.random
        other = self._seeds[int(random() * len(self._seeds))]
        start = int(random() * (len(other) + 1))
        return data[: int(random() * (len(data) + 1))] + other[start:]

    def _random(self, data: bytes) -> bytes:
        random = self._rng.random
        at = int(random() * (len(data) + 1))
        piece = self._rng.randbytes(_LENGTHS[int(random() * 6)])
        return data[:at] + piece + data[at + (len(piece) if random() < 0.5 else 0) :]

    def _range(self, data: bytes) -> tuple[int, int]:
        random = self._rng.random
        start = int(random() * (len(data) + 1))
        length = 1 + int(random() * (4 if random() < 0.6 else 64))
        return start, min(len(data), start + length)


_LENGTHS = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 255, 256)
_HOW_OFTEN = (1, 1, 1, 1, 2, 2, 3, 5)
_CHANGES: tuple[Callable[[Mutator, bytes], bytes], ...] = (
    *(
        Mutator._bit,
        Mutator._bit,
        Mutator._byte,
        Mutator._length_lie,
        Mutator._number,
        Mutator._insert,
        Mutator._insert,
    ),
    *(Mutator._truncate, Mutator._delete, Mutator._repeat, Mutator._move, Mutator._splice, Mutator._random),
)


def _tree(form: Form, data: bytes) -> Any:
    """The tree of a good input of this form, or None."""
    value = form.tree(data)
    return value if isinstance(value, dict | list | int) else None


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value
