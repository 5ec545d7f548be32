"""The native dialect: `$ota`, protocol 1 (docs/protocol.md).

Rules of this dialect:
1. The topic `{root}/{report|get}/{product}/{device}` is the only proof of who speaks; what a payload says of
   identity is ignored.
2. Reports are JSON or msgpack, told apart by the first byte; answers go in the encoding of the last check-in.
3. A report without any of `proto`, `boot` and `seq` is of the public shapes that this protocol extends, and handed on
   to their dialect (`tencent`).
4. Nothing is ever retained on `update`: an early notice is lost by some devices and obeyed too late by others.
5. An offer or a keyset that does not fit the device's largest packet goes in the short form: digests to be fetched as
   artifacts.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, assert_never

import msgpack

from ota_bridge.core.errors import BlockRefusal, InvalidInput, Malformed
from ota_bridge.core.messages import (
    BlockRequest,
    CancelUpdate,
    CheckIn,
    CheckInRequest,
    Downlink,
    Encoding,
    Event,
    InstalledPart,
    KeysetNotice,
    Offer,
    Progress,
    Rejected,
    ReportAck,
    ReportKey,
    ReportState,
    Said,
    Saying,
    Uplink,
)
from ota_bridge.core.values import (
    FIRMWARE,
    MIN_PREFIX_BYTES,
    NATIVE,
    DeploymentId,
    DeviceId,
    checked_component,
    checked_hardware_id,
    checked_version,
)
from ota_bridge.core.views import iso
from ota_bridge.decode import U32, U64, Fields, number, read_json, read_msgpack, shown
from ota_bridge.dialect import MalformedRequest
from ota_bridge.json_text import compact_encoder
from ota_bridge.wire import MqttMessage, Subscription

REPORT_MAX_BYTES: Final = 8192
REQUEST_MAX_BYTES: Final = 2304
MISSING_MAX_BYTES: Final = 2048
PARTS_MAX: Final = 16
HAVE_MAX: Final = 16
NAME_MAX: Final = 64
NONCE_BYTES: Final = 16
DIGEST_PREFIX_BYTES: Final = 8
DAYS_400_S: Final = 400 * 86_400
_ARRAY_OF_4: Final = b"\x94"
_QUICK_MAX_BYTES: Final = 64
_unpack = msgpack.unpackb
_UNPACK_ERRORS: Final = (ValueError, TypeError, OverflowError, msgpack.UnpackException)
_MSGPACK_MAPS: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})

_NATIVE_FIELDS: Final = ("proto", "boot", "seq")
_REFUSAL: Final = re.compile(r"[A-Z][A-Z_]*")
_RESULT_CODE: Final = re.compile(r"-?[0-9]{1,4}|[A-Z][A-Z_]{0,31}")

Public = Callable[[DeviceId, Mapping[str, Any]], Said | Rejected]
"""The meaning of a report without native fields, already taken apart."""


def _of_nobody(device: DeviceId, _body: Mapping[str, Any]) -> Rejected:
    return Rejected(device=device, reason="the report has none of the native fields `proto`, `boot` and `seq`")


class NativeDialect:
    """Both planes of the native dialect under one topic root."""

    name = "native"

    def __init__(self, root: str, public: Public = _of_nobody) -> None:
        """`public`: who understands reports without native fields."""
        self.root = root
        self._public = public
        self._report = f"{root}/report/"
        self._get = f"{root}/get/".encode()
        self._block = f"{root}/block/".encode()
        # One packer for all answers: each call of packb would make its own, with a buffer of 256 KiB.
        self.pack_offset: Callable[[int], bytes] = msgpack.Packer().pack
        self._pack: Callable[[list[Any]], bytes] = msgpack.Packer().pack

    def subscriptions(self) -> Sequence[Subscription]:
        """Reports, at QoS 1: exactly two levels, so nobody can slip a deeper topic in."""
        return (Subscription(topic_filter=f"{self.root}/report/+/+", qos=1),)

    # --- reports -----------------------------------------------------------------------------------------

    def decode(self, message: MqttMessage) -> Uplink:
        """The meaning of a report; raises Malformed where the topic names no device."""
        if not message.topic.startswith(self._report):
            raise Malformed(f"topic {message.topic[:80]!r} is not a report topic")
        device = _device(message.topic[len(self._report) :])
        try:
            body, is_msgpack = _body(message.payload)
            if all(body.get(name) is None for name in _NATIVE_FIELDS):
                return self._public(device, body)
            return _report(device, message.payload, body, is_msgpack=is_msgpack)
        except (Malformed, InvalidInput) as error:
            return Rejected(device=device, reason=str(error))

    def encode(self, downlink: Downlink) -> MqttMessage | None:
        """The message on the device's update topic."""
        topic = f"{self.root}/update/{downlink.device}"
        match downlink:
            case ReportAck():
                body: dict[str, Any] = {"type": "report_ack", "boot": downlink.boot, "seqs": list(downlink.seqs)}
                if downlink.go:
                    body["go"] = list(downlink.go)
                if downlink.stop:
                    body["stop"] = list(downlink.stop)
            case Offer():
                return MqttMessage(topic=topic, payload=_offer(downlink, len(topic.encode())), qos=1)
            case CancelUpdate():
                body = {"type": "cancel_update", "id": downlink.deployment}
            case CheckInRequest():
                body = {"type": "check_in"}
            case KeysetNotice():
                return MqttMessage(topic=topic, payload=_keyset(downlink, len(topic.encode())), qos=1)
            case Saying(message=MqttMessage() as message):
                return message
            case Saying():
                return None
            case _ as unreachable:
                assert_never(unreachable)
        return MqttMessage(topic=topic, payload=pack(body, downlink.encoding), qos=1)

    # --- operators ---------------------------------------------------------------------------------------

    def event(self, event: Event) -> MqttMessage:
        """One JSON line for people; bytes in it are shown in hex."""
        line = event_line(event)
        return MqttMessage(topic=f"{self.root}/event/{event.device}", payload=line.encode(), qos=0)

    def state(self, name: str, summary: Mapping[str, Any]) -> MqttMessage:
        """A retained summary at `{root}/state/{name}`."""
        return MqttMessage(topic=f"{self.root}/state/{name}", payload=_json(summary).encode(), qos=1, retain=True)

    # --- blocks ------------------------------------------------------------------------------------------

    def block_filter(self) -> str:
        """Block requests."""
        return f"{self.root}/get/+/+"

    def requester(self, topic: bytes) -> DeviceId:
        """Who asks; raises Malformed."""
        if not topic.startswith(self._get):
            raise Malformed(f"topic {topic[:80]!r} is not a block request topic")
        return _device(topic[len(self._get) :].decode("utf-8", "replace"))

    def answer_topic(self, device: DeviceId) -> bytes:
        """The device's block topic."""
        return self._block + str(device).encode()

    def decode_request(self, payload: bytes) -> BlockRequest:
        """`[artifact, offset, size, count]` or with `missing`; raises MalformedRequest."""
        artifact, offset = b"", 0
        try:
            read = read_msgpack(payload, max_bytes=REQUEST_MAX_BYTES, max_depth=1, max_items=5)
            fields = Fields.of_array(read, min_items=4, max_items=5, name="block request")
            artifact = fields.binary(0, min_bytes=MIN_PREFIX_BYTES, max_bytes=32)
            offset = fields.uint(1, maximum=U64)
            return BlockRequest(
                artifact=artifact,
                offset=offset,
                size=fields.uint(2, minimum=1, maximum=U32),
                count=fields.uint(3, minimum=1, maximum=U32),
                missing=fields.binary(4, min_bytes=1, max_bytes=MISSING_MAX_BYTES) if len(fields) > 4 else None,  # noqa: PLR2004
            )
        except Malformed as error:
            raise MalformedRequest(str(error), artifact=artifact, offset=offset) from error

    def quick_request(self, payload: bytes) -> list[Any] | None:
        """A plain `[artifact, offset, size, count]`; None for everything else.

        The length and the first byte bound what msgpack can build of it.
        """
        if len(payload) > _QUICK_MAX_BYTES or payload[:1] != _ARRAY_OF_4:
            return None
        try:
            request: list[Any] = _unpack(payload)
        except _UNPACK_ERRORS:
            return None
        artifact, offset, size, count = request
        # bool is an int to isinstance, and a device that writes true for 1 is wrong.
        if (
            type(artifact) is bytes
            and type(offset) is int
            and type(size) is int
            and type(count) is int
            and offset >= 0
            and size > 0
            and count > 0
        ):
            return request
        return None

    def block_frame(self, artifact: bytes, length: int) -> tuple[bytes, bytes]:
        """`[artifact, offset, data]` around the offset."""
        return b"\x93" + _bin_head(len(artifact)) + artifact, _bin_head(length)

    def encode_refusal(
        self, artifact: bytes, offset: int, code: BlockRefusal, retry_after_s: int, size_max: int, count_max: int
    ) -> bytes:
        """`[artifact, offset, code, retry_after_s, size_max, count_max]`: the third element is an integer."""
        return self._pack([artifact, offset, int(code), retry_after_s, size_max, count_max])


