"""Every command by name, with typed arguments: where operations are registered, checked and run.

`perform` asks who the caller is and whether he may, checks the arguments against the signature and runs the operation
inside a unit of work; CLI, socket and REST all go through it, so each says the same. What writes is recorded in the
audit log, in the same transaction. Reads change nothing and may run on a read-only unit of work.
Raises Forbidden, NotFound, Conflict or InvalidInput; nothing is changed then, who called it has `record_failure` run.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from ota_bridge.core.admission import admitted, claimed
from ota_bridge.core.audit import audit
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.messages import Output
from ota_bridge.core.people import Actor, Caller, Role
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import Now

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Context:
    """What an operation works with."""

    unit: UnitOfWork
    now: Now
    actor: str
    """The name of who acts: the user behind the token, or of the process at the other end of the socket."""
    bridge: Bridge
    updates: Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A command: `writes` False means it runs on a read-only unit of work too; `role` is what its actor needs.

    `first`: an operation with the same arguments that only reads, and refuses whatever this one would. Where a check
    looks at a whole fleet, it is run before this one, and nothing that is to be written waits for it.
    """

    name: str
    function: Callable[..., Any]
    writes: bool
    role: Role
    summary: str
    first: str = ""


OPERATIONS: Final[dict[str, Operation]] = {}


def operation(
    name: str, *, writes: bool, role: Role, first: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the operation of this name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = inspect.getdoc(function) or ""
        OPERATIONS[name] = Operation(
            name=name, function=function, writes=writes, role=role, summary=summary.partition("\n")[0], first=first
        )
        return function

    return register


EDGE: Final[Mapping[str, Role]] = {
    "backup": Role.ADMIN,  # it holds everything, and is written by the daemon's user to any path
    "bridge.status": Role.VIEWER,
    "events": Role.VIEWER,
    "keys.publish": Role.AUTHOR,
    "release.add": Role.AUTHOR,
}
"""What the edge carries out itself, and the role that it needs."""

_KEYS: Final = {"device": "id", "release": "id", "rollout": "id", "token": "name", "user": "name"}
"""What names the subject in the result of an operation of this group."""


def perform(
    unit: UnitOfWork, bridge: Bridge, name: str, args: Mapping[str, Any], *, caller: Caller, now: Now
) -> tuple[Any, list[Output]]:
    """Run one operation; returns its result (plain JSON values) and what to release after the commit."""
    found = OPERATIONS.get(name)
    if found is None:
        raise NotFound(f"no operation {name[:40]!r}; known are {', '.join(sorted(OPERATIONS))}")
    actor = admitted(unit, caller, found.role, name, now)
    context = _context(unit, bridge, actor, now)
    result = found.function(context, **checked_arguments(found, args))
    if found.writes:
        _record(context, actor, name, args, result)
    return result, bridge.finish(context.updates)


def carry_out(
    unit: UnitOfWork,
    bridge: Bridge,
    name: str,
    args: Mapping[str, Any],
    work: Callable[["Context"], T],
    *,
    caller: Caller,
    now: Now,
) -> tuple[T, list[Output]]:
    """Do for one of `EDGE` what `perform` does for an operation: admit, run `work`, record."""
    actor = admitted(unit, caller, EDGE[name], name, now)
    context = _context(unit, bridge, actor, now)
    result = work(context)
    _record(context, actor, name, args, result)
    return result, bridge.finish(context.updates)


def admit(unit: UnitOfWork, name: str, caller: Caller, now: Now) -> Actor:
    """Who acts, if he may do what is called `name`; raises Forbidden, or NotFound where there is no such thing."""
    known = OPERATIONS.get(name)
    role = known.role if known is not None else EDGE.get(name)
    if role is None:
        raise NotFound(f"no operation {name[:40]!r}; known are {', '.join(sorted(OPERATIONS))}")
    return admitted(unit, caller, role, name, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How something ended that was refused. `unrecorded`: so many before it were too many to be written down."""

    code: str
    sentence: str
    unrecorded: int = 0


def record_failure(
    unit: UnitOfWork, name: str, args: Mapping[str, Any], failure: Failure, *, caller: Caller, now: Now
) -> None:
    """Write down what was tried and refused."""
    actor = claimed(unit, caller, now)
    detail: dict[str, Any] = {"args": dict(args), "error": failure.sentence}
    if failure.unrecorded:
        detail["unrecorded"] = failure.unrecorded
    subject = _subject(name, args, None)
    audit(unit, now, name, actor=actor.name, how=actor.how, subject=subject, detail=detail, result=failure.code)


def _context(unit: UnitOfWork, bridge: Bridge, actor: Actor, now: Now) -> Context:
    return Context(unit=unit, now=now, actor=actor.name, bridge=bridge, updates=bridge.updates(unit, now))


def _record(context: Context, actor: Actor, name: str, args: Mapping[str, Any], result: object) -> None:
    detail = {"args": {key: value for key, value in args.items() if value is not None}}
    subject = _subject(name, args, result)
    audit(context.unit, context.now, name, actor=actor.name, how=actor.how, subject=subject, detail=detail)


def _subject(name: str, args: Mapping[str, Any], result: object) -> str:
    """What an operation was about: as its result names it, or else as the caller did."""
    group = name.partition(".")[0]
    key = _KEYS.get(group)
    if key is None:
        return group
    named = result.get(key) if isinstance(result, dict) else args.get(group)
    return f"{group} {named}" if isinstance(named, str) and named else group


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
