"""How the Tencent SDK reads JSON: a scanner that looks for quotes and brackets, undoes no escape and knows no end.

It reads a C string, so bytes that an earlier, longer packet left in the receive buffer are part of what it reads. Never
raises: what it does not find is not there.
"""

from collections.abc import Iterator
from typing import Final

_BLANK: Final = frozenset({b"true", b"TRUE", b"false", b"FALSE", b"null", b"NULL"})
_CLOSES: Final = {b"{": b"}", b"[": b"]"}


def value_of(text: bytes, key: str) -> str | None:
    """The first value that goes by this name; None for null, for an empty one and where there is none."""
    wanted = key.encode()
    for name, value in _pairs(text):
        if name == wanted:
            return None if value in {b"null", b"NULL"} else value.decode("latin-1")
    return None


def _pairs(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of a name and a value that is not empty, strings without quotes."""
    at = len(text) - len(text.lstrip(b" "))
    if text[at : at + 1] != b"{":
        return
    while True:
        opens = text.find(b'"', at)
        closes = text.find(b'"', opens + 1) if opens >= 0 else -1
        colon = text.find(b":", closes) if closes >= 0 else -1
        if colon < 0:
            return
        value, at = _value(text, colon + 1)
        if value:
            yield text[opens + 1 : closes], value


def _value(text: bytes, at: int) -> tuple[bytes, int]:
    """The value that begins at or after `at`, and where the next name is looked for."""
    while at < len(text):
        first = text[at : at + 1]
        if first == b'"':
            return _string(text, at + 1)
        if first in _CLOSES:
            return _nested(text, at)
        if first == b"-" or first.isdigit():
            return _number(text, at)
        if first.lower() in {b"t", b"f", b"n"}:
            word = next((word for word in _BLANK if text.startswith(word, at)), b"")
            return word, at + max(1, len(word))
        at += 1
    return b"", at


def _string(text: bytes, at: int) -> tuple[bytes, int]:
    end = text.find(b'"', at)
    while end > at and text[end - 1 : end] == b"\\":
        end = text.find(b'"', end + 1)
    return (b"", at + 1) if end < 0 else (text[at:end], end + 1)


def _nested(text: bytes, at: int) -> tuple[bytes, int]:
    opens, depth = text[at : at + 1], 0
    for index in range(at, len(text)):
        here = text[index : index + 1]
        if here == opens:
            depth += 1
        elif here == _CLOSES[opens]:
            depth -= 1
            if depth == 0:
                return text[at : index + 1], index + 1
    return b"", len(text)


def _number(text: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1
    while text[end : end + 1].isdigit() or text[end : end + 1] == b".":
        end += 1
    return (text[at:end], end) if end < len(text) else (b"", end)
