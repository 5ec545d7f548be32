"""The messages of the native dialect as a device writes and reads them: JSON or msgpack, strict and bounded.

Reading raises `Malformed` and nothing else. Binary values are bin in msgpack and base64 text in JSON.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgpack

from device_sim.errors import Malformed

Encoding = Literal["msgpack", "json"]

MAX_UPDATE_BYTES: Final = 64 * 1024
MAX_ITEMS: Final = 64
MIN_REFUSAL_ITEMS: Final = 6


@dataclass(frozen=True, slots=True)
class BlockData:
    """A piece of an artifact."""

    artifact: bytes
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BlockRefusal:
    """The bridge's no to a block request, and what to do about it."""

    artifact: bytes
    offset: int
    code: int
    retry_after_s: float
    size_max: int
    count_max: int


def encode(message: dict[str, Any], encoding: Encoding) -> bytes:
    """A report's bytes."""
    if encoding == "json":
        return json.dumps(_texts(message), separators=(",", ":")).encode()
    packed: bytes = msgpack.packb(message)
    return packed


def _texts(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return value


def decode_update(payload: bytes) -> dict[str, Any]:
    """A message of the update topic, in either encoding."""
    if len(payload) > MAX_UPDATE_BYTES:
        raise Malformed(f"an update message of {len(payload)} bytes")
    try:
        message = json.loads(payload.decode()) if payload[:1] == b"{" else _unpack(payload, MAX_UPDATE_BYTES)
    except RecursionError:
        raise Malformed("an update message nested too deep") from None
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Malformed(f"an update message that does not parse: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Malformed("an update message without a type")
    return message


def decode_block(payload: bytes) -> BlockData | BlockRefusal:
    """A message of the block topic."""
    try:
        message = _unpack(payload, len(payload))
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(f"a block that does not parse: {error}") from None
    match message:
        case [bytes() as artifact, int() as offset, bytes() as data] if type(offset) is int:
            return BlockData(artifact, offset, data)
        case [bytes() as artifact, int() as offset, int() as code, int() | float() as after, size, count, *_]:
            if all(type(number) is int for number in (offset, code, size, count)) and 0 <= after < 1e6:  # noqa: PLR2004
                return BlockRefusal(artifact, offset, code, float(after), size, count)
    raise Malformed("neither a block nor a refusal")


def request(artifact: bytes, offset: int, size: int, count: int, missing: bytes | None = None) -> bytes:
    """A block request; bit j of byte k of `missing` asks for block 8k+j counted from `offset`."""
    parts: list[Any] = [artifact, offset, size, count]
    if missing is not None:
        parts.append(missing)
    packed: bytes = msgpack.packb(parts)
    return packed


def _unpack(payload: bytes, limit: int) -> Any:
    return msgpack.unpackb(
        payload,
        max_str_len=limit,
        max_bin_len=limit,
        max_array_len=MAX_ITEMS,
        max_map_len=MAX_ITEMS,
        max_ext_len=0,
    )


def text(message: dict[str, Any], key: str, limit: int) -> str:
    """A short text field that must be there, and can be said back: half a surrogate pair cannot."""
    value = message.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
        raise Malformed(f"{key} is not a text of 1 to {limit} characters")
    return value


def binary(value: Any, what: str) -> bytes:
    """A binary value of either encoding."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise Malformed(f"{what} is not binary")


def number(message: dict[str, Any], key: str, default: int, *, low: int = 0, high: int = 1 << 32) -> int:
    """A whole number field, or its default where it is absent."""
    value = message.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise Malformed(f"{key} is not a number from {low} to {high}")
    return value


def seconds(message: dict[str, Any], key: str) -> float | None:
    """A duration field, or None where it is absent."""
    value = message.get(key)
    if value is None:
        return None
    if type(value) not in {int, float} or not 0 <= value < 1e9:  # noqa: PLR2004  also refuses nan
        raise Malformed(f"{key} is not a number of seconds")
    return float(value)
