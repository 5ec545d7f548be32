"""How Link SDK 4 finds a value in JSON: where the key first stands in quotes, at any depth. It is no parser.

Nothing may stand between key, colon and value; a text ends at the next quote, whatever stands before it; a number, or
whatever else begins with another character, ends at the next comma or closing bracket.
"""

from typing import Final

_ENDS: Final = b",]}"
_DIGITS_THAT_COUNT: Final = 32
"""10 ** 32 is a multiple of 2 ** 32."""
_CLOSING: Final = {ord("{"): ord("}"), ord("["): ord("]")}


def find_value(text: bytes, key: str) -> bytes | None:
    """The value of `key`, quotes taken off; None where the scanner gives up."""
    wanted = b'"' + key.encode() + b'"'
    at = text.find(wanted)
    value_at = at + len(wanted) + 1
    if at < 0 or value_at >= len(text) or text[value_at - 1 : value_at] != b":":
        return None
    first = text[value_at]
    if first == ord('"'):
        end = text.find(b'"', value_at + 1)
        return None if end < 0 else text[value_at + 1 : end]
    if first in _CLOSING:
        return _balanced(text, value_at, first)
    ends = [found for end in _ENDS if (found := text.find(end, value_at)) >= 0]
    return text[value_at : min(ends)] if ends else None


def _balanced(text: bytes, at: int, opening: int) -> bytes | None:
    depth, closing = 0, _CLOSING[opening]
    for index in range(at, len(text)):
        if text[index] == opening:
            depth += 1
        elif text[index] == closing:
            depth -= 1
            if depth == 0:
                return text[at : index + 1]
    return None


def read_uint(digits: bytes | None) -> int | None:
    """Decimal digits as an unsigned 32-bit number, which wraps as in C; None for anything else. No digits are 0."""
    if digits is None or any(not ord("0") <= digit <= ord("9") for digit in digits):
        return None
    return int(digits[-_DIGITS_THAT_COUNT:] or b"0") % 2**32