# --- reading -----------------------------------------------------------------------------------------------------


def _device(levels: str) -> DeviceId:
    try:
        device = DeviceId.parse(levels)
    except InvalidInput as error:
        raise Malformed(f"topic: {error}") from error
    if len(device.name) > NAME_MAX:
        raise Malformed(f"topic: device name {device.name[:40]!r}… has more than {NAME_MAX} characters")
    return device


def _body(payload: bytes) -> tuple[dict[str, Any], bool]:
    """What a report holds, and whether it is msgpack."""
    is_msgpack = bool(payload) and payload[0] in _MSGPACK_MAPS
    if is_msgpack:
        body = read_msgpack(payload, max_bytes=REPORT_MAX_BYTES)
    else:
        body = read_json(payload, max_bytes=REPORT_MAX_BYTES)
    if not isinstance(body, dict):
        raise Malformed(f"message must be a map, not {shown(body)}")
    return body, is_msgpack


def _report(device: DeviceId, payload: bytes, body: dict[str, Any], *, is_msgpack: bool) -> CheckIn | Progress:
    fields = Fields(body, binary_as_text=not is_msgpack)
    kind = fields.text("type", max_bytes=32)
    content = hashlib.sha256(payload).digest()[:8]
    key = ReportKey(boot=fields.uint("boot", maximum=U64), seq=fields.uint("seq", maximum=U64), content=content)
    if kind == "report_version":
        return _check_in(device, fields, body, key, Encoding.MSGPACK if is_msgpack else Encoding.JSON)
    if kind == "report_progress":
        return _progress(device, fields, body, key)
    raise Malformed(f"type {kind[:40]!r}: report_version or report_progress is expected")


