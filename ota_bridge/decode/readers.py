"""JSON and msgpack: the libraries build the value, hooks and a walk hold it to the package's rules."""

import json
import math
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import msgpack

from ota_bridge.core.errors import Malformed
from ota_bridge.decode.bounds import U64, MapKeys, check_size, shown
from ota_bridge.decode.nesting import check_nesting

_I64_MIN: Final = -(2**63)
_DIGITS_MAX: Final = 20
_LONG_HEADS: Final = (b"\xdc", b"\xdd", b"\xde", b"\xdf")
_LONG_HEADS_MAX: Final = 8
"""The library lays out an array as long as its head says before it reads the items: above so many bytes that could be
such heads, they are looked at first. Nested, a few thousand bytes would take megabytes."""

_SOUND_MSGPACK: Final[frozenset[type[Any]]] = frozenset({str, int, bytes, bool, type(None)})
"""Its text is strict UTF-8 and its integers have 64 bits: the library has seen to both."""
_SOUND_JSON: Final[frozenset[type[Any]]] = frozenset({bool, type(None)})


def read_json(data: bytes, *, max_bytes: int, max_depth: int = 8, max_items: int = 1024, floats: bool = False) -> Any:
    """Read one JSON value from UTF-8 bytes."""
    check_size(data, max_bytes, "JSON")
    try:
        value = (_JSON_FLOATS if floats else _JSON).decode(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise Malformed(f"JSON: {error.msg} at character {error.pos}") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Malformed(f"JSON: nested deeper than {max_depth}") from None
    # Half a surrogate pair can only come of an escape: UTF-8 has none.
    sound = _SOUND_JSON if b"\\u" in data else _SOUND_JSON | {str}
    _Walk("JSON", max_depth, max_items, MapKeys.TEXT, floats=floats, sound=sound).check(value)
    return value


def _unique_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    try:
        result = dict(pairs)
    except TypeError:
        raise Malformed("a map key must be text or a number") from None
    if len(result) != len(pairs):
        raise Malformed(f"the key {shown(_twice(pairs))} stands twice in one map")
    return result


def _twice(pairs: list[tuple[Any, Any]]) -> Any:
    before: set[Any] = set()
    for key, _ in pairs:
        if key in before:
            return key
        before.add(key)
    return None


def _json_int(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:  # before int(), whose cost grows with the square of the length
        raise Malformed(f"JSON: number {shown(digits)} is out of range")
    return int(digits)


def _json_no_float(text: str) -> NoReturn:
    raise Malformed(f"JSON: {shown(text)} is not an integer")


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_unique_pairs,
    parse_int=_json_int,
    parse_float=_json_no_float,
    parse_constant=_json_no_float,
)
_JSON_FLOATS: Final = json.JSONDecoder(
    object_pairs_hook=_unique_pairs, parse_int=_json_int, parse_constant=_json_no_float
)


def read_msgpack(
    data: bytes,
    *,
    max_bytes: int,
    max_depth: int = 8,
    max_items: int = 1024,
    keys: MapKeys = MapKeys.TEXT,
    floats: bool = False,
) -> Any:
    """Read one msgpack value that fills `data`."""
    check_size(data, max_bytes, "msgpack")
    if sum(map(data.count, _LONG_HEADS)) > _LONG_HEADS_MAX:
        check_nesting(data, max_depth, max_items)
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=False,  # the hook and the walk are stricter
            object_pairs_hook=_unique_pairs,
            max_str_len=max_bytes,
            max_bin_len=max_bytes,
            max_array_len=min(max_items, len(data)),  # an array is laid out before it is read
            max_map_len=max_items,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Malformed(f"msgpack: {str(error)[:80] or type(error).__name__}") from None
    _Walk("msgpack", max_depth, max_items, keys, floats=floats, sound=_SOUND_MSGPACK).check(value)
    return value


class _Walk:
    """Checks a built value against the bounds and types that its library cannot be told."""

    __slots__ = ("_floats", "_format", "_keys", "_left", "_max_depth", "_max_items", "_sound")

    def __init__(
        self,
        format_name: str,
        max_depth: int,
        max_items: int,
        keys: MapKeys,
        *,
        floats: bool,
        sound: frozenset[type[Any]],
    ) -> None:
        """Of the types in `sound` every value is allowed, whatever it is."""
        self._format = format_name
        self._max_depth = max_depth
        self._max_items = self._left = max_items
        self._keys = keys
        self._floats = floats
        self._sound = sound

    def check(self, value: object, depth: int = 0) -> None:
        # Most values need no look, and a call for each of them would cost more than the reading.
        if isinstance(value, dict):
            self._enter(len(value), depth)
            self._check_keys(value)
            inside: Iterable[object] = value.values()
        elif isinstance(value, list):
            self._enter(len(value), depth)
            inside = value
        else:
            self._check_scalar(value)
            return
        sound = self._sound
        for item in inside:
            kind = type(item)
            if kind in sound:
                continue
            if kind is dict or kind is list:
                self.check(item, depth + 1)
            else:
                self._check_scalar(item)

    def _check_scalar(self, value: object) -> None:
        if isinstance(value, str):
            self._check_text(value)
        elif type(value) is int:
            if not _I64_MIN <= value <= U64:
                raise Malformed(f"{self._format}: number {shown(value)} is out of range")
        elif isinstance(value, float):
            if not self._floats or not math.isfinite(value):
                raise Malformed(f"{self._format}: the number {shown(value)} is not allowed")
        elif type(value) not in (bytes, bool, type(None)):
            raise Malformed(f"{self._format}: extension types are not allowed")

    def _enter(self, count: int, depth: int) -> None:
        if depth >= self._max_depth:
            raise Malformed(f"{self._format}: nested deeper than {self._max_depth}")
        self._left -= count
        if self._left < 0:
            raise Malformed(f"{self._format}: more than {self._max_items} items")

    def _check_keys(self, value: dict[Any, Any]) -> None:
        takes_text, is_sound = self._keys is not MapKeys.UINT, str in self._sound
        for key in value:
            if type(key) is str and takes_text:
                if not is_sound:
                    self._check_text(key)
            elif type(key) is not int or self._keys is MapKeys.TEXT or (self._keys is MapKeys.UINT and key < 0):
                raise Malformed(f"{self._format}: a map key must be {self._keys.value}, not {shown(key)}")

    def _check_text(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Malformed(f"{self._format}: text {shown(text)} holds half a surrogate pair") from None
