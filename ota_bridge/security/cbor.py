"""The writer of deterministic CBOR (RFC 8949 §4.2) for signing: the counterpart of `decode.read_cbor`."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Cbor: TypeAlias = "int | bytes | str | Sequence[Cbor] | Mapping[int, Cbor] | None"

_UINT, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5
_NULL = b"\xf6"
_SMALL = [[bytes((major << 5 | argument,)) for argument in range(24)] for major in range(8)]


def write(value: Cbor) -> bytes:
    """Encode unsigned integers, bytes, text, None, sequences, and maps with unsigned keys."""
    if value is None:
        return _NULL
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        encoded = value.encode()
        return _head(_TEXT, len(encoded)) + encoded
    if isinstance(value, int):
        return _head(_UINT, value)
    if isinstance(value, Mapping):
        pairs = b"".join(_head(_UINT, key) + write(value[key]) for key in sorted(value))
        return _head(_MAP, len(value)) + pairs
    return _head(_ARRAY, len(value)) + b"".join(write(item) for item in value)


def _head(major: int, argument: int) -> bytes:
    """The shortest head: major type and argument."""
    if isinstance(argument, bool) or not 0 <= argument < 1 << 64:
        raise ValueError(f"{argument!r} is not an unsigned integer of 64 bits")
    if argument < 24:  # noqa: PLR2004 - RFC 8949 §3: the argument itself
        return _SMALL[major][argument]
    exponent = ((argument.bit_length() - 1) // 8).bit_length()
    return bytes((major << 5 | 24 + exponent,)) + argument.to_bytes(1 << exponent, "big")
