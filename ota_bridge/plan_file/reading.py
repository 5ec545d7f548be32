"""A plan file becomes a release, the devices that are meant, and a Plan; or all problems with it, with their places.

What one value may be `form` says; what values together may be the records say when they are made, in their own words,
which are told in the file's.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import Plan, Stage, Window
from ota_bridge.core.rollout.plan_json import Path, plan_json, said_of_plan
from ota_bridge.plan_file.form import PLAN, Row, Table, Tables, tables
from ota_bridge.plan_file.marked import (
    FILE_MAX_BYTES,
    PROBLEMS_MAX,
    START,
    Document,
    Mark,
    PlanFileError,
    Problem,
    Unreadable,
)
from ota_bridge.plan_file.toml_text import read_toml
from ota_bridge.plan_file.values import Wrong, nearest, shown
from ota_bridge.plan_file.yaml_text import read_yaml

_WHO: Final = frozenset({"to", "percent", "where"})
_STAGE: Final = re.compile(r"stage (\d+)\b")

QueryCheck = Callable[[str], object]
"""Raises InvalidInput for a query that cannot be used."""
WindowCheck = Callable[[Window], object]
"""Raises InvalidInput for a window that never opens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """What a file says. `place` knows where it says it."""

    release: str
    target: Mapping[str, Any]
    """`devices`, `percent` or `where`, as `rollout.start` takes them; empty for all."""
    plan: Plan
    file: str
    document: Document
    lines: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """What `rollout.start` is asked with."""
        return {"release": self.release, **self.target, "plan": plan_json(self.plan)}

    def placed(self, error: InvalidInput) -> InvalidInput:
        """What the daemon says of a plan, at its place in the file; an error that names no part of one as it is."""
        path, message = said_of_plan(str(error))
        if path is None:
            return error
        place = _in_file(PLAN, path)
        mark = self.document.mark(place)
        return PlanFileError(
            self.file, [Problem(mark=mark, message=f"{_name(place)}: {message}", source=_line(self.lines, mark))]
        )


def read_plan_file(path: FilePath, *, query: QueryCheck | None = None, window: WindowCheck | None = None) -> PlanFile:
    """Read a file, YAML by its name (`.yaml`, `.yml`) and TOML otherwise; raises PlanFileError or OSError."""
    with path.open("rb") as file:
        data = file.read(FILE_MAX_BYTES + 1)
    is_yaml = path.suffix.lower() in {".yaml", ".yml"}
    return read_plan_text(data, file=str(path), is_yaml=is_yaml, query=query, window=window)


def read_plan_text(
    data: bytes, *, file: str, is_yaml: bool, query: QueryCheck | None = None, window: WindowCheck | None = None
) -> PlanFile:
    """The same for the bytes of a file; raises PlanFileError."""
    try:
        text = _text(data)
    except Unreadable as error:
        raise PlanFileError(file, [Problem(mark=error.mark, message=str(error), source="")]) from error
    lines = tuple(line.rstrip("\r") for line in text.split("\n"))
    try:
        document = read_yaml(text) if is_yaml else read_toml(text)
    except Unreadable as error:
        source = _line(lines, error.mark)
        raise PlanFileError(file, [Problem(mark=error.mark, message=str(error), source=source)]) from error
    reader = _Reader(document, lines, query, window)
    plan = None
    target: Mapping[str, Any] = {}
    with suppress(_Enough):
        target = reader.target()
        plan = reader.record(PLAN, document.value, ())
    if reader.problems or not isinstance(plan, Plan):
        raise PlanFileError(file, reader.problems)
    release = document.value["release"]
    return PlanFile(release=release, target=target, plan=plan, file=file, document=document, lines=lines)


