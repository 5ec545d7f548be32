"""Plans as plain JSON values and back: what the database keeps, the socket carries and plan files say.

Only what differs from the default is written. Reading is strict: an unknown field, a wrong type or a value that cannot
be used raises `PlanError`, which knows where in the plan that was, as `("stages", 0, "success", "share")`.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import Plan

P = TypeVar("P")

Path = tuple[str | int, ...]

_SHOWN: Final = 40
_PART: Final = re.compile(r"\w+|\[[0-9]+\]")
_SENTENCE: Final = re.compile(r"plan: (\w+(?:\.\w+|\[[0-9]{1,9}\])*): (.*)", re.DOTALL)


class PlanError(InvalidInput):
    """A plan that cannot be used; `path` says where."""

    def __init__(self, path: Path, message: str) -> None:
        where = path_text(path)
        super().__init__(f"plan: {where}: {message}" if where else f"plan: {message}")
        self.path = path
        self.problem = message


def path_text(path: Path) -> str:
    """`stages[0].success.share`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def said_of_plan(sentence: str) -> tuple[Path | None, str]:
    """The path and the rest of a PlanError's sentence, which may have come over a socket; None where it is another."""
    found = _SENTENCE.match(sentence)
    if found is None:
        return None, sentence
    parts = _PART.findall(found[1])
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts), found[2]


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values, without what is as by default."""
    return record_json(plan)


def plan_from(value: Mapping[str, Any]) -> Plan:
    """The reverse of `plan_json`; raises PlanError."""
    return record_from(Plan, value, ())


def record_json(record: Any) -> dict[str, Any]:
    """A record of a plan, or one like it, as plain JSON values."""
    found: dict[str, Any] = {}
    for one in fields(record):
        value = getattr(record, one.name)
        if value != _default_of(one):
            found[one.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return record_json(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _default_of(one: Field[Any]) -> Any:
    return one.default_factory() if callable(one.default_factory) else one.default


def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}


def record_from(kind: type[P], value: Any, path: Path) -> P:
    """A record of a plan from plain JSON values; raises PlanError."""
    if not isinstance(value, Mapping):
        raise PlanError(path, f"must be a table, not {_name_of(value)}")
    hints = _hints(kind)
    for name in value:
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            meant = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(hints)}"
            raise PlanError((*path, str(name)[:_SHOWN]), f"unknown field{meant}")
    found = {name: _value_from(hints[name], given, (*path, name)) for name, given in value.items()}
    required = [name for name in hints if name not in found and _is_required(kind, name)]
    if required:
        raise PlanError((*path, required[0]), "is missing")
    try:
        return kind(**found)
    except PlanError:
        raise
    except InvalidInput as error:
        raise PlanError(path, str(error)) from error


def _is_required(kind: Any, name: str) -> bool:
    one = next(one for one in fields(kind) if one.name == name)
    return one.default is MISSING and one.default_factory is MISSING


def _value_from(hint: Any, value: Any, path: Path) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin is UnionType or NoneType in options:
        if value is None and NoneType in options:
            return None
        return _value_from(next(option for option in options if option is not NoneType), value, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise PlanError(path, f"must be a list, not {_name_of(value)}")
        return tuple(_value_from(options[0], item, (*path, number)) for number, item in enumerate(value))
    if isinstance(hint, type) and is_dataclass(hint):
        return record_from(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _member(hint, value, path)
    return _simple(hint, value, path)


def _member(kind: type[StrEnum], value: Any, path: Path) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        close = difflib.get_close_matches(str(value), [one.value for one in kind], n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        shown = str(value)[:_SHOWN]
        raise PlanError(path, f"{shown!r} is not one of {', '.join(one.value for one in kind)}{meant}") from None


def _simple(hint: Any, value: Any, path: Path) -> Any:
    kind = getattr(hint, "__supertype__", hint)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    wanted = {bool: "true or false", float: "a number", int: "a whole number", str: "text"}[kind]
    raise PlanError(path, f"must be {wanted}, not {_name_of(value)}")


def _name_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return f"{value!r:.40}"
