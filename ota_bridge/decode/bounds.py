"""What all readers have in common: limits, the kinds of map keys, and how a hostile value is shown."""

from enum import Enum
from typing import Final

from ota_bridge.core.errors import Malformed

U32: Final = 2**32 - 1
U64: Final = 2**64 - 1
_SHOWN_CHARACTERS: Final = 40


class MapKeys(Enum):
    """What the keys of a map may be."""

    TEXT = "text"
    UINT = "an unsigned integer"
    TEXT_OR_INT = "text or an integer"


def shown(value: object) -> str:
    """What came, for an error message: escaped and at most 40 characters long."""
    if isinstance(value, dict | list):
        return f"{'a map' if isinstance(value, dict) else 'an array'} of {len(value)}"
    text = repr(value[:_SHOWN_CHARACTERS] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def check_size(data: bytes, max_bytes: int, format_name: str) -> None:
    """Refuse `data` that is larger than its reader was told to take."""
    if len(data) > max_bytes:
        raise Malformed(f"{format_name}: {len(data)} bytes, at most {max_bytes} are allowed")
