"""How deep and how long msgpack says it is, found without building any of it (msgpack specification, "Formats")."""

from typing import Final

from ota_bridge.core.errors import Malformed

_MAPS: Final = {**{0x80 | count: count for count in range(16)}, 0xDE: 2, 0xDF: 4}
_ARRAYS: Final = {**{0x90 | count: count for count in range(16)}, 0xDC: 2, 0xDD: 4}
_LONG: Final = frozenset({0xDC, 0xDD, 0xDE, 0xDF})
_FIXED_BYTES: Final = {
    **dict.fromkeys((0xCC, 0xD0), 1),
    **dict.fromkeys((0xCD, 0xD1), 2),
    **dict.fromkeys((0xCA, 0xCE, 0xD2), 4),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), 8),
    **{0xA0 | length: length for length in range(32)},
    **{0xD4 + power: 1 + (1 << power) for power in range(5)},
}
"""How much follows the first byte of a scalar, 0 where it is not listed."""
_COUNTED_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""How long the length is that follows the first byte of binary, text and extensions."""
_EXTENSIONS: Final = frozenset({0xC7, 0xC8, 0xC9})


def check_nesting(data: bytes, max_depth: int, max_items: int) -> None:
    """Refuse what is nested too deep or has too many items; what is wrong in another way is left to the reader."""
    open_items: list[int] = []  # what is still to come of each map and array that is open
    at, left, end = 0, max_items, len(data)
    while at < end:
        first = data[at]
        at += 1
        if first in _MAPS or first in _ARRAYS:
            count = (_MAPS if first in _MAPS else _ARRAYS)[first]
            if first in _LONG:
                count, at = int.from_bytes(data[at : at + count], "big"), at + count
            left -= count
            if len(open_items) >= max_depth:
                raise Malformed(f"msgpack: nested deeper than {max_depth}")
            if left < 0:
                raise Malformed(f"msgpack: more than {max_items} items")
            open_items.append(2 * count if first in _MAPS else count)
        elif first in _COUNTED_BYTES:
            width = _COUNTED_BYTES[first]
            at += width + int.from_bytes(data[at : at + width], "big") + (first in _EXTENSIONS)
        else:
            at += _FIXED_BYTES.get(first, 0)
        while open_items and not open_items[-1]:
            open_items.pop()
        if not open_items:
            return
        open_items[-1] -= 1
