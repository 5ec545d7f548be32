"""Plain values that know where in a file they stand, and what is told of one that cannot be used.

A mark is a place in the text: line and column, from 1. A path is the way to a value, as `("stage", 0, "name")`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan_json import Path

FILE_MAX_BYTES: Final = 256 * 1024
DEPTH_MAX: Final = 16
NODES_MAX: Final = 10_000
PROBLEMS_MAX: Final = 20

_SHOWN_MAX: Final = 120
"""Characters of a line that are shown; of a longer one those around the place."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text."""

    line: int
    column: int


START: Final = Mark(1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a file."""

    mark: Mark
    message: str
    source: str
    """The line itself."""

    def shown(self, file: str) -> str:
        """Place and sentence, the line, and a caret below the place."""
        number, column = str(self.mark.line), self.mark.column - 1
        first = max(0, column - _SHOWN_MAX * 2 // 3) if len(self.source) > _SHOWN_MAX else 0
        cut = self.source[first : first + _SHOWN_MAX].replace("\t", " ")
        head = f"{file}:{self.mark.line}:{self.mark.column}: {self.message}"
        caret = " " * (len(number) + column - first) + "^"
        return f"{head}\n  {number} | {cut}\n     {caret}"


class PlanFileError(InvalidInput):
    """A plan file that cannot be used; `problems` are in the order of their places, at most 20."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        told = sorted(problems, key=lambda one: (one.mark.line, one.mark.column))
        self.file = file
        self.problems = tuple(told)
        first = told[0]
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        super().__init__(f"{file}:{first.mark.line}:{first.mark.column}: {first.message}{more}")

    def shown(self) -> str:
        """All of it, for people."""
        most = [f"no more than {PROBLEMS_MAX} are told at a time"] if len(self.problems) == PROBLEMS_MAX else []
        return "\n".join([*(problem.shown(self.file) for problem in self.problems), *most])


class Unreadable(InvalidInput):
    """A text that is not of its format, or beyond the bounds; `mark` says where that was noticed."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark


@dataclass(slots=True)
class Document:
    """A text that was read: its value, and where each part of it stands."""

    value: dict[str, Any] = field(default_factory=dict)
    keys: dict[Path, Mark] = field(default_factory=dict)
    """Where the key of a value begins; of an item of a list, where the item does."""
    values: dict[Path, Mark] = field(default_factory=dict)

    def note(self, path: Path, key: Mark, value: Mark) -> None:
        """Keep where a value stands; raises Unreadable beyond the bounds. What was noted first stays."""
        if len(path) > DEPTH_MAX:
            raise Unreadable(key, f"nested deeper than {DEPTH_MAX}")
        if len(self.values) >= NODES_MAX:
            raise Unreadable(key, f"more than {NODES_MAX:,} values")
        self.keys.setdefault(path, key)
        self.values.setdefault(path, value)

    def mark(self, path: Path, *, of_key: bool = False) -> Mark:
        """Where that stands, or what is around it."""
        return marked(self.keys if of_key else self.values, path)


def marked(marks: Mapping[Path, Mark], path: Path) -> Mark:
    """The place of a value, or of the nearest around it that has one."""
    for length in range(len(path), 0, -1):
        if path[:length] in marks:
            return marks[path[:length]]
    return START
