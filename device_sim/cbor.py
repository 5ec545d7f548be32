"""The deterministic CBOR subset of manifests and tickets: a strict reader, no writer.

Accepted: unsigned integers, byte strings, text, arrays, maps with ascending unsigned keys, null. Everything
else (tags, floats, negative numbers, indefinite lengths, long forms of short numbers, repeated or unsorted
keys, trailing bytes, deeper than `MAX_DEPTH`) is `Malformed`, so that bytes have one meaning and one form.
Nothing is allocated from a length field before the bytes are there.
"""

from dataclasses import dataclass
from typing import Final

from device_sim.errors import Malformed

MAX_DEPTH: Final = 4

type_names: Final = ("uint", "negative", "bytes", "text", "array", "map", "tag", "simple")

Value = int | bytes | str | list["Value"] | dict[int, "Value"] | None


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Malformed("CBOR ends in the middle of a value")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def head(self) -> tuple[int, int]:
        if self.at == len(self.data):
            raise Malformed("CBOR ends in the middle of a value")
        first = self.data[self.at]
        self.at += 1
        major, info = first >> 5, first & 0x1F
        if info < 24:  # noqa: PLR2004  RFC 8949 §3
            return major, info
        if info > 27:  # noqa: PLR2004  RFC 8949 §3: reserved, or indefinite
            raise Malformed("CBOR of indefinite length or a reserved form")
        width = 1 << (info - 24)
        number = int.from_bytes(self.take(width), "big")
        shortest = 24 if width == 1 else 1 << (4 * width)
        if major != 7 and number < shortest:  # noqa: PLR2004  7 is refused by its own name below
            raise Malformed("CBOR number in a longer form than it needs")
        return major, number

    def value(self, depth: int) -> Value:
        major, number = self.head()
        if major == 0:
            return number
        if major == 2:  # noqa: PLR2004  RFC 8949 §3.1
            return self.take(number)
        if major == 3:  # noqa: PLR2004  RFC 8949 §3.1
            return self._text(number)
        if major in {4, 5}:
            if depth == MAX_DEPTH:
                raise Malformed(f"CBOR deeper than {MAX_DEPTH} levels")
            return self._array(number, depth + 1) if major == 4 else self._map(number, depth + 1)  # noqa: PLR2004
        if (major, number) == (7, 22) and self.data[self.at - 1] == 0xF6:  # noqa: PLR2004  null in one byte
            return None
        raise Malformed(f"CBOR type {type_names[major]} is not allowed here")

    def _text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("CBOR text that is not UTF-8") from None

    def _array(self, count: int, depth: int) -> list[Value]:
        if count > len(self.data) - self.at:
            raise Malformed("CBOR array longer than its bytes")
        return [self.value(depth) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[int, Value]:
        if count > len(self.data) - self.at:
            raise Malformed("CBOR map longer than its bytes")
        result: dict[int, Value] = {}
        last = -1
        for _ in range(count):
            key = self.value(depth)
            if not isinstance(key, int) or key <= last:
                raise Malformed("CBOR map keys are not ascending unsigned numbers")
            last = key
            result[key] = self.value(depth)
        return result


def loads(data: bytes) -> Value:
    """Read exactly one value from `data`; anything but the deterministic subset is `Malformed`."""
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise Malformed("CBOR with bytes after its end")
    return value
