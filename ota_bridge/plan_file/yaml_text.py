"""YAML with places: PyYAML's parser says what stands where, the meaning is made here and is that of JSON.

Tables, lists, text, numbers, true, false, null, as in YAML 1.2's core schema: `yes` and `2:00` are text. No tags, no
anchors, no aliases, no second document: nothing is constructed, and nothing is larger than it is written.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from ota_bridge.core.rollout.plan_json import Path
from ota_bridge.plan_file.marked import DEPTH_MAX, Document, Mark, Unreadable

_WORDS: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,30}")
_NUMBER: Final = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,4})?")


def read_yaml(text: str) -> Document:
    """The document of a text; raises Unreadable."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise Unreadable(mark, f"not valid YAML: the character U+{error.character:04X} is not allowed") from error
    _bound_brackets(loader)
    try:
        return _Composer(loader).document
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark or loader.get_mark())
        about = ": ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(mark, f"not valid YAML: {about}") from error
    except (ValueError, OverflowError) as error:  # escapes beyond Unicode, numbers of thousands of digits
        raise Unreadable(_mark(loader.get_mark()), f"not valid YAML: {error}") from error


def _bound_brackets(loader: Any) -> None:
    """Refuse the bracket that is too deep as it is read: PyYAML's scanner looks ahead, at the square of the depth."""
    enter = loader.fetch_flow_collection_start

    def fetch(kind: Any) -> None:
        if loader.flow_level >= DEPTH_MAX:
            raise Unreadable(_mark(loader.get_mark()), f"nested deeper than {DEPTH_MAX}")
        enter(kind)

    loader.fetch_flow_collection_start = fetch


def _mark(found: Any) -> Mark:
    return Mark(found.line + 1, found.column + 1)


class _Composer:
    """Makes a document of the parser's events."""

    def __init__(self, loader: Any) -> None:
        self.document = Document()
        self._events: Iterator[Any] = iter(loader.get_event, None)
        next(self._events)  # the stream begins
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return
        event = next(self._events)
        if not isinstance(event, yaml.MappingStartEvent):
            raise Unreadable(_mark(event.start_mark), "must be a table: `key: value` on each line")
        self.document.value = self._value(event, ())
        next(self._events)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise Unreadable(_mark(event.start_mark), "a second document: a file holds one plan")

    def _value(self, event: Any, path: Path) -> Any:
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise Unreadable(mark, "anchors and aliases (& and *) are not allowed; write the value out")
        if event.tag is not None:
            raise Unreadable(mark, "tags (!) are not allowed; put text that begins with ! in quotes")
        if isinstance(event, yaml.MappingStartEvent):
            return self._table(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return _scalar(event.value) if event.implicit[0] and event.style is None else event.value

    def _table(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            mark = _mark(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                raise Unreadable(mark, "a key must be a word")
            key = str(event.value)
            if event.anchor is not None or event.tag is not None:
                raise Unreadable(mark, "a key has neither tag nor anchor")
            if key in found:
                first = self.document.mark((*path, key), of_key=True)
                raise Unreadable(mark, f"{key[:40]!r} stands twice; it is on line {first.line}, too")
            event = next(self._events)
            self.document.note((*path, key), mark, _mark(event.start_mark))
            found[key] = self._value(event, (*path, key))
        return found

    def _list(self, path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            mark = _mark(event.start_mark)
            self.document.note((*path, len(found)), mark, mark)
            found.append(self._value(event, (*path, len(found))))
        return found


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text