def _check_in(device: DeviceId, fields: Fields, body: dict[str, Any], key: ReportKey, encoding: Encoding) -> CheckIn:
    version = checked_version(fields.mapping("report").text("version", max_bytes=32))
    return CheckIn(
        device=device,
        dialect=NATIVE,
        encoding=encoding,
        key=key,
        parts=_parts(fields) if "parts" in fields else {FIRMWARE: InstalledPart(version=version)},
        proto=fields.uint("proto", minimum=1, maximum=U32),
        hw=checked_hardware_id(fields.text("hw", max_bytes=32)),
        nonce=fields.optional(fields.binary, "nonce", min_bytes=NONCE_BYTES, max_bytes=NONCE_BYTES),
        max_packet=fields.uint_or_none("max_packet", minimum=128, maximum=U32),
        max_block=fields.uint_or_none("max_block", minimum=1, maximum=U32),
        max_window=fields.uint_or_none("max_window", minimum=1, maximum=U32),
        next_s=fields.uint_or_none("next_s", maximum=DAYS_400_S),
        have=_have(fields) if "have" in fields else (),
        keyset=fields.uint_or_none("keys", minimum=1, maximum=U32),
        keyset_refused=fields.text("keys_refused", max_bytes=32, pattern=_REFUSAL) if "keys_refused" in fields else "",
        stale_s=fields.uint_or_none("stale_s", maximum=U32),
        body=body,
    )


def _parts(fields: Fields) -> dict[str, InstalledPart]:
    listed = fields.mapping("parts")
    if not 1 <= len(listed) <= PARTS_MAX:
        raise Malformed(f"parts must name 1..{PARTS_MAX} components")
    parts: dict[str, InstalledPart] = {}
    for name in listed:
        entry = listed.array(name, min_items=4, max_items=4)
        parts[checked_component(str(name))] = InstalledPart(
            version=checked_version(entry.text(0, max_bytes=32)),
            seq=entry.uint(1, maximum=U32),
            digest8=_digest8(entry),
            trial=entry.uint(3, maximum=1) == 1,
        )
    return parts


def _digest8(entry: Fields) -> bytes:
    """Eight bytes or none: a shorter prefix would take other images for the offered one."""
    found = entry.binary(2, min_bytes=0, max_bytes=DIGEST_PREFIX_BYTES)
    return found and entry.binary(2, min_bytes=DIGEST_PREFIX_BYTES, max_bytes=DIGEST_PREFIX_BYTES)


