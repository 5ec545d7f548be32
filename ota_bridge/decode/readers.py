"""JSON and msgpack: the libraries build the value, hooks and a walk hold it to the package's rules."""

import json
import math
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
    _check(value, "JSON", max_depth, max_items, MapKeys.TEXT, floats=floats, sound=sound)
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
    _check(value, "msgpack", max_depth, max_items, keys, floats=floats, sound=_SOUND_MSGPACK)
    return value


def _check(  # in one call: one for each value would cost more than the reading
    value: object,
    format_name: str,
    max_depth: int,
    max_items: int,
    keys: MapKeys,
    *,
    floats: bool,
    sound: frozenset[type[Any]],
) -> None:
    """Check a built value against the bounds and types that its library cannot be told.

    Of the types in `sound` every value is allowed, whatever it is.
    """
    has_plain_keys = str in sound and keys is not MapKeys.UINT
    left, depth, level = max_items, -1, [value]
    while level:
        depth += 1
        below: list[object] = []
        for one in level:
            kind = type(one)
            if kind in sound:
                continue
            if kind is not dict and kind is not list:
                _check_scalar(one, format_name, floats=floats)
                continue
            if depth >= max_depth:
                raise Malformed(f"{format_name}: nested deeper than {max_depth}")
            left -= len(one)  # type: ignore[arg-type]
            if left < 0:
                raise Malformed(f"{format_name}: more than {max_items} items")
            if kind is list:
                below += one  # type: ignore[arg-type]
                continue
            for key in one:  # type: ignore[attr-defined]
                if type(key) is not str or not has_plain_keys:
                    _check_key(key, format_name, keys)
            below += one.values()  # type: ignore[attr-defined]
        level = below


def _check_scalar(value: object, format_name: str, *, floats: bool) -> None:
    if isinstance(value, str):
        _check_text(value, format_name)
    elif type(value) is int:
        if not _I64_MIN <= value <= U64:
            raise Malformed(f"{format_name}: number {shown(value)} is out of range")
    elif isinstance(value, float):
        if not floats or not math.isfinite(value):
            raise Malformed(f"{format_name}: the number {shown(value)} is not allowed")
    elif type(value) not in (bytes, bool, type(None)):
        raise Malformed(f"{format_name}: extension types are not allowed")


def _check_key(key: object, format_name: str, keys: MapKeys) -> None:
    if isinstance(key, str) and keys is not MapKeys.UINT:
        _check_text(key, format_name)
    elif type(key) is not int or keys is MapKeys.TEXT or (keys is MapKeys.UINT and key < 0):
        raise Malformed(f"{format_name}: a map key must be {keys.value}, not {shown(key)}")


def _check_text(text: str, format_name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{format_name}: text {shown(text)} holds half a surrogate pair") from None
