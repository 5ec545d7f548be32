"""One setting: a typed, bounded, documented field of a configuration record, and how text becomes its value.

`option` declares one in a record, `settings_of` lists those of a record. What the settings are is `config`'s.
"""

import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

from ota_bridge.core.errors import ConfigError
from ota_bridge.wire import parse_broker_url

ENV_PREFIX: Final = "OTA_BRIDGE_"
HIDDEN: Final = "***"

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_WORDS: Final[Mapping[type[Any], str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    Path: "a path",
    str: "text",
}
_BAD: Final = object()
_NAME_MAX: Final = 60
"""No name of a setting is longer; to compare costs the square of the length."""


def option(default: Any, doc: str, *, low: float = -math.inf, high: float = math.inf, secret: bool = False) -> Any:
    """A field of a record that is a setting; `doc` is one line and names the unit."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table. `optional` means that empty text stands for None."""

    name: str
    kind: type[Any]
    optional: bool
    default: Any
    doc: str
    low: float
    high: float
    secret: bool

    @property
    def env_name(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.replace(".", "_").upper()

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        if issubclass(self.kind, StrEnum):
            return "one of " + ", ".join(self.kind)
        word = _WORDS[self.kind]
        if self.high < math.inf:
            return f"{word} {self.low:.12g}..{self.high:.12g}"
        return f"{word} of at least {self.low:.12g}" if self.low > -math.inf else word

    def parse(self, raw: object, origin: str, base: Path, *, typed: bool = False) -> Any:
        """The value of text, or with `typed` of a TOML value; raises ConfigError that names `origin`."""
        if not isinstance(raw, str):
            value = self._from_number(raw)
        elif typed and self.kind in (bool, int, float):
            value = _BAD
        else:
            value = self._from_text(raw, base)
        if value is _BAD:
            shown = HIDDEN if self.secret else repr(raw)[:60]
            raise ConfigError(f"{origin}: {self.name} = {shown} cannot be used; allowed is {self.allowed}")
        return value

    def shown(self, value: object) -> str:
        """`value` as `config show` prints it: no secret, and no password inside a URL."""
        if self.secret:
            return HIDDEN if value else ""
        if self.name == "broker.url" and value:
            return str(parse_broker_url(str(value)))
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:.12g}"
        return "" if value is None else str(value)

    def _from_number(self, raw: object) -> Any:
        if isinstance(raw, bool):
            return raw if self.kind is bool else _BAD
        if self.kind is float and isinstance(raw, int | float):
            bounded = self._bounded(raw)
            return _BAD if bounded is _BAD else float(bounded)
        return self._bounded(raw) if self.kind is int and isinstance(raw, int) else _BAD

    def _from_text(self, text: str, base: Path) -> Any:
        if not text.isprintable():
            return _BAD
        if self.kind is Path:
            return self._path(text, base)
        if issubclass(self.kind, StrEnum):
            return self.kind(text) if text in list(self.kind) else _BAD
        if self.kind is bool:
            word = text.lower()
            return (word in _TRUE) if word in _TRUE | _FALSE else _BAD
        if self.kind in (int, float):
            return self._plain_number(text)
        return text

    def _plain_number(self, text: str) -> Any:
        if not text.isascii() or "_" in text or text != text.strip():
            return _BAD
        try:
            return self._bounded(self.kind(text))
        except ValueError:
            return _BAD

    def _path(self, text: str, base: Path) -> Any:
        if not text:
            return None if self.optional else _BAD
        try:
            return base / Path(text).expanduser()
        except RuntimeError:  # "~name" of nobody
            return _BAD

    def _bounded(self, value: float) -> Any:
        """`value` if it is within bounds; an integer may have more digits than any float can say."""
        return value if self.low <= value <= self.high and abs(value) <= sys.float_info.max else _BAD


def settings_of(record: type[Any], prefix: str = "") -> Iterator[Setting]:
    """The settings that a record declares, in order, named `prefix` + field."""
    hints = typing.get_type_hints(record)
    for item in fields(record):
        if "doc" not in item.metadata:
            continue
        hint = hints[item.name]
        union = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
        yield Setting(
            name=prefix + item.name,
            kind=next((kind for kind in union if kind is not types.NoneType), hint),
            optional=bool(union),
            default=item.default,
            **cast("Mapping[str, Any]", item.metadata),
        )


def quoted(name: str, max_characters: int = _NAME_MAX) -> str:
    """A name as it was written, for a sentence: cut, and with escapes where it cannot be shown."""
    cut = name[:max_characters]
    return cut if cut.isprintable() else repr(cut)


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the one that was probably meant."""
    near = get_close_matches(name[:_NAME_MAX], known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "; `ota-bridge config show` lists all of them"