def _text(data: bytes) -> str:
    if len(data) > FILE_MAX_BYTES:
        raise Unreadable(START, f"larger than {FILE_MAX_BYTES // 1024} KiB; a plan file is not")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        mark = Mark(before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        raise Unreadable(mark, f"not UTF-8: byte 0x{data[error.start]:02x}") from error


def _line(lines: tuple[str, ...], mark: Mark) -> str:
    return lines[mark.line - 1] if mark.line <= len(lines) else ""


class _Enough(Exception):
    """So many problems are known that no more are looked for."""


class _Reader:
    """Reads one document and keeps what is wrong with it."""

    def __init__(
        self, document: Document, lines: tuple[str, ...], query: QueryCheck | None, window: WindowCheck | None
    ) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._lines = lines
        self._query = query
        self._window = window

    def target(self) -> dict[str, Any]:
        """Who is meant: all, a list, or a share and a query."""
        value = self._document.value
        given = [row for row in PLAN.rows if row.key in _WHO and row.key in value]
        if not given:
            self._tell((), 'to is missing: say who is meant by to = "all", a list of devices, percent or where')
        found: dict[str, Any] = {}
        for row in given:
            if row.key != "to" and given[0].key == "to":
                self._tell((row.key,), f"{row.key}: who is meant is said by to already; keep one of them", of_key=True)
                continue
            meant = self._value(row, value[row.key], (row.key,))
            if row.key == "to":
                found |= {} if meant is None else {"devices": list(meant)}
            else:
                found[row.key] = meant
        return found

    def record(self, table: Table, value: Any, path: Path) -> Any:
        """The record of a table; None where something is wrong, which is kept."""
        if not isinstance(value, Mapping):
            self._tell(path, f"{_name(path)}: must be a table, not {shown(value)}")
            return None
        before = len(self.problems)
        for key in value:
            if table.row(key) is None:
                self._unknown(table, key, path)
        found: dict[str, Any] = {}
        for row in table.rows:
            if row.key in value:
                if table is PLAN and row.key in _WHO:
                    continue
                meant = self._value(row, value[row.key], (*path, row.key))
                if row.key not in table.target:
                    found[row.name] = meant
            elif row.required:
                self._tell(path, f"{row.key} is missing: {_allowed(row)}")
        if len(self.problems) > before:
            return None
        return self._made(table, found, path)

    def _made(self, table: Table, found: Mapping[str, Any], path: Path) -> Any:
        try:
            made = table.record(**found)
        except InvalidInput as error:
            self._refused(table, str(error), path)
            return None
        if isinstance(made, Stage | Window) and made.where:
            self._checked(self._query, made.where, (*path, "where"))
        if isinstance(made, Window):
            self._checked(self._window, made, (*path, "cron"))
        return made

    def _value(self, row: Row, given: Any, path: Path) -> Any:
        if isinstance(row.form, Table):
            return self.record(row.form, given, path)
        if isinstance(row.form, Tables):
            return self._several(row.form, given, path)
        try:
            meant = row.form.value(given)
        except Wrong as wrong:
            self._tell(path if wrong.item is None else (*path, wrong.item), f"{row.key}: {wrong}")
            return None
        if path == ("where",):
            self._checked(self._query, meant, path)
        return meant

    def _several(self, form: Tables, given: Any, path: Path) -> tuple[Any, ...] | None:
        if not isinstance(given, list):
            self._tell(path, f"{path[-1]}: must be a list of tables ([[{path[-1]}]] in TOML), not {shown(given)}")
            return None
        if not 1 <= len(given) <= form.most:
            self._tell(path, f"{path[-1]}: {len(given):,} of them; 1 to {form.most} are possible")
            return None
        return tuple(self.record(form.of, one, (*path, number)) for number, one in enumerate(given))

    def _checked(self, check: Callable[[Any], object] | None, value: Any, path: Path) -> None:
        if check is None:
            return
        try:
            check(value)
        except InvalidInput as error:
            self._tell(path, f"{path[-1]}: {error}")

    def _refused(self, table: Table, message: str, path: Path) -> None:
        """A record's own words, told in those of the file, at the value that they begin with."""
        for other in tables():
            for row in other.rows:
                if row.name != row.key and (other is table or "_" in row.name):
                    message = re.sub(rf"\b{row.name}\b", row.key, message)
        first = message.partition(":")[0]
        stage = _STAGE.match(message)
        if table.row(first) is not None:
            path = (*path, first)
        elif table is PLAN and stage is not None:
            path = ("stage", int(stage[1]) - 1)
        else:
            message = f"{_name(path)}: {message}" if path else message
        self._tell(path, message)

    def _unknown(self, table: Table, key: Any, path: Path) -> None:
        known = [row.key for row in table.rows]
        word = str(key)
        meant = next((row.key for row in table.rows if row.name == word), None) or nearest(word, known)
        hint = f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"
        inside = f" in {_name(path)}" if path else ""
        self._tell((*path, key), f"{shown(word)} is not known{inside}; {hint}", of_key=True)

    def _tell(self, path: Path, message: str, *, of_key: bool = False) -> None:
        mark = self._document.mark(path, of_key=of_key)
        self.problems.append(Problem(mark=mark, message=message, source=_line(self._lines, mark)))
        if len(self.problems) == PROBLEMS_MAX:
            raise _Enough


def _allowed(row: Row) -> str:
    return "a table" if isinstance(row.form, Table | Tables) else row.form.allowed


def _name(path: Path) -> str:
    """The innermost word of a path, with its number: `stage 2`."""
    if len(path) > 1 and isinstance(path[-1], int):
        return f"{path[-2]} {path[-1] + 1}"
    return str(path[-1]) if path else "the file"


def _in_file(table: Table, path: Path) -> Path:
    """The path of a value by the words of the file, from one by the fields of the records."""
    if not path:
        return ()
    if isinstance(path[0], int):
        return (path[0], *_in_file(table, path[1:]))
    row = next((row for row in table.rows if row.name == path[0] and row.key not in table.target), None)
    if row is None:
        return path
    inner = row.form.of if isinstance(row.form, Tables) else row.form
    return (row.key, *(_in_file(inner, path[1:]) if isinstance(inner, Table) else path[1:]))
