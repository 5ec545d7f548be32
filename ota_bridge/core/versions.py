"""Versions by number: which of two is older, and bounds on them: from which versions an image installs.

`compare` knows pre-releases too: `1.2-rc1` or `1.2~rc1` is older than 1.2, piece by piece, digits by value and below
letters; a build after `+` counts for nothing. Anything else has no order, and none is made up: not for `1.0.2k`, nor
for a commit after a tag (`1.2.0-14-gdeadbeef`).

A bound is an exact version, which is compared as text; or comparisons joined by commas, all of which must hold:
`>=1.2`, `>=1,<2`. Those compare by number and so hold for no version that is more than numbers. Of several bounds one
has to hold; none at all means any version.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Final

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.values import checked_version

BOUNDS_MAX: Final = 16
BOUND_MAX: Final = 80
"""Characters of one bound."""

_NUMBERS: Final = re.compile(r"v?[0-9]{1,9}(\.[0-9]{1,9})*")
_PRE_RELEASE: Final = re.compile(r"([^-~+]+)(?:[-~]([0-9A-Za-z.~-]+))?(?:\+[0-9A-Za-z.~-]*)?")
_AFTER_TAG: Final = re.compile(r"[0-9]+-g[0-9a-f]{4,}.*")
_PIECE: Final = re.compile(r"[0-9]+|[A-Za-z]+")
_COMPARISON: Final = re.compile(r"(>=|<=|>|<) ?(.+)")
_OPERATORS: Final = {">=": ge, "<=": le, ">": gt, "<": lt}
_KEPT: Final = 1024

_Numbers = tuple[int, ...]
_Order = tuple[_Numbers, bool, tuple[tuple[bool, int, str], ...]]
_Comparison = tuple[Callable[[_Numbers, _Numbers], bool], _Numbers]


@lru_cache(maxsize=_KEPT)
def numbers(version: str) -> _Numbers | None:
    """`v1.2.0` as (1, 2); None for a version that is more than numbers."""
    if not _NUMBERS.fullmatch(version):
        return None
    found = [int(number) for number in version.removeprefix("v").split(".")]
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def compare(one: str, other: str) -> int | None:
    """-1 if `one` is older than `other`, 1 if newer, 0 if neither; None if one of them has no place in an order."""
    ours, theirs = _order(one), _order(other)
    if ours is None or theirs is None:
        return None
    return (ours > theirs) - (ours < theirs)


@lru_cache(maxsize=_KEPT)
def _order(version: str) -> _Order | None:
    """What versions are compared by: numbers, whether it is released, pieces of the pre-release."""
    found = _PRE_RELEASE.fullmatch(version)
    dotted = numbers(found[1]) if found is not None else None
    if found is None or dotted is None:
        return None
    if found[2] is None:
        return dotted, True, ()
    if _AFTER_TAG.fullmatch(found[2]):
        return None
    pieces = (piece[:32] for piece in _PIECE.findall(found[2]))
    return dotted, False, tuple((False, int(one), "") if one.isdigit() else (True, 0, one) for one in pieces)


def checked_bounds(bounds: Sequence[str]) -> tuple[str, ...]:
    """`bounds`, each once, if each can hold for some version; raises InvalidInput that names the one that cannot."""
    if len(bounds) > BOUNDS_MAX:
        raise InvalidInput(f"{len(bounds)} bounds on versions: at most {BOUNDS_MAX}; a range says many: >=1.2,<2")
    found = tuple(dict.fromkeys(bound.strip() for bound in bounds))
    for bound in found:
        if len(bound) > BOUND_MAX:
            raise InvalidInput(f"bound {bound[:40]!r} is longer than {BOUND_MAX} characters")
        if not is_exact(bound):
            _check_not_empty(bound, _comparisons(bound))
        elif "*" in bound or bound.endswith(".x"):
            raise InvalidInput(f"bound {bound!r} is no version; write a range, such as >=1,<2")
        else:
            checked_version(bound)
    return found


def is_exact(bound: str) -> bool:
    """True for a bound that is a version and no range."""
    return not bound.startswith((">", "<"))


def admits(bounds: Sequence[str], version: str) -> bool:
    """True if a device that runs `version` is within the bounds."""
    return not bounds or any(_holds(bound, version) for bound in bounds)


def shown(bounds: Sequence[str]) -> str:
    """The bounds in words."""
    return " or ".join(bounds) if bounds else "any version"


@lru_cache(maxsize=_KEPT)
def _holds(bound: str, version: str) -> bool:
    if is_exact(bound):
        return bound == version
    found = numbers(version)
    return found is not None and all(operator(found, limit) for operator, limit in _comparisons(bound))


@lru_cache(maxsize=_KEPT)
def _comparisons(bound: str) -> tuple[_Comparison, ...]:
    found: list[_Comparison] = []
    for text in bound.split(","):
        match = _COMPARISON.fullmatch(text.strip())
        limit = numbers(match[2]) if match else None
        if match is None or limit is None:
            raise InvalidInput(f"bound {bound!r}: {text.strip()!r} is no comparison with a number, such as >=1.2 or <2")
        found.append((_OPERATORS[match[1]], limit))
    return tuple(found)


def _check_not_empty(bound: str, comparisons: Sequence[_Comparison]) -> None:
    """Between two versions there is always another (1.2 < 1.2.0.1 < 1.2.1): only the limits themselves matter."""
    lower = max((limit for operator, limit in comparisons if operator in {ge, gt}), default=())
    upper = min((limit for operator, limit in comparisons if operator in {le, lt}), default=None)
    if upper is None or lower < upper:
        return
    if lower > upper or not all(operator(lower, limit) for operator, limit in comparisons):
        raise InvalidInput(f"bound {bound!r} holds for no version at all")
