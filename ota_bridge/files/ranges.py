"""The Range header (RFC 9110 §14) as one range: which bytes of a representation a request is for. Pure.

1. `first-last`, `first-` and `-length`; what lies past the end is cut off.
2. Several ranges mean the one that covers them: it holds all that was asked for and begins where the first of them
   does. The whole would begin elsewhere, and whoever appends to a part that he has would append wrong bytes.
3. A header that cannot be read is refused and never ignored, for the same reason. RFC 9110 §14.2 allows either.
4. Another unit than bytes is ignored: so says §14.2.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

SPECS_MAX: Final = 16
_DIGITS_MAX: Final = 20
_UNIT: Final = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(.*)", re.DOTALL)
_SPEC: Final = re.compile(rf"([0-9]{{0,{_DIGITS_MAX}}})-([0-9]{{0,{_DIGITS_MAX}}})")


class NoRange(Enum):
    """What a header means that names no range."""

    WHOLE = auto()
    UNSATISFIABLE = auto()


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, not including, `end`; never empty."""

    start: int
    end: int


def read_range(text: str, size: int) -> Span | NoRange:
    """The range that a header means of `size` bytes."""
    found = _UNIT.fullmatch(text)
    if found is None:
        return NoRange.UNSATISFIABLE
    if found[1].lower() != "bytes":
        return NoRange.WHOLE
    specs = [spec.strip(" \t") for spec in found[2].split(",", SPECS_MAX + 1)]
    specs = [spec for spec in specs if spec]  # a list may have empty elements
    if not specs or len(specs) > SPECS_MAX:
        return NoRange.UNSATISFIABLE
    spans: list[Span] = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or not _is_valid(match[1], match[2]):
            return NoRange.UNSATISFIABLE
        span = _span(match[1], match[2], size)
        if span is not None:
            spans.append(span)
    if not spans:
        return NoRange.UNSATISFIABLE
    return Span(min(span.start for span in spans), max(span.end for span in spans))


def _is_valid(first: str, last: str) -> bool:
    if not first:
        return bool(last)
    return not last or int(first) <= int(last)


def _span(first: str, last: str, size: int) -> Span | None:
    """None where nothing of it is there."""
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    return Span(start, end) if start < end else None
