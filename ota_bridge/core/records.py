"""Records: frozen dataclasses with fields by name, made and copied in C.

Every report makes a dozen records and changes a few of thirty fields. A frozen dataclass sets each field by a call,
which was a quarter of what a report costs the core; `msgspec.Struct` does it in a tenth of the time
(docs/adr/0025-records.md). `dataclasses.replace`, `fields` and `asdict` take records, too.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, dataclass_transform, overload

import msgspec

if TYPE_CHECKING:
    from dataclasses import replace  # so that fields are checked

R = TypeVar("R")

_MADE: Final = frozenset(
    {*vars(dataclasses.dataclass(frozen=True, slots=True)(type("_", (), {}))), *vars(type("_", (), {}))}
)
"""What the dataclass or a class has of its own, and the record has in its own way."""
_KEPT: Final = ("__doc__", "__module__", "__dataclass_fields__", "__dataclass_params__")
_OWN: Final = frozenset({"__eq__", "__hash__", "__init__", "__repr__", "__setattr__"})
"""What the record's are in C."""


@overload
def record(kind: type[R], /) -> type[R]: ...


@overload
def record(*, frozen: bool = True) -> Callable[[type[R]], type[R]]: ...


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def record(kind: type[R] | None = None, /, *, frozen: bool = True) -> type[R] | Callable[[type[R]], type[R]]:
    """A class of records from the body of a dataclass, which may have methods and `__post_init__` but no bases."""
    return partial(_record, frozen=frozen) if kind is None else _record(kind, frozen=frozen)


def _record(kind: type[R], *, frozen: bool) -> type[R]:
    if kind.__bases__ != (object,) or _OWN & vars(kind).keys():
        raise TypeError(f"{kind.__name__}: a record has no bases, and none of {', '.join(sorted(_OWN))}")
    found = dataclasses.fields(dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(kind))  # type: ignore[arg-type]
    if not all(one.init and one.repr and one.compare for one in found):
        raise TypeError(f"{kind.__name__}: all fields of a record are given, shown and compared")
    names = {one.name for one in found}
    kept = {name: value for name, value in vars(kind).items() if name not in names and name not in _MADE}
    kept |= {name: vars(kind)[name] for name in _KEPT}
    made: Any = msgspec.defstruct(
        kind.__name__,
        [(one.name, one.type, *_default(one)) for one in found],
        namespace=kept,
        module=kind.__module__,
        frozen=frozen,
        kw_only=True,
    )
    made.__qualname__ = kind.__qualname__
    return cast("type[R]", made)


def _default(one: "dataclasses.Field[Any]") -> tuple[Any, ...]:
    if one.default_factory is not dataclasses.MISSING:
        return (msgspec.field(default_factory=one.default_factory),)
    return () if one.default is dataclasses.MISSING else (one.default,)


if not TYPE_CHECKING:

    def replace(one: R, /, **changes: Any) -> R:
        """This record, or dataclass, with these fields changed."""
        copied = msgspec.structs.replace if isinstance(one, msgspec.Struct) else dataclasses.replace
        return copied(one, **changes)


__all__ = ["record", "replace"]
