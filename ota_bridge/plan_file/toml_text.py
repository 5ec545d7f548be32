"""TOML with places: `tomllib` says what a text means, the scanner here where each part of it stands.

The scanner takes more texts than TOML does, so whatever it cannot follow tomllib refuses at that place or before. It
runs first: its bounds on depth and number keep tomllib from what costs it the square of the length.
"""

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress
from typing import Final

from ota_bridge.core.rollout.plan_json import Path
from ota_bridge.plan_file.marked import DEPTH_MAX, START, Document, Mark, Unreadable

_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_TEXTS: Final = (
    re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\[^\n])*"'),
    re.compile(r"'[^'\n]*'"),
)
_WORD: Final = re.compile(r"[^,\]}#\n]+")
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_toml(text: str) -> Document:
    """The document of a text; raises Unreadable."""
    text = text.replace("\r\n", "\n")
    scanner = _Scanner(text)
    with suppress(_Lost):
        scanner.run()
    try:
        scanner.document.value = tomllib.loads(text)
    except ValueError as error:  # also a number of thousands of digits
        found = _PLACE.search(str(error))
        end = scanner.mark(len(text))
        mark = START if found is None else Mark(int(found[1]), int(found[2])) if found[1] else end
        raise Unreadable(mark, f"not valid TOML: {_PLACE.sub('', str(error))}") from error
    return scanner.document


class _Lost(Exception):
    """This is no TOML, or the scanner cannot follow it."""


class _Scanner:
    """Goes through a text once and notes where keys and values begin."""

    def __init__(self, text: str) -> None:
        self.document = Document()
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._tables: dict[Path, int] = {}
        """How many tables `[[…]]` have come under each name."""

    def mark(self, at: int) -> Mark:
        line = bisect_right(self._starts, at)
        return Mark(line, at - self._starts[line - 1] + 1)

    def run(self) -> None:
        base: Path = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._text[self._at] == "[":
                base = self._header()
            else:
                self._pair(base)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, what: str) -> None:
        if not self._text.startswith(what, self._at):
            raise _Lost
        self._at += len(what)

    def _header(self) -> Path:
        start = self.mark(self._at)
        many = self._text.startswith("[[", self._at)
        self._take("[[" if many else "[")
        parts = self._key()
        self._take("]]" if many else "]")
        path: Path = ()
        for number, part in enumerate(parts, start=1):
            path = (*path, part)
            self.document.note(path, start, start)
            if many and number == len(parts):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
                self.document.note(path, start, start)
        return path

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return parts
            if len(parts) > DEPTH_MAX:
                raise Unreadable(self.mark(self._at), f"nested deeper than {DEPTH_MAX}")
            self._at += 1

    def _key_part(self) -> str:
        found = _BARE.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            return found[0]
        for pattern in _TEXTS[2:]:
            found = pattern.match(self._text, self._at)
            if found is not None:
                self._at = found.end()
                return _meant(found[0])
        raise _Lost

    def _pair(self, base: Path) -> None:
        start = self.mark(self._at)
        parts = self._key()
        self._take("=")
        self._skip(_SPACE)
        path = base
        value = self.mark(self._at)
        for part in parts:
            path = (*path, part)
            self.document.note(path, start, value)
        self._value(path)

    def _value(self, path: Path) -> None:
        for pattern in _TEXTS:
            found = pattern.match(self._text, self._at)
            if found is not None:
                self._at = found.end()
                return
        if self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._inline(path)
        else:
            found = _WORD.match(self._text, self._at)
            if found is None:
                raise _Lost
            self._at = found.end()

    def _array(self, path: Path) -> None:
        self._take("[")
        number = 0
        while True:
            self._skip(_BLANK)
            if self._text.startswith("]", self._at):
                break
            place = self.mark(self._at)
            self.document.note((*path, number), place, place)
            self._value((*path, number))
            number += 1
            self._skip(_BLANK)
            if not self._text.startswith(",", self._at):
                break
            self._at += 1
        self._take("]")

    def _inline(self, path: Path) -> None:
        self._take("{")
        while True:
            self._skip(_BLANK)
            if self._text.startswith("}", self._at):
                break
            self._pair(path)
            self._skip(_BLANK)
            if not self._text.startswith(",", self._at):
                break
            self._at += 1
        self._take("}")


def _meant(quoted: str) -> str:
    """The key that is written in quotes."""
    try:
        return str(tomllib.loads(f"key = {quoted}")["key"])
    except ValueError as error:
        raise _Lost from error
