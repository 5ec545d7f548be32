"""How single values are written in a plan file: what each may be, what it means, and its part of the JSON Schema.

A form takes what TOML or YAML made of the text and gives what the plan's records want; `Wrong` says what is the matter.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from ota_bridge.core.rollout.plan import SECONDS_MAX

UNITS_S: Final = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
TEXT_MAX: Final = 4_096

_DURATION: Final = r"^(?=[0-9])" + " ?".join(f"(?:([0-9]{{1,9}}) ?{unit})?" for unit in UNITS_S) + "$"
_INSTANT: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[-+][0-9]{2}:[0-9]{2})$"
)
_SHARE: Final = r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,6})?) ?%$"
_ABOVE: Final = r"(?!0+(\.0+)? ?%)"
_SHOWN: Final = 40


class Wrong(ValueError):
    """A value that cannot be used: a sentence, and where inside the value, if not as a whole."""

    def __init__(self, message: str, item: int | None = None) -> None:
        super().__init__(message)
        self.item = item


class Form(Protocol):
    """How one value is written."""

    @property
    def allowed(self) -> str:
        """What may be written, in words."""

    def value(self, given: Any) -> Any:
        """What it means; raises Wrong."""

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""


def shown(given: Any) -> str:
    """A value as it stands in a sentence."""
    if given is None:
        return "empty"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, Mapping):
        return "a table"
    if isinstance(given, list):
        return "a list"
    if isinstance(given, str):
        cut = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in given[:_SHOWN])
        return f'"{cut}{"…" if len(given) > _SHOWN else ""}"'
    try:
        return str(given)[:_SHOWN]
    except ValueError:  # thousands of digits
        return "a number"


def _refuse(form: Form, given: Any, more: str = "") -> Wrong:
    return Wrong(f"{shown(given)} cannot be used; allowed is {form.allowed}{more}")


def _fits(pattern: str, text: str) -> bool:
    """As JSON Schema means it: the end is the end, also before a line break."""
    return re.search(re.sub(r"\$$", r"\\Z", pattern), text) is not None


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The one that was probably meant."""
    return next(iter(difflib.get_close_matches(word[:_SHOWN], known, n=1)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text that says something."""

    of: str = "text"
    pattern: str = r"\S"
    longest: int = TEXT_MAX

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return self.of

    def value(self, given: Any) -> str:
        """What it means; raises Wrong."""
        if isinstance(given, str) and len(given) > self.longest:
            raise Wrong(f"{shown(given)} is too long; allowed are {self.longest:,} characters")
        if not isinstance(given, str) or not _fits(self.pattern, given):
            raise _refuse(self, given)
        if not all(one.isprintable() or one in "\n\t" for one in given):
            raise Wrong(f"{shown(given)} holds characters that cannot be shown")
        return given

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        return {"type": "string", "pattern": self.pattern, "maxLength": self.longest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """True or false."""

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return "true or false"

    def value(self, given: Any) -> bool:
        """What it means; raises Wrong."""
        if not isinstance(given, bool):
            raise _refuse(self, given)
        return given

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number within bounds; `above` leaves the lower bound itself out."""

    low: float
    high: float
    whole: bool = False
    above: bool = False

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        kind = "a whole number" if self.whole else "a number"
        high = f"{self.high:,.0f}" if self.high >= 1 else f"{self.high:g}"
        return f"{kind} above {self.low:g} and up to {high}" if self.above else f"{kind} from {self.low:g} to {high}"

    def value(self, given: Any) -> Any:
        """What it means; raises Wrong."""
        if not _is_number(given) or (self.whole and not isinstance(given, int)):
            raise _refuse(self, given)
        if not (self.low < given if self.above else self.low <= given) or not given <= self.high:
            raise _refuse(self, given)
        return given if self.whole else float(given)

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        low = "exclusiveMinimum" if self.above else "minimum"
        return {"type": "integer" if self.whole else "number", low: _plain(self.low), "maximum": _plain(self.high)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """A time that passes: `90s`, `1h30min`, or a number of seconds."""

    low: float
    high: float = SECONDS_MAX
    whole: bool = False

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return f'a time from {spelled(self.low)} to {spelled(self.high)}, such as "90s", "15min", "1h30min", "7d"'

    def value(self, given: Any) -> float:
        """Seconds; raises Wrong."""
        seconds = given
        if isinstance(given, str):
            found = re.search(_DURATION, given)
            if found is None or not _fits(_DURATION, given):
                raise _refuse(self, given)
            seconds = sum(int(part) * unit for part, unit in zip(found.groups(), UNITS_S.values(), strict=True) if part)
        if not _is_number(seconds) or (self.whole and not isinstance(seconds, int)):
            raise _refuse(self, given)
        if not self.low <= seconds <= self.high:
            raise _refuse(self, given)
        return int(seconds) if self.whole else float(seconds)

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema, which cannot bound what a text says."""
        seconds = {"type": "integer" if self.whole else "number"}
        bounds = {"minimum": _plain(self.low), "maximum": _plain(self.high)}
        return {"anyOf": [{**seconds, **bounds}, {"type": "string", "pattern": _DURATION}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of a whole: `0.8` or `80 %`."""

    above: bool = False

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return f'{"above 0 and up to 1" if self.above else "0 to 1"}, or a percentage as text, such as "80 %"'

    def value(self, given: Any) -> float:
        """Between 0 and 1; raises Wrong."""
        part = given
        if isinstance(given, str):
            if not _fits(self._pattern, given):
                raise _refuse(self, given)
            part = float(given.rstrip("% ")) / 100
        if not _is_number(part) or not (part > 0 if self.above else part >= 0) or not part <= 1:
            meant = _is_number(given) and 1 < given <= 100  # noqa: PLR2004 - a percentage
            raise _refuse(self, given, f'; did you mean "{given:g} %"?' if meant else "")
        return float(part)

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        low = "exclusiveMinimum" if self.above else "minimum"
        number = {"type": "number", low: 0, "maximum": 1}
        return {"anyOf": [number, {"type": "string", "pattern": self._pattern}]}

    @property
    def _pattern(self) -> str:
        return _SHARE[0] + (_ABOVE if self.above else "") + _SHARE[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """A moment, with its zone."""

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return "a date and time with a zone, such as 2026-12-01T02:00:00+01:00"

    def value(self, given: Any) -> float:
        """Wall time; raises Wrong."""
        moment = given
        if isinstance(given, str):
            if not _fits(_INSTANT, given):
                raise _refuse(self, given)
            try:
                moment = datetime.fromisoformat(given.upper())
            except ValueError as error:
                raise _refuse(self, given, f" ({error})") from error
        if not isinstance(moment, datetime):
            raise _refuse(self, given)
        if moment.tzinfo is None:
            raise Wrong(f"{shown(given)} has no zone; add Z or an offset, as in 2026-12-01T02:00:00+01:00")
        return moment.timestamp()

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        return {"type": "string", "format": "date-time", "pattern": _INSTANT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a few words, each of which stands for a value of the records."""

    words: Mapping[str, Any]

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return "one of " + ", ".join(self.words)

    def value(self, given: Any) -> Any:
        """What it means; raises Wrong."""
        if not isinstance(given, str) or given not in self.words:
            near = nearest(given.lower(), list(self.words)) if isinstance(given, str) else None
            raise _refuse(self, given, f"; did you mean {near}?" if near else "")
        return self.words[given]

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """A list of single values, none of them twice."""

    of: Form
    named: str
    most: int

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return f"a list of {self.named}"

    def value(self, given: Any) -> tuple[Any, ...]:
        """What it means; raises Wrong."""
        if not isinstance(given, list):
            raise _refuse(self, given)
        if not given:
            raise Wrong(f"the list is empty; allowed is {self.allowed}")
        if len(given) > self.most:
            raise Wrong(f"{len(given):,} items; at most {self.most:,} are possible")
        found: dict[Any, None] = {}
        for number, item in enumerate(given):
            try:
                meant = self.of.value(item)
            except Wrong as wrong:
                raise Wrong(str(wrong), number) from None
            if meant in found:
                raise Wrong(f"{shown(item)} stands twice", number)
            found[meant] = None
        return tuple(found)

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        items = {"items": self.of.schema(), "minItems": 1, "maxItems": self.most, "uniqueItems": True}
        return {"type": "array", **items}


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOr:
    """The word `all`, or a list."""

    several: Several

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return f'"all", or {self.several.allowed}'

    def value(self, given: Any) -> tuple[Any, ...] | None:
        """None for all; raises Wrong."""
        if given == "all":
            return None
        if not isinstance(given, list):
            raise _refuse(self, given)
        return self.several.value(given)

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        return {"anyOf": [{"const": "all"}, self.several.schema()]}


def spelled(seconds: float) -> str:
    """A time in the largest unit that divides it."""
    unit = next((unit for unit, of in UNITS_S.items() if seconds and seconds % of == 0), "s")
    return f"{seconds / UNITS_S[unit]:.12g}{unit}"


def _plain(number: float) -> float:
    return int(number) if math.isfinite(number) and number == int(number) else number
