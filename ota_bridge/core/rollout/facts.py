"""What a query may ask of a device: `VARIABLES` is the table, `facts_of` fills it in.

Facts are plain values. What a device did not tell is empty, -1 or far away, as the table says; only keys of maps can be
missing, and a query that needs a missing key does not match.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ota_bridge.core.fleet import Device
from ota_bridge.core.values import I64_MAX

Key = tuple[str, str]
"""A map among the variables, and a name in it: `("attrs", "batch")`."""

NEVER_S: Final = 9_999_999_999
"""Seconds since a report that never came: longer than any comparison asks for."""


class Kind(StrEnum):
    """What a variable holds."""

    TEXT = "text"
    WHOLE = "whole number"
    TRUTH = "true or false"
    TEXTS = "list of text"
    TEXT_BY_NAME = "text by name"
    WHOLE_BY_NAME = "whole number by name"
    ANY_BY_NAME = "text or whole number by name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One of the names that a query knows."""

    kind: Kind
    about: str


def _is(kind: Kind, about: str) -> Variable:
    return Variable(kind=kind, about=about)


VARIABLES: Final[Mapping[str, Variable]] = {
    "product": _is(Kind.TEXT, "the product"),
    "name": _is(Kind.TEXT, "the device's name on the wire"),
    "label": _is(Kind.TEXT, "its name for people, or empty"),
    "state": _is(Kind.TEXT, "`pending`, `active` or `retired`"),
    "hw": _is(Kind.TEXT, "the hardware id, or empty"),
    "tags": _is(Kind.TEXTS, "the tags"),
    "attrs": _is(Kind.ANY_BY_NAME, "the attributes that operators attached (`device set`)"),
    "versions": _is(Kind.TEXT_BY_NAME, "the version of each component that it runs"),
    "seqs": _is(Kind.WHOLE_BY_NAME, "the seq of each component, of those that tell one"),
    "on_trial": _is(Kind.TRUTH, "true while an image runs that is not confirmed yet"),
    "last_seen_s": _is(Kind.WHOLE, f"seconds since its last report; {NEVER_S} if there never was one"),
    "added_s": _is(Kind.WHOLE, "seconds since it appeared or was added"),
    "keyset": _is(Kind.WHOLE, "the version of its keyset; -1 if it takes no other than the factory's"),
    "proto": _is(Kind.WHOLE, "the version of the protocol that it speaks; 0 for a vendor's"),
}


def facts_of(device: Device, now_wall: float) -> dict[str, Any]:
    """The variables of a query, for this device at this time."""
    last, parts = device.last_report_wall, device.parts
    return {
        "product": device.id.product,
        "name": device.id.name,
        "label": device.label,
        "state": device.state.value,
        "hw": device.hw or "",
        "tags": list(device.tags),
        "attrs": dict(device.attrs),
        "versions": {name: part.version for name, part in parts.items()},
        "seqs": {name: min(part.seq, I64_MAX) for name, part in parts.items() if part.seq is not None},
        "on_trial": any(part.trial for part in parts.values()),
        "last_seen_s": NEVER_S if last is None else _age_s(last, now_wall),
        "added_s": _age_s(device.created_wall, now_wall),
        "keyset": -1 if device.keyset is None else device.keyset,
        "proto": device.proto,
    }


def _age_s(wall: float, now_wall: float) -> int:
    return min(max(int(now_wall - wall), 0), NEVER_S)


def missing_keys(asked: Collection[Key], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that a query names and this device has not, as they are written: `attrs.batch`."""
    return tuple(f"{table}.{name}" for table, name in sorted(asked) if name not in facts[table])


def unknown_keys(
    asked: Collection[Key], devices: Iterable[Mapping[str, Any]]
) -> tuple[tuple[str, ...], Mapping[str, Collection[str]]]:
    """The keys that a query names and no device has, and the names that there are, by map. Nothing without devices.

    `devices`: their facts; it is read no further than it has to be.
    """
    left = set(asked)
    known: dict[str, set[str]] = {table: set() for table, _ in asked}
    seen = False
    for facts in devices:
        seen = True
        for table, names in known.items():
            names.update(facts[table])
        left = {(table, name) for table, name in left if name not in known[table]}
        if not left:
            break
    if not seen:
        return (), {}
    return tuple(f"{table}.{name}" for table, name in sorted(left)), known
