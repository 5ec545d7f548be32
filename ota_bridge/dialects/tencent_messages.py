"""The messages of Tencent's devices: what they say, and what can be said to them without harm.

A device's own reader undoes no escapes and looks for keys by name: what is written for it has no escapes and every key.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ota_bridge.core.conversation import Update
from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.core.messages import ReportState
from ota_bridge.core.values import DeviceId, checked_version
from ota_bridge.decode import U32, Fields, number, shown
from ota_bridge.wire import MqttMessage

DEVICES_MAX: Final = 32
"""Of one message of a gateway; the vendor's own names one."""
RESOURCES_MAX: Final = 32
VERSION_MAX_BYTES: Final = 64
"""Of progress. What is longer is nobody's version here."""
OPERATIONS: Final = ("online", "offline", "bind", "unbind", "describe_sub_devices")

_CODE: Final = re.compile(r"-?[0-9]{1,4}")
_STATES: Final = frozenset({ReportState.DOWNLOADING, ReportState.BURNING, ReportState.DONE, ReportState.FAIL})
_PERCENT_MAX: Final = 100

Body = Mapping[str, Any]
"""A message as it came: for people, never for decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """`report_version`: the version that runs."""

    version: str
    body: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advances:
    """`report_progress`; `resource` is empty for firmware. `version` is the one that is wanted."""

    state: ReportState
    version: str
    percent: int | None = None
    code: str = "0"
    resource: str = ""
    body: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """The explorer's list of resources: name to version, and the list as it came."""

    versions: Mapping[str, str]
    listed: Sequence[Mapping[str, str]]
    body: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operates:
    """What a gateway says of the devices behind it."""

    operation: str
    devices: Sequence[DeviceId]
    body: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a gateway said of this device: that it came online behind it, or went."""

    gateway: DeviceId
    is_online: bool
    body: Body = field(default_factory=dict)


Message = Runs | Advances | Holds | Operates | Moved


# --- reading ---------------------------------------------------------------------------------------------------------


def read_report(body: Body) -> Runs | Advances:
    """A message on `report`; raises Malformed and InvalidInput."""
    fields = Fields(body)
    kind = fields.text("type", max_bytes=32)
    report = fields.mapping("report")
    if kind == "report_version":
        return Runs(version=checked_version(report.text("version", max_bytes=32)), body=body)
    if kind == "report_progress":
        return _advances(report, body)
    raise Malformed(f"type {kind[:40]!r}: report_version or report_progress is expected")


def _advances(report: Fields, body: Body, *, has_resource: bool = False) -> Advances:
    progress = report.mapping("progress")
    state = progress.choice("state", ReportState)
    if state not in _STATES:
        raise Malformed(f"state {state.value!r}: allowed are {', '.join(sorted(_STATES))}")
    percent = progress.optional(progress.number_text, "percent", maximum=U32)
    return Advances(
        state=state,
        version=report.text("version", max_bytes=VERSION_MAX_BYTES),
        percent=None if percent is None or percent > _PERCENT_MAX else percent,
        code=_code(body),
        resource=progress.text("resource_name", min_bytes=1, max_bytes=64) if has_resource else "",
        body=body,
    )


def _code(body: Body) -> str:
    code = body["report"]["progress"].get("result_code", "0")
    if isinstance(code, str) and _CODE.fullmatch(code):
        return code
    return str(number(code, "result_code", minimum=-9999, maximum=9999))


def read_service(body: Any) -> Holds | Advances | None:
    """A message on the explorer's service channel; None: it is of another service. Raises Malformed, InvalidInput."""
    fields = Fields(body)
    method = fields.text("method", max_bytes=64)
    if method not in {"report_version", "report_progress", "report_result"}:
        return None
    report = fields.mapping("report")
    if method == "report_version":
        return _holds(report, body)
    said = _advances(report, body, has_resource=True)
    if method == "report_result" and said.state is ReportState.DONE and said.code != "0":
        return Advances(
            state=ReportState.FAIL, version=said.version, code=said.code, resource=said.resource, body=body
        )  # fmt: skip
    return said


def _holds(report: Fields, body: Body) -> Holds:
    listed = report.array("resource_list", max_items=RESOURCES_MAX)
    found: list[dict[str, str]] = []
    for index in range(len(listed)):
        one = listed.mapping(index)
        kind = one.text("resource_type", max_bytes=32) if "resource_type" in one else ""
        name = one.text("resource_name", min_bytes=1, max_bytes=64)
        version = checked_version(one.text("version", max_bytes=32))
        found.append({"resource_name": name, "version": version, "resource_type": kind})
    return Holds(versions={one["resource_name"]: one["version"] for one in found}, listed=found, body=body)


def read_operation(body: Any) -> Operates:
    """A message of a gateway; raises Malformed."""
    fields = Fields(body)
    operation = fields.text("type", max_bytes=32)
    if operation not in OPERATIONS:
        raise Malformed(f"type {operation!r}: allowed are {', '.join(OPERATIONS)}")
    payload = fields.mapping("payload") if "payload" in fields else None
    if operation == "describe_sub_devices" or payload is None:
        return Operates(operation=operation, devices=(), body=body)
    listed = payload.array("devices", min_items=1, max_items=DEVICES_MAX)
    devices = tuple(_device(listed.mapping(index)) for index in range(len(listed)))
    return Operates(operation=operation, devices=devices, body=body)


def _device(fields: Fields) -> DeviceId:
    product, name = fields.text("product_id", max_bytes=64), fields.text("device_name", max_bytes=64)
    try:
        return DeviceId(product, name)
    except InvalidInput as error:
        raise Malformed(f"{shown(product)}/{shown(name)}: {error}") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def version_answer(version: str) -> bytes:
    """The only answer to a version report that does no harm: any other code ends the device's updates for good."""
    return _text({"result_code": 0, "result_msg": "success", "type": "report_version_rsp", "version": version})


def firmware_notice(update: Update) -> bytes:
    """`update_firmware`, with exactly the five keys."""
    return _text({**_file(update), "type": "update_firmware"})


def resource_notice(update: Update) -> bytes:
    """`update_resource`; what type a resource is of, its author may say."""
    kind = update.metadata.get("tencent.resource_type", "FILE")
    named = {"resource_name": update.component, "resource_type": kind}
    return _text({"method": "update_resource", **named, **_file(update)})


def resource_answer(listed: Sequence[Mapping[str, str]]) -> bytes:
    """The only answer to a list of resources that does no harm."""
    return _text(
        {"method": "report_version_rsp", "result_code": 0, "result_msg": "success", "resource_list": list(listed)}
    )


def operation_answer(operation: str, devices: Sequence[DeviceId]) -> bytes:
    """What a gateway waits for before it does anything for a device behind it."""
    named = [{"product_id": one.product, "device_name": one.name, "result": 0} for one in devices]
    return _written({"type": operation, "payload": {"devices": named}})


def to(topic: str, payload: bytes) -> MqttMessage:
    """Everything goes out at QoS 0: at QoS 1 devices take packet ids for those of before a reconnection. Nothing is
    retained: they lose it, or find it later than is good.
    """
    return MqttMessage(topic=topic, payload=payload, qos=0)


def _file(update: Update) -> dict[str, Any]:
    return {
        "file_size": update.size_bytes,
        "md5sum": update.md5.lower(),
        "url": update.url,
        "version": update.version,
    }


def _text(body: Mapping[str, Any]) -> bytes:
    return _written(dict(sorted(body.items())))  # in the order of the vendor's own


def _written(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
