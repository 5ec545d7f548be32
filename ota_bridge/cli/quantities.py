"""Amounts as people type them: `20kB/s`, `1.5MiB`, `90s`, `5%`. What cannot be read is an error that says what can."""

import re
from typing import Final

import typer

_SIZES: Final = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_TIMES_S: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER: Final = r"([0-9]{1,12}(?:\.[0-9]{1,6})?)"
_SIZE: Final = re.compile(_NUMBER + r" ?(|[kMG]|[KMG]i) ?B?")
_RATE: Final = re.compile(_NUMBER + r" ?(|[kMG]|[KMG]i) ?B?(?:/s)?")
_TIME: Final = re.compile(_NUMBER + r" ?(ms|s|min|h|d|)")
_SHARE: Final = re.compile(_NUMBER + r" ?(%|)")
_SHOWN: Final = 40


def size_of(option: str, text: str) -> int:
    """Bytes: `512KiB`, `1MB`."""
    number, unit = _parts(_SIZE, option, text, "a size such as 512KiB or 1MB")
    return round(float(number) * _SIZES[unit])


def rate_of(option: str, text: str) -> float:
    """Bytes per second: `20kB/s`."""
    number, unit = _parts(_RATE, option, text, "a rate such as 20kB/s or 1MB/s")
    return float(number) * _SIZES[unit]


def seconds_of(option: str, text: str) -> float:
    """Seconds: `90s`, `1.5h`; a bare number is seconds."""
    number, unit = _parts(_TIME, option, text, "a time such as 90s, 15min, 8h or 7d")
    return float(number) * _TIMES_S[unit]


def share_of(option: str, text: str) -> float:
    """0 to 1: `5%`, `0.05`."""
    number, unit = _parts(_SHARE, option, text, "a share such as 5% or 0.05")
    found = float(number) / (100 if unit else 1)
    if found > 1:
        raise typer.BadParameter(f"{option}: {text[:_SHOWN]!r} is more than all of them; write a share such as 5%")
    return found


def _parts(pattern: re.Pattern[str], option: str, text: str, wanted: str) -> tuple[str, str]:
    found = pattern.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{option}: {text[:_SHOWN]!r} cannot be used; write {wanted}")
    return found[1], found[2]
