"""A mutant: one thing made wrong in the code on purpose, and the tests that must notice.

Each is a file `NN-name.patch` beside this one: a unified diff with two context lines, and before it

    Rule: I2 every report that the bridge acknowledged is in its database
    Caught by: tests/unit/test_gateway.py::test_name tests/…

A rule is one of `tests/faults/families.py` with its key, or a sentence of its own. Every named test must fail.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.faults.families import INVARIANTS

HERE = Path(__file__).parent
_NAME = re.compile(r"\d{2}-[a-z0-9]+(-[a-z0-9]+)*")
_KEY = re.compile(r"(I\d+) (.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One patch; raises ValueError where its head is not what it should be."""

    path: Path
    rule: str
    caught_by: tuple[str, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.path.name} is not named like 01-what-is-wrong.patch")
        if not self.rule or not self.caught_by:
            raise ValueError(f"{self.path.name} needs a line 'Rule: …' and a line 'Caught by: …' before its diff")
        found = _KEY.fullmatch(self.rule)
        if found and INVARIANTS.get(found[1]) != found[2]:
            raise ValueError(f"{self.path.name}: {self.rule!r} is not how tests/faults/families.py has it")

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def breaks(self) -> str:
        """The rule in short: its key, where it has one."""
        found = _KEY.fullmatch(self.rule)
        return found[1] if found else self.rule


def read(path: Path) -> Mutant:
    head = dict.fromkeys(("Rule", "Caught by"), "")
    for line in path.read_text().partition("\ndiff --git ")[0].splitlines():
        key, _, value = line.partition(": ")
        if key in head:
            head[key] = value.strip()
    return Mutant(path=path, rule=head["Rule"], caught_by=tuple(head["Caught by"].split()))


def all_mutants() -> list[Mutant]:
    return [read(path) for path in sorted(HERE.glob("*.patch"))]
