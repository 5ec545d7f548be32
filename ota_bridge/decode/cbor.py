"""Deterministic CBOR, the subset that manifests, tickets and some dialects use; read in one pass."""

from typing import Any, Final

from ota_bridge.core.errors import Malformed
from ota_bridge.decode.bounds import MapKeys, check_size, shown


def read_cbor(
    data: bytes,
    *,
    max_bytes: int,
    max_depth: int = 4,
    max_items: int = 64,
    keys: MapKeys = MapKeys.UINT,
    ordered: bool = True,
    scalars: bool = False,
) -> Any:
    """Read one item of deterministic CBOR that fills `data`.

    `ordered=False` takes map keys in any order; `scalars` takes negative numbers, true and false as well.
    """
    check_size(data, max_bytes, "CBOR")
    reader = _CborReader(data, max_depth=max_depth, max_items=max_items, keys=keys, ordered=ordered, scalars=scalars)
    value = reader.item(0)
    if reader.position != len(data):
        raise Malformed(f"CBOR: {len(data) - reader.position} bytes follow the end")
    return value


_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP = 0, 1, 2, 3, 4, 5
_NULL: Final = b"\xf6"
_BOOLEANS: Final = {b"\xf4": False, b"\xf5": True}


class _CborReader:
    __slots__ = ("_data", "_keys", "_left", "_max_depth", "_max_items", "_ordered", "_scalars", "position")

    def __init__(
        self, data: bytes, *, max_depth: int, max_items: int, keys: MapKeys, ordered: bool, scalars: bool
    ) -> None:
        self._data = data
        self._max_depth = max_depth
        self._max_items = self._left = max_items
        self._keys = keys
        self._ordered = ordered
        self._scalars = scalars
        self.position = 0

    def item(self, depth: int) -> Any:
        initial = self._data[self.position : self.position + 1]
        if initial == _NULL or (self._scalars and initial in _BOOLEANS):
            self.position += 1
            return _BOOLEANS.get(initial)
        major, argument = self._head()
        if major == _UINT:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self._take(argument)
        if major == _TEXT:
            return self._text(argument)
        self._enter(argument, depth)
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in range(argument)]
        return self._map(argument, depth)

    def _head(self) -> tuple[int, int]:
        """Major type and argument; refuses what the subset does not have."""
        start = self.position
        if start == len(self._data):
            raise Malformed(f"CBOR: ends inside the item at byte {start}")
        initial = self._data[start]
        self.position = start + 1
        major, info = initial >> 5, initial & 0x1F
        is_number = major == _UINT or (major == _NEGATIVE and self._scalars)
        if not (is_number or _BYTES <= major <= _MAP) or info > 27:  # noqa: PLR2004 - 28..31: RFC 8949 §3
            raise Malformed(f"CBOR: type 0x{initial:02x} at byte {start} is not allowed")
        if info < 24:  # noqa: PLR2004 - RFC 8949 §3: the argument itself
            return major, info
        length = 1 << (info - 24)
        argument = int.from_bytes(self._take(length), "big")
        if argument < (24 if length == 1 else 1 << (4 * length)):
            raise Malformed(f"CBOR: the number at byte {start} is not in its shortest form")
        return major, argument

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise Malformed(f"CBOR: ends inside the item at byte {self.position}")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _text(self, count: int) -> str:
        start = self.position
        try:
            return self._take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"CBOR: the text at byte {start} is not UTF-8") from None

    def _enter(self, count: int, depth: int) -> None:
        if depth >= self._max_depth:
            raise Malformed(f"CBOR: nested deeper than {self._max_depth}")
        self._left -= count
        if self._left < 0:
            raise Malformed(f"CBOR: more than {self._max_items} items")

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        before = b""
        for _ in range(count):
            start = self.position
            key = self._key()
            encoded = self._data[start : self.position]
            if key in result:
                raise Malformed(f"CBOR: key {shown(key)} stands twice in one map")
            if self._ordered and encoded < before:  # bytewise order of the encoded keys: RFC 8949 §4.2.1
                raise Malformed(f"CBOR: key {shown(key)} is out of order")
            before = encoded
            result[key] = self.item(depth + 1)
        return result

    def _key(self) -> int | str:
        start = self.position
        major, argument = self._head()
        if major == _UINT and self._keys is not MapKeys.TEXT:
            return argument
        if major == _TEXT and self._keys is not MapKeys.UINT:
            return self._text(argument)
        raise Malformed(f"CBOR: the map key at byte {start} must be {self._keys.value}")
