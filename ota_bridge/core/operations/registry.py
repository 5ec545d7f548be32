"""Every command by name, with typed arguments: where operations are registered, checked and run.

`perform` checks the arguments against the signature and runs the operation inside a unit of work; CLI, socket and REST
all go through it, so each says the same. Reads change nothing and may run on a read-only unit of work.
Raises NotFound, Conflict or InvalidInput; nothing is changed then.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin, get_type_hints

from ota_bridge.core.bridge import Bridge
from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.messages import Output
from ota_bridge.core.people import Role
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import Now


@dataclass(slots=True, kw_only=True)
class Context:
    """What an operation works with."""

    unit: UnitOfWork
    now: Now
    actor: str
    """The user of the process at the other end of the socket."""
    bridge: Bridge
    updates: Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A command: `writes` False means it runs on a read-only unit of work too; `role` is what its actor needs."""

    name: str
    function: Callable[..., Any]
    writes: bool
    role: Role
    summary: str


OPERATIONS: Final[dict[str, Operation]] = {}


def operation(name: str, *, writes: bool, role: Role) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the operation of this name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = inspect.getdoc(function) or ""
        OPERATIONS[name] = Operation(
            name=name, function=function, writes=writes, role=role, summary=summary.partition("\n")[0]
        )
        return function

    return register


def perform(
    unit: UnitOfWork, bridge: Bridge, name: str, args: Mapping[str, Any], *, actor: str, now: Now
) -> tuple[Any, list[Output]]:
    """Run one operation; returns its result (plain JSON values) and what to release after the commit."""
    found = OPERATIONS.get(name)
    if found is None:
        raise NotFound(f"no operation {name[:40]!r}; known are {', '.join(sorted(OPERATIONS))}")
    updates = bridge.updates(unit, now)
    context = Context(unit=unit, now=now, actor=actor, bridge=bridge, updates=updates)
    result = found.function(context, **checked_arguments(found, args))
    return result, updates.outputs


def checked_arguments(operation: Operation, args: Mapping[str, Any]) -> dict[str, Any]:
    """`args` if they fit the operation's signature; raises InvalidInput that names the argument."""
    hints = get_type_hints(operation.function)
    parameters = [p for p in inspect.signature(operation.function).parameters.values() if p.name != "context"]
    known = {parameter.name for parameter in parameters}
    for name in args:
        if name not in known:
            raise InvalidInput(f"{operation.name}: unknown argument {str(name)[:40]!r}; known are {sorted(known)}")
    checked: dict[str, Any] = {}
    for parameter in parameters:
        value = args.get(parameter.name)
        if value is None:
            if parameter.default is inspect.Parameter.empty:
                raise InvalidInput(f"{operation.name}: argument {parameter.name!r} is missing")
            continue
        if not _fits(value, hints[parameter.name]):
            raise InvalidInput(f"{operation.name}: argument {parameter.name!r} has the wrong type")
        checked[parameter.name] = value
    return checked


def _fits(value: object, hint: Any) -> bool:
    options = get_args(hint) if get_origin(hint) is not None and type(None) in get_args(hint) else (hint,)
    for option in options:
        origin = get_origin(option)
        if option is bool and isinstance(value, bool):
            return True
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return True
        if option is str and isinstance(value, str):
            return True
        if origin is list and isinstance(value, list):
            return all(_fits(item, get_args(option)[0]) for item in value)
        if origin is dict and isinstance(value, dict):
            return all(isinstance(key, str) for key in value)
    return False
