"""What ThingsBoard devices say, and on which topics: strict and bounded readers; only Malformed leaves them."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ota_bridge.core.errors import ConfigError, Malformed
from ota_bridge.core.values import DeviceId
from ota_bridge.decode import Fields, read_json
from ota_bridge.dialect import Products

NAME: Final = "thingsboard"
TELEMETRY_MAX_BYTES: Final = 65_536
_NUMBER: Final = re.compile(r"[0-9]{1,10}")


class FwState(StrEnum):
    """The values of `fw_state`."""

    IDLE = "IDLE"
    QUEUED = "QUEUED"
    INITIATED = "INITIATED"
    DOWNLOADING = "DOWNLOADING"
    DOWNLOADED = "DOWNLOADED"
    VERIFIED = "VERIFIED"
    UPDATING = "UPDATING"
    UPDATED = "UPDATED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """The firmware's part of a telemetry message."""

    title: str | None = None
    version: str | None = None
    state: FwState | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesAsked:
    """A request for attributes."""

    request: str
    is_for_firmware: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsAsked:
    """`getSessionLimits`: the Python client's first word on each connection."""

    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A request for chunk 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the topics of the devices are."""

    prefix: str
    products: Products

    def read(self, topic: str) -> tuple[DeviceId, list[str]]:
        """Who speaks, and the levels after that; raises Malformed."""
        before = f"{self.prefix}/"
        name, slash, tail = topic.removeprefix(before).partition("/")
        if not topic.startswith(before) or not slash:
            raise Malformed(f"topic {topic[:80]!r} is not one of a device below {self.prefix}")
        return self.products.device(name), tail.split("/")


def is_number(text: str) -> bool:
    """Whether a level of a topic, or a payload, is a number as these devices write it."""
    return _NUMBER.fullmatch(text) is not None


def checked_prefix(text: str) -> str:
    if not text or text.startswith("$") or text.endswith("/") or {"+", "#", "\0"} & set(text):
        raise ConfigError(f"dialects.{NAME}.prefix = {text[:40]!r}: topic levels such as tb or site/tb are expected")
    return text


def read_telemetry(payload: bytes) -> Telemetry | None:
    """The newest value of each key of the firmware, in any of the shapes that telemetry may have."""
    read = read_json(payload, max_bytes=TELEMETRY_MAX_BYTES, max_items=4096, floats=True)
    merged: dict[str, Any] = {}
    for entry in sorted(read if isinstance(read, list) else [read], key=_time_of):
        values = Fields(entry, name="telemetry")
        if "ts" in values and "values" in values:
            values = values.mapping("values")
        keys = ("current_fw_title", "current_fw_version", "fw_state", "fw_error")
        merged |= {key: values.note(key, max_characters=255) for key in keys if key in values}
    if not merged:
        return None
    return Telemetry(
        title=merged.get("current_fw_title"),
        version=merged.get("current_fw_version"),
        state=Fields(merged).choice("fw_state", FwState) if "fw_state" in merged else None,
        error=merged.get("fw_error", ""),
    )


def _time_of(entry: object) -> float:
    """What has no time of its own is of now."""
    ts = entry.get("ts") if isinstance(entry, dict) else None
    return float(ts) if isinstance(ts, int | float) else float("inf")


def read_attributes(request: str, payload: bytes) -> AttributesAsked:
    fields = Fields(read_json(payload, max_bytes=4096) if payload else {}, name="attributes request")
    shared = fields.text("sharedKeys", max_bytes=4096) if "sharedKeys" in fields else ""
    return AttributesAsked(request=request, is_for_firmware=any(key.startswith("fw_") for key in shared.split(",")))


def read_rpc(request: str, payload: bytes) -> LimitsAsked | None:
    fields = Fields(read_json(payload, max_bytes=TELEMETRY_MAX_BYTES, floats=True), name="RPC")
    return LimitsAsked(request=request) if fields.text("method", max_bytes=4096) == "getSessionLimits" else None
