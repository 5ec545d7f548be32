"""CBOR as a small C decoder on a device takes it: lenient where that is, deaf where that is.

Taken: keys of maps in any order, numbers in any width, maps and arrays of indefinite length, tags and floats in places
that nobody reads. A tagged value, a float and a text or byte string in chunks come out as `UNREADABLE`, because the C
code looks for a plain value and finds none. What is not exactly one item is `Malformed`: the device drops it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from device_sim.errors import Malformed

DEPTH_MAX: Final = 64
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_SIMPLE: Final = {0xF4: False, 0xF5: True, 0xF6: None, 0xF7: None}


class _Unreadable(Enum):
    VALUE = "a tagged value, a float or a string in chunks"


UNREADABLE: Final = _Unreadable.VALUE


def read(data: bytes) -> Any:
    """The one item that fills `data`; raises Malformed."""
    reader = _Reader(data)
    value = reader.item(0)
    if reader.at != len(data):
        raise Malformed("CBOR with bytes after its end")
    return value


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int = 0

    def item(self, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise Malformed("CBOR too deep for the device's stack")
        first = self._take(1)[0]
        if first in _SIMPLE:
            return _SIMPLE[first]
        major, info = first >> 5, first & 0x1F
        count = self._count(info)
        match major:
            case 0 | 1:
                if count is None:
                    raise Malformed("CBOR number of indefinite length")
                return count if major == 0 else -1 - count
            case 2 | 3:
                return self._string(major, count, depth)
            case 4:
                return self._array(count, depth)
            case 5:
                return self._map(count, depth)
            case 6:
                self.item(depth + 1)
        return UNREADABLE

    def _take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise Malformed("CBOR ends in the middle of an item")
        self.at += count
        return piece

    def _count(self, info: int) -> int | None:
        """The number in an item's head; None: of indefinite length."""
        if info < 24:  # noqa: PLR2004  RFC 8949 §3
            return info
        if info == _INDEFINITE:
            return None
        if info > 27:  # noqa: PLR2004  RFC 8949 §3: reserved
            raise Malformed("CBOR head of a reserved form")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _ends(self) -> bool:
        if self.data[self.at : self.at + 1] != bytes([_BREAK]):
            return False
        self.at += 1
        return True

    def _string(self, major: int, count: int | None, depth: int) -> Any:
        if count is None:
            while not self._ends():
                self.item(depth + 1)
            return UNREADABLE
        piece = self._take(count)
        return piece if major == 2 else piece.decode("utf-8", "replace")  # noqa: PLR2004  RFC 8949 §3.1

    def _array(self, count: int | None, depth: int) -> list[Any]:
        if count is None:
            items = []
            while not self._ends():
                items.append(self.item(depth + 1))
            return items
        if count > len(self.data):
            raise Malformed("CBOR array longer than its bytes")
        return [self.item(depth + 1) for _ in range(count)]

    def _map(self, count: int | None, depth: int) -> dict[Any, Any]:
        if count is not None and count > len(self.data):
            raise Malformed("CBOR map longer than its bytes")
        found: dict[Any, Any] = {}
        while not self._ends() if count is None else count > 0:
            key = self.item(depth + 1)
            value = self.item(depth + 1)
            if isinstance(key, str):
                found.setdefault(key, value)  # the C code takes the first that fits
            count = None if count is None else count - 1
        return found