def _have(fields: Fields) -> tuple[tuple[bytes, int], ...]:
    listed = fields.array("have", max_items=HAVE_MAX)
    found: list[tuple[bytes, int]] = []
    for index in range(len(listed)):
        entry = listed.array(index, min_items=2, max_items=2)
        found.append((entry.binary(0, min_bytes=MIN_PREFIX_BYTES, max_bytes=32), entry.uint(1, maximum=U64)))
    return tuple(found)


def _progress(device: DeviceId, fields: Fields, body: dict[str, Any], key: ReportKey) -> Progress:
    report = fields.mapping("report")
    progress = report.mapping("progress")
    state = progress.choice("state", ReportState)
    named = fields.optional(fields.text, "id", max_bytes=32)
    return Progress(
        device=device,
        dialect="native",
        key=key,
        deployment=DeploymentId(named) if named is not None else None,
        component=checked_component(fields.text("component", max_bytes=16)) if "component" in fields else FIRMWARE,
        state=state,
        version=report.optional(report.text, "version", max_bytes=32),
        percent=progress.optional(progress.number_text, "percent", maximum=100),
        result_code=_result_code(body),
        result_msg=progress.note("result_msg", max_characters=120) if "result_msg" in progress else "",
        retry_after_s=fields.uint_or_none("retry_after_s", maximum=DAYS_400_S),
        reason=fields.note("reason", max_characters=120) if "reason" in fields else "",
        body=body,
    )


def _result_code(body: dict[str, Any]) -> str:
    """A number or its text (the public codes), or the name of a refusal."""
    code = body["report"]["progress"].get("result_code", "0")
    if isinstance(code, str) and _RESULT_CODE.fullmatch(code):
        return code
    return str(number(code, "result_code", minimum=-9999, maximum=9999))


# --- writing -----------------------------------------------------------------------------------------------------


def pack(body: Mapping[str, Any], encoding: Encoding) -> bytes:
    """A downlink in the device's encoding; binary values become base64 text in JSON."""
    if encoding is Encoding.MSGPACK:
        packed: bytes = msgpack.packb(body)
        return packed
    return json.dumps(_base64ed(body), separators=(",", ":")).encode()


def _base64ed(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: _base64ed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_base64ed(item) for item in value]
    return value


def _offer(offer: Offer, topic_bytes: int) -> bytes:
    body: dict[str, Any] = {
        "type": "update_firmware",
        "id": offer.deployment,
        "release": offer.release,
        "component": offer.component,
        "manifests": [offer.manifest],
        "boot": offer.boot,
        "apply": "now" if offer.apply_now else "on_command",
        "block_max": offer.block_max,
        "window_max": offer.window_max,
        "resend_after_s": offer.resend_after_s,
    }
    if offer.nonce is not None:
        body["nonce"] = offer.nonce
    if offer.ticket is not None:
        body["ticket"] = offer.ticket
    payload = pack(body, offer.encoding)
    if offer.max_packet is None or _packet_bytes(topic_bytes, payload) <= offer.max_packet:
        return payload
    body["manifests"] = [[bytes(offer.manifest_digest), len(offer.manifest)]]
    if offer.ticket is not None and offer.ticket_digest is not None:
        body["ticket"] = [bytes(offer.ticket_digest), len(offer.ticket)]
    return pack(body, offer.encoding)


def _keyset(notice: KeysetNotice, topic_bytes: int) -> bytes:
    body: dict[str, Any] = {"type": "update_keys", "version": notice.version, "keyset": notice.step}
    payload = pack(body, notice.encoding)
    if notice.max_packet is None or _packet_bytes(topic_bytes, payload) <= notice.max_packet:
        return payload
    return pack({**body, "keyset": [bytes(notice.digest), len(notice.step)]}, notice.encoding)


def _packet_bytes(topic_bytes: int, payload: bytes) -> int:
    """The size of a QoS 1 PUBLISH (MQTT 3.1.1 §3.3): head, topic, packet id, payload; the longest head assumed."""
    return 5 + 2 + topic_bytes + 2 + len(payload)


def _bin_head(length: int) -> bytes:
    if length < 1 << 8:
        return b"\xc4" + length.to_bytes(1, "big")
    if length < 1 << 16:
        return b"\xc5" + length.to_bytes(2, "big")
    return b"\xc6" + length.to_bytes(4, "big")


def event_line(event: Event) -> str:
    """An event as one JSON line."""
    product, name = event.device.product, event.device.name
    return _json({"at": iso(event.wall), "event": event.kind, "product": product, "device": name, **event.data})


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value)


_json: Final = compact_encoder(_shown, ensure_ascii=False)
