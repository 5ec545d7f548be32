"""Typed access to a decoded map or array: each pick checks type and range, and its error names the field."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from ota_bridge.core.errors import Malformed
from ota_bridge.decode.bounds import shown

_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]{0,19}")

_P = ParamSpec("_P")
_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)


def number(value: object, name: str, *, maximum: int, minimum: int = 0) -> int:
    """The one number parser (rule 5); `name` is how the error calls the value."""
    result: int | None = None
    if type(value) is int:
        result = value
    elif isinstance(value, str) and value.isascii() and _DECIMAL.fullmatch(value):
        result = int(value)
    if result is None or not minimum <= result <= maximum:
        raise Malformed(f"{name} must be a number {minimum}..{maximum}, not {shown(value)}")
    return result


class Fields:
    """A decoded map, or an array whose keys are its indices; `name` is how errors call it.

    `binary_as_text` says that binary values stand as standard base64 text, as in JSON.
    """

    __slots__ = ("_binary_as_text", "_items", "_name")

    def __init__(
        self, value: object, *, name: str | Callable[[], str] = "message", binary_as_text: bool = False
    ) -> None:
        """A `name` that has to be put together is a function: most are never asked for."""
        self._name = name
        if not isinstance(value, dict):
            raise Malformed(f"{self._called()} must be a map, not {shown(value)}")
        self._items: dict[Any, Any] = value
        self._binary_as_text = binary_as_text

    @classmethod
    def of_array(
        cls,
        value: object,
        *,
        max_items: int,
        min_items: int = 0,
        name: str = "message",
        binary_as_text: bool = False,
    ) -> "Fields":
        """The items of an array under the keys 0, 1, 2 and so on."""
        if not isinstance(value, list) or not min_items <= len(value) <= max_items:
            raise _no_array(value, name, min_items, max_items)
        return cls(dict(enumerate(value)), name=name, binary_as_text=binary_as_text)

    def __contains__(self, key: str | int) -> bool:
        """Whether the field is there and not null."""
        return self._items.get(key) is not None

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        """The keys, in the order in which they came."""
        return iter(self._items)

    def only(self, *keys: str | int) -> None:
        """Refuse every key that is not one of these."""
        for key in self._items:
            if key not in keys:
                raise Malformed(f"{self._called()}: the key {shown(key)} is not known")

    def optional(
        self,
        pick: Callable[Concatenate[Any, _P], _T],
        key: str | int,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T | None:
        """What `pick` gives, or None for a missing or null field: `f.optional(f.uint, "n", maximum=9)`."""
        return pick(key, *args, **kwargs) if self._items.get(key) is not None else None

    def text(
        self,
        key: str | int,
        *,
        max_bytes: int,
        min_bytes: int = 0,
        pattern: re.Pattern[str] | None = None,
    ) -> str:
        """Text of a bounded length in UTF-8; with `pattern`, all of it must match."""
        value = self._get(key)
        if not isinstance(value, str):
            raise Malformed(f"{self._path(key)} must be text, not {shown(value)}")
        if not min_bytes <= (len(value) if value.isascii() else len(value.encode())) <= max_bytes:
            raise Malformed(f"{self._path(key)} must be {min_bytes}..{max_bytes} bytes of text, not {shown(value)}")
        if pattern is not None and not pattern.fullmatch(value):
            raise Malformed(f"{self._path(key)} is {shown(value)}; allowed is {pattern.pattern}")
        return value

    def note(self, key: str | int, *, max_characters: int) -> str:
        """Free text for humans: clipped, unprintable characters replaced, so it never costs the message."""
        value = self._get(key)
        if not isinstance(value, str):
            raise Malformed(f"{self._path(key)} must be text, not {shown(value)}")
        return "".join(c if c.isprintable() else "�" for c in value[:max_characters])

    def choice(self, key: str | int, kind: type[_E]) -> _E:
        """One of the values of a StrEnum."""
        value = self._get(key)
        try:
            return kind(value)
        except ValueError:
            allowed = ", ".join(kind)
            raise Malformed(f"{self._path(key)} is {shown(value)}; allowed are {allowed}") from None

    def uint(self, key: str | int, *, maximum: int, minimum: int = 0) -> int:
        """An integer given as a number."""
        value = self._items.get(key)
        if value is None:
            raise self._missing(key)
        if type(value) is not int or not minimum <= value <= maximum:
            raise Malformed(f"{self._path(key)} must be an integer {minimum}..{maximum}, not {shown(value)}")
        return value

    def uint_or_none(self, key: str | int, *, maximum: int, minimum: int = 0) -> int | None:
        """As `uint`, or None for a missing or null field: `optional`, in one call."""
        value = self._items.get(key)
        if value is None:
            return None
        if type(value) is not int or not minimum <= value <= maximum:
            return self.uint(key, maximum=maximum, minimum=minimum)
        return value

    def number_text(self, key: str | int, *, maximum: int, minimum: int = 0) -> int:
        """An integer given as a number or as decimal text."""
        value = self._get(key)
        if type(value) is int and minimum <= value <= maximum:
            return value
        return number(value, self._path(key), minimum=minimum, maximum=maximum)

    def flag(self, key: str | int) -> bool:
        """A boolean, given as one."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise Malformed(f"{self._path(key)} must be true or false, not {shown(value)}")
        return value

    def binary(self, key: str | int, *, min_bytes: int, max_bytes: int) -> bytes:
        """Bytes; where binary stands as text, standard base64 with padding."""
        value = self._get(key)
        if self._binary_as_text:
            value = _from_base64(value, lambda: self._path(key), max_bytes)
        if not isinstance(value, bytes) or not min_bytes <= len(value) <= max_bytes:
            count = str(min_bytes) if min_bytes == max_bytes else f"{min_bytes}..{max_bytes}"
            raise Malformed(f"{self._path(key)} must be {count} bytes of binary, not {shown(value)}")
        return value

    def is_array(self, key: str | int) -> bool:
        """Whether the field is an array, where one value or several may stand."""
        return isinstance(self._items.get(key), list)

    def mapping(self, key: str | int) -> "Fields":
        """A map inside this one."""
        name = partial(self._path, key)
        return Fields(self._get(key), name=name, binary_as_text=self._binary_as_text)

    def array(self, key: str | int, *, max_items: int, min_items: int = 0) -> "Fields":
        """An array inside this one, as fields under the keys 0, 1, 2 and so on."""
        value = self._get(key)
        if not isinstance(value, list) or not min_items <= len(value) <= max_items:
            raise _no_array(value, self._path(key), min_items, max_items)
        name = partial(self._path, key)
        return Fields(dict(enumerate(value)), name=name, binary_as_text=self._binary_as_text)

    def _get(self, key: str | int) -> Any:
        value = self._items.get(key)
        if value is None:
            raise self._missing(key)
        return value

    def _missing(self, key: str | int) -> Malformed:
        return Malformed(f"{self._path(key)} is missing")

    def _path(self, key: str | int) -> str:
        shown_key = key[:40] if isinstance(key, str) and key.isprintable() else shown(key)
        return f"{self._called()}[{key}]" if isinstance(key, int) else f"{self._called()}.{shown_key}"

    def _called(self) -> str:
        return self._name if isinstance(self._name, str) else self._name()


def _no_array(value: object, name: str, min_items: int, max_items: int) -> Malformed:
    count = str(min_items) if min_items == max_items else f"{min_items}..{max_items}"
    return Malformed(f"{name} must be an array of {count} items, not {shown(value)}")


def _from_base64(value: object, path: Callable[[], str], max_bytes: int) -> bytes:
    if isinstance(value, str) and len(value) <= (max_bytes + 2) // 3 * 4:
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
        else:
            if base64.b64encode(decoded).decode() == value:  # stray low bits in the last character: two spellings
                return decoded
    raise Malformed(f"{path()} must be base64 of at most {max_bytes} bytes, not {shown(value)}")
