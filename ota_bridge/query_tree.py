"""What a compiled query is made of: which keys it names, and how many steps it can take at most.

`read_tree` takes what the CEL library writes out of a checked expression: `cel.expr.CheckedExpr` in an `Any`, in the
wire form of Protocol Buffers (cel-spec, `checked.proto` and `syntax.proto`). Only Malformed leaves it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ota_bridge.core.errors import InvalidInput, Malformed

ROUNDS_OF_A_FACT: Final = 64
"""How many elements a list or map of a device is taken to have."""
STEPS_MAX: Final = 20_000
"""Most of what an evaluation may take; each is some 50 ns."""
_DEPTH_MAX: Final = 300
_VARINT_MAX_BYTES: Final = 10
_TABLES: Final = frozenset({"attrs", "versions", "seqs"})
_COUNTED: Final = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")
_ANY_VALUE, _CHECKED_EXPR = 2, 4


class Form(StrEnum):
    """What a node is."""

    CONSTANT = "constant"
    NAME = "name"
    SELECT = "select"
    CALL = "call"
    LIST = "list"
    MAP = "map"
    LOOP = "loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of the tree. `text`: the name, field or function; of a constant its text, None where it is none."""

    form: Form
    text: str | None = None
    children: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """It and all below it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children)


# --- reading -------------------------------------------------------------------------------------------------


def read_tree(data: bytes) -> Node:
    """The tree of a serialized expression; raises Malformed."""
    try:
        return _node(_one(_one(data, _ANY_VALUE), _CHECKED_EXPR), 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise Malformed(f"an expression that cannot be read: {error}") from error


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the fields that hold bytes; the others are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
                yield tag >> 3, b""
            case 1:
                at += 8
                yield tag >> 3, b""
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise Malformed("a field is longer than what is left")
                yield tag >> 3, data[at : at + length]
                at += length
            case 5:
                at += 4
                yield tag >> 3, b""
            case kind:
                raise Malformed(f"a field of the unknown kind {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_VARINT_MAX_BYTES):
        byte = data[at + shift]
        value |= (byte & 127) << (7 * shift)
        if byte < 128:  # noqa: PLR2004 - the bit that says "more"
            return value, at + shift + 1
    raise Malformed("a number is too long")


def _one(data: bytes, number: int) -> bytes:
    for found, content in _fields(data):
        if found == number:
            return content
    raise Malformed(f"field {number} is missing")


def _node(data: bytes, depth: int) -> Node:
    """An `Expr`; its number is passed over."""
    if depth > _DEPTH_MAX:
        raise Malformed("nested too deeply")
    for number, content in _fields(data):
        fields = list(_fields(content)) if number > 2 else []  # noqa: PLR2004 - the number of the node is 2
        below = depth + 1
        match number:
            case 3:
                text = next((value.decode() for field, value in fields if field == 6), None)  # noqa: PLR2004 - string_value
                return Node(form=Form.CONSTANT, text=text)
            case 4:
                return Node(form=Form.NAME, text=_text(fields, 1))
            case 5:
                return Node(form=Form.SELECT, text=_text(fields, 2), children=_nodes(fields, (1,), below))
            case 6:
                return Node(form=Form.CALL, text=_text(fields, 2), children=_nodes(fields, (1, 3), below))
            case 7:
                return Node(form=Form.LIST, children=_nodes(fields, (1,), below))
            case 8:
                entries = [pair for field, entry in fields if field == 2 for pair in _fields(entry)]  # noqa: PLR2004
                return Node(form=Form.MAP, children=_nodes(entries, (3, 4), below))
            case 9:
                parts = _nodes(fields, (2, 4, 5, 6, 7), below)
                if len(parts) != 5:  # noqa: PLR2004 - range, start, condition, step, result
                    raise Malformed("a loop has not its five parts")
                return Node(form=Form.LOOP, children=parts)
            case _:
                pass
    return Node(form=Form.CONSTANT)


def _text(fields: list[tuple[int, bytes]], number: int) -> str:
    return next((value.decode() for field, value in fields if field == number), "")


def _nodes(fields: list[tuple[int, bytes]], numbers: tuple[int, ...], depth: int) -> tuple[Node, ...]:
    return tuple(_node(content, depth) for field, content in fields if field in numbers)


# --- what it says --------------------------------------------------------------------------------------------


def asked_keys(tree: Node) -> frozenset[tuple[str, str]]:
    """The keys of the device's maps that stand in the text: `attrs.x`, `attrs["x"]`, `"x" in attrs`, `has(attrs.x)`."""
    found: set[tuple[str, str]] = set()
    for node in tree.walk():
        match node:
            case Node(form=Form.SELECT, text=str(name), children=(Node(form=Form.NAME, text=str(table)),)):
                found.add((table, name))
            case Node(
                form=Form.CALL,
                text="_[_]",
                children=(Node(form=Form.NAME, text=str(table)), Node(form=Form.CONSTANT, text=str(name))),
            ):
                found.add((table, name))
            case Node(
                form=Form.CALL,
                text="@in",
                children=(Node(form=Form.CONSTANT, text=str(name)), Node(form=Form.NAME, text=str(table))),
            ):
                found.add((table, name))
            case _:
                pass
    return frozenset((table, name) for table, name in found if table in _TABLES)


def constant_calls(tree: Node) -> Iterator[tuple[str, str]]:
    """Functions whose last argument is a text that stands in the query: the function and that text."""
    for node in tree.walk():
        if node.form is Form.CALL and node.children and node.children[-1].form is Form.CONSTANT:
            text = node.children[-1].text
            if node.text is not None and text is not None:
                yield node.text, text


def check_cost(tree: Node) -> None:
    """Raise InvalidInput if an evaluation can take long, whatever the device is."""
    steps = _steps(tree)
    if steps > STEPS_MAX:
        raise InvalidInput(
            f"query: it can take {steps} steps for one device, at most {STEPS_MAX} are allowed; shorten it"
        )


def _steps(node: Node) -> int:
    if node.form is Form.LOOP:
        if any(below.form is Form.LOOP for child in node.children for below in child.walk()):
            raise InvalidInput("query: all, exists, exists_one, filter and map cannot stand inside of one another")
        over, *rest = node.children
        return _steps(over) + _rounds(over) * sum(_steps(child) for child in rest)
    own = 1
    if node.form is Form.CALL and node.text == "matches":
        pattern = node.children[-1] if node.children else node
        if pattern.form is not Form.CONSTANT or pattern.text is None:
            raise InvalidInput("query: the pattern of matches must stand in the query, in quotes")
        own = _pattern_steps(pattern.text)
    return own + sum(_steps(child) for child in node.children)


def _rounds(over: Node) -> int:
    """How often a loop over this goes round at most."""
    return sum(ROUNDS_OF_A_FACT if node.form is Form.NAME else 1 for node in over.walk())


def _pattern_steps(pattern: str) -> int:
    """A counted repetition is so many copies of what it repeats, and those in it are copied, too."""
    steps = len(pattern) + 1
    for least, most in _COUNTED.findall(pattern):
        steps *= max(int((most or least)[:6]), 1)
    return steps
