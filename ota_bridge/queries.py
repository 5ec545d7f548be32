"""Queries in CEL, the Common Expression Language, by the CEL project's own library: `Queries` of the core.

A text is checked when it is compiled: variables, types, the result, patterns, and how long it can take. What is wrong
is told with its place. Compiled ones are kept. Evaluating raises nothing: a query that cannot be answered for a device,
for want of a key or because it compares text with a number, does not match it.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from cel_expr_python import cel

from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.core.rollout.facts import VARIABLES, Key, Kind
from ota_bridge.core.versions import compare
from ota_bridge.query_tree import Form, asked_keys, check_cost, constant_calls, read_tree

QUERY_MAX_BYTES: Final = 4096
KEPT_MAX: Final = 256
_SAID_MAX: Final = 200
_NAME_MAX: Final = 40
_PLACE: Final = re.compile(
    r"ERROR: <input>:([0-9]+):([0-9]+): (.*?)(?: \(in container ''\))?(?: \[[A-Z_]+\])?$", re.MULTILINE
)
_TOO_DEEP: Final = re.compile("recursion", re.IGNORECASE)
_EXPECTING: Final = re.compile(r"(mismatched input .*?|extraneous input .*?|no viable alternative.*?) expecting .*")
_UNDECLARED: Final = re.compile(r"undeclared reference to '([^']*)'")
_DIGITS: Final = re.compile(r"[0-9]{1,18}(?![0-9])(?=[^0-9]*$)")
_CODE: Final = re.compile(r"^[A-Z_]+: | \[[A-Z_]+\]$")

_TYPES: Final[Mapping[Kind, Any]] = {
    Kind.TEXT: cel.Type.STRING,
    Kind.WHOLE: cel.Type.INT,
    Kind.TRUTH: cel.Type.BOOL,
    Kind.TEXTS: cel.Type.List(cel.Type.STRING),
    Kind.TEXT_BY_NAME: cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
    Kind.WHOLE_BY_NAME: cel.Type.Map(cel.Type.STRING, cel.Type.INT),
    Kind.ANY_BY_NAME: cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
}


@dataclass(frozen=True, slots=True)
class CelQuery:
    """`Query`."""

    text: str
    asked: frozenset[Key]
    _names: tuple[str, ...]
    _expression: Any

    def __call__(self, facts: Mapping[str, Any]) -> bool:
        try:
            # the library takes all over that it is given: 32 attributes cost more than most conditions
            return self._expression.eval(data={name: facts[name] for name in self._names}).value() is True
        except RuntimeError:  # the library's own bound of iterations
            return False


class CelQueries:
    """`Queries`; for any thread."""

    def __init__(self) -> None:
        text = cel.Type.STRING
        self._env = cel.NewEnv(
            variables={name: _TYPES[variable.kind] for name, variable in VARIABLES.items()},
            functions=[
                _function("older", cel.Type.BOOL, _older, text, text),
                _function("newer", cel.Type.BOOL, _newer, text, text),
                _function("number", cel.Type.INT, _number, text),
            ],
        )
        probe = cel.NewEnv(variables={"text": text})
        self._probes = {
            "matches": probe.compile('"".matches(text)'),
            "duration": probe.compile("duration(text) == duration(text)"),
            "timestamp": probe.compile("timestamp(text) == timestamp(text)"),
            "int": probe.compile("int(text) == 0"),
        }
        self._kept: dict[str, CelQuery] = {}
        self._lock = threading.Lock()

    def __call__(self, text: str) -> CelQuery:
        with self._lock:
            found = self._kept.get(text)
            if found is None:
                found = self._compiled(text)
                if len(self._kept) >= KEPT_MAX:
                    del self._kept[next(iter(self._kept))]
                self._kept[text] = found
            return found

    def _compiled(self, text: str) -> CelQuery:
        if not text.strip():
            raise InvalidInput('query: it is empty; every device is "true"')
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.replace("\t", " ").isprintable():
                raise InvalidInput(f"query: line {number} holds characters that cannot be printed")
        if len(text.encode()) > QUERY_MAX_BYTES:
            raise InvalidInput(f"query: {len(text.encode())} bytes; at most {QUERY_MAX_BYTES} are allowed")
        try:
            expression = self._env.compile(text)
        except RuntimeError as error:
            raise InvalidInput(_sentence(text, str(error))) from None
        if expression.return_type() != cel.Type.BOOL:
            kind = str(expression.return_type().name()).lower()
            what = "of any type" if kind == "dyn" else f"a {kind}"
            raise InvalidInput(f"query: its result is {what}, not true or false; compare it with something")
        try:
            tree = read_tree(expression.serialize())
        except Malformed as error:
            raise InvalidInput(f"query: {error}") from error
        check_cost(tree)
        for function, argument in constant_calls(tree):
            self._check_constant(function, argument)
        named = {(node.text or "").removeprefix(".") for node in tree.walk() if node.form is Form.NAME}
        return CelQuery(text, asked_keys(tree), tuple(name for name in VARIABLES if name in named), expression)

    def _check_constant(self, function: str, argument: str) -> None:
        """Raise InvalidInput if a pattern, a time or a number in quotes is none: else it would match no device."""
        probe = self._probes.get(function)
        if probe is not None:
            answer = probe.eval(data={"text": argument})
            if answer.type() == cel.Type.ERROR:
                said = _CODE.sub("", str(answer.value()))
                raise InvalidInput(f"query: {function} cannot take {argument[:40]!r}: {said[:200]}")


def _function(name: str, result: Any, python: Any, *parameters: Any) -> Any:
    overload = cel.Overload(f"ota_bridge_{name}", result, list(parameters), False, python)
    return cel.FunctionDecl(name, [overload])


def _sentence(text: str, error: str) -> str:
    """The first thing that is wrong, with its line and a mark below its place."""
    found = _PLACE.search(error)
    if _TOO_DEEP.search(error):
        return "query: it is nested too deeply, at most 32 levels are allowed; a long sum is nested, too"
    if found is None:
        return f"query: {_CODE.sub('', error).splitlines()[0][:200]}"
    line, column, said = int(found[1]), int(found[2]), _EXPECTING.sub(r"\1", found[3])[:_SAID_MAX]
    undeclared = _UNDECLARED.match(found[3])
    if undeclared is not None:
        name = undeclared[1][:_NAME_MAX]
        near = get_close_matches(name, VARIABLES, n=1)
        said = f"there is no {name!r}; " + (
            f"did you mean {near[0]!r}?" if near else f"known are {', '.join(VARIABLES)}"
        )
    shown = text.split("\n")[line - 1].replace("\t", " ")
    start = max(column - 61, 0)
    mark = " " * (column - 1 - start) + "^"
    return f"query: line {line}, column {column}: {said}\n  {shown[start : start + 100]}\n  {mark}"


# Functions of the language: what they raise makes the query not match, as a missing key does.


def _older(one: str, other: str) -> bool:
    return _ordered(one, other) < 0


def _newer(one: str, other: str) -> bool:
    return _ordered(one, other) > 0


def _ordered(one: str, other: str) -> int:
    order = compare(one, other)
    if order is None:
        raise ValueError("these versions have no order")
    return order


def _number(text: str) -> int:
    """The last digits of a text as a number, for ranges of serials."""
    found = _DIGITS.search(text)
    if found is None:
        raise ValueError("there is no number in it")
    return int(found[0])
