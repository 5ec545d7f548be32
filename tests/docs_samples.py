"""The wire samples of docs/protocol.md, built by the bridge's own code from fixed keys, names and bytes.

`generate_docs` writes them into the pages; `test_docs` reads them back with the simulator's decoders.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ota_bridge.core.conversation import Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.manifest import ManifestContent, PayloadType, class_id, vendor_id
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.core.messages import (
    CancelUpdate,
    CheckInRequest,
    Encoding,
    KeysetNotice,
    Offer,
    ReportAck,
)
from ota_bridge.core.updates import sha256
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256
from ota_bridge.dialects import tencent_messages
from ota_bridge.dialects.native import NativeDialect, pack
from ota_bridge.dialects.tencent import TencentDialect
from ota_bridge.security import envelope, keyset, manifest, tokens
from ota_bridge.security.keys import SigningKey
from ota_bridge.security.trust import Trust

ROOT: Final = "$ota"
DEVICE: Final = DeviceId("demo", "d1")
HARDWARE: Final = "r1"
VENDOR: Final = "example.com"
AUTHOR: Final = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECOND_AUTHOR: Final = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96))))
ONLINE: Final = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64))))
TRUST: Final = Trust(vendor=VENDOR, authors=(AUTHOR.public,), online=(ONLINE.public,))
IMAGE: Final = bytes(i * i % 251 for i in range(10_000))
CHUNK_BYTES: Final = 4096
DEPLOYMENT: Final = DeploymentId("7d1f0a3b9c42")
BOOT: Final = 7
NONCE: Final = bytes(range(0xA0, 0xB0))
OFFERED_S: Final = 1_767_225_600
"""2026-01-01 00:00:00 UTC."""
DIALECT: Final = NativeDialect(ROOT, TencentDialect({}).report)


def _content() -> ManifestContent:
    chunks = ChunkHasher(CHUNK_BYTES)
    chunks.update(IMAGE)
    vendor = vendor_id(VENDOR)
    return ManifestContent(
        seq=4,
        vendor=vendor,
        classes=(class_id(vendor, DEVICE.product, HARDWARE),),
        version="1.1.0",
        component="firmware",
        payload_type=PayloadType.RAW,
        size_bytes=len(IMAGE),
        sha256=Sha256(hashlib.sha256(IMAGE).digest()),
        chunk_bytes=CHUNK_BYTES,
        merkle_root=Sha256(chunks.finish()),
    )


CONTENT: Final = _content()
ENVELOPE: Final = manifest.sign(manifest.encode_payload(CONTENT), [AUTHOR])
DIGEST: Final = envelope.digest(ENVELOPE)
TICKET: Final = tokens.issue(
    ONLINE, device=str(DEVICE), nonce=NONCE, manifest_digest=DIGEST, time_s=OFFERED_S, valid_s=86_400
)
KEYSET: Final = replace(TRUST.keyset, version=2, threshold=2, authors=(AUTHOR.public, SECOND_AUTHOR.public))
STEP: Final = envelope.seal(keyset.encode(KEYSET), [AUTHOR, SECOND_AUTHOR], kind=keyset.KIND)
ARTIFACT: Final = bytes(CONTENT.sha256[:8])

CHECK_IN: Final[Mapping[str, Any]] = {
    "type": "report_version",
    "report": {"version": "1.0.0"},
    "proto": 1,
    "hw": HARDWARE,
    "boot": BOOT,
    "seq": 1,
    "nonce": NONCE,
    "max_packet": 8192,
    "max_block": 1024,
    "max_window": 4,
    "next_s": 3600,
    "parts": {"firmware": ["1.0.0", 3, b"", 0]},
    "have": [[ARTIFACT, 4096]],
    "keys": 1,
}
BURNING: Final[Mapping[str, Any]] = {
    "type": "report_progress",
    "report": {"progress": {"state": "burning", "result_code": "0", "result_msg": ""}, "version": "1.1.0"},
    "id": DEPLOYMENT,
    "component": "firmware",
    "boot": BOOT,
    "seq": 4,
}
FAILED: Final[Mapping[str, Any]] = {
    "type": "report_progress",
    "report": {
        "progress": {"state": "fail", "result_code": "REFUSED_CLASS", "result_msg": "for another product or hardware"},
        "version": "1.0.0",
    },
    "id": DEPLOYMENT,
    "component": "firmware",
    "boot": BOOT,
    "seq": 2,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One PUBLISH of the protocol."""

    topic: str
    qos: int
    payload: bytes


def _offer(encoding: Encoding, max_packet: int) -> Sample:
    return _down(
        Offer(
            device=DEVICE,
            encoding=encoding,
            deployment=DEPLOYMENT,
            release="demo/1.1.0",
            component="firmware",
            manifest=ENVELOPE,
            manifest_digest=DIGEST,
            ticket=TICKET,
            ticket_digest=sha256(TICKET),
            boot=BOOT,
            nonce=NONCE,
            block_max=1024,
            window_max=4,
            resend_after_s=60,
            max_packet=max_packet,
        )
    )


def _keyset(max_packet: int) -> Sample:
    return _down(
        KeysetNotice(
            device=DEVICE,
            encoding=Encoding.MSGPACK,
            version=KEYSET.version,
            step=STEP,
            digest=sha256(STEP),
            max_packet=max_packet,
        )
    )


def _down(message: Any) -> Sample:
    sent = DIALECT.encode(message)
    assert sent is not None
    return Sample(sent.topic, sent.qos, sent.payload)


def _report(body: Mapping[str, Any], encoding: Encoding = Encoding.MSGPACK) -> Sample:
    return Sample(f"{ROOT}/report/{DEVICE}", 1, pack(body, encoding))


def _ack(encoding: Encoding, **more: Any) -> Sample:
    return _down(ReportAck(device=DEVICE, encoding=encoding, boot=BOOT, **more))


def _request(*fields: Any) -> Sample:
    return Sample(f"{ROOT}/get/{DEVICE}", 0, msgpack.packb(list(fields)))


def _refusal(code: BlockRefusal, retry_after_s: int) -> Sample:
    artifact, offset = (b"", 0) if code is BlockRefusal.MALFORMED else (ARTIFACT, 4096)
    payload = DIALECT.encode_refusal(artifact, offset, code, retry_after_s, 16_384, 16)
    return Sample(f"{ROOT}/block/{DEVICE}", 0, payload)


def _block() -> Sample:
    before, after = DIALECT.block_frame(ARTIFACT, 64)
    payload = before + DIALECT.pack_offset(4096) + after + IMAGE[4096 : 4096 + 64]
    return Sample(DIALECT.answer_topic(DEVICE).decode(), 0, payload)


PUBLIC_OFFER: Final = Update(
    id=DEPLOYMENT,
    release="demo/1.1.0",
    component="firmware",
    version="1.1.0",
    attempt=1,
    state=State.OFFERED,
    cause="offered",
    size_bytes=len(IMAGE),
    sha256=CONTENT.sha256,
    md5=hashlib.md5(IMAGE, usedforsecurity=False).hexdigest(),
    file_name="image.bin",
    metadata={},
    url="http://updates.example.com/f/" + "A" * 46,
    offers=1,
    created_wall=OFFERED_S,
    changed_wall=OFFERED_S,
    last_block_wall=None,
    high_water_bytes=0,
)
CHILD: Final = DeviceId("lamps", "light1")

_ONLINE: Final = tencent_messages.operation_answer("online", [CHILD])

SAMPLES: Final[Mapping[str, Sample]] = {
    "check_in_json": _report(CHECK_IN, Encoding.JSON),
    "check_in_msgpack": _report(CHECK_IN),
    "check_in_public": _report({"type": "report_version", "report": {"version": "1.0.0"}}, Encoding.JSON),
    "progress_burning": _report(BURNING),
    "progress_fail": _report(FAILED, Encoding.JSON),
    "report_ack": _ack(Encoding.MSGPACK, seqs=(1,)),
    "report_ack_json": _ack(Encoding.JSON, seqs=(1,)),
    "report_ack_go": _ack(Encoding.MSGPACK, seqs=(4,), go=(DEPLOYMENT,)),
    "offer_long": _offer(Encoding.MSGPACK, 8192),
    "offer_short": _offer(Encoding.MSGPACK, 512),
    "offer_public": Sample(f"{ROOT}/update/{DEVICE}", 0, tencent_messages.firmware_notice(PUBLIC_OFFER)),
    "answer_public": Sample(f"{ROOT}/update/{DEVICE}", 0, tencent_messages.version_answer("1.0.0")),
    "gateway_online": Sample(f"$gateway/operation/result/{DEVICE}", 0, _ONLINE),
    "update_keys": _keyset(8192),
    "update_keys_short": _keyset(256),
    "cancel_update": _down(CancelUpdate(device=DEVICE, encoding=Encoding.MSGPACK, deployment=DEPLOYMENT)),
    "check_in_request": _down(CheckInRequest(device=DEVICE, encoding=Encoding.MSGPACK)),
    "request": _request(ARTIFACT, 4096, 1024, 4),
    "request_missing": _request(ARTIFACT, 4096, 1024, 4, b"\x0a"),
    "request_chunk_list": _request(bytes(CONTENT.merkle_root[:8]), 0, 96, 1),
    "block": _block(),
    "refusal_1": _refusal(BlockRefusal.NOT_OPEN, 30),
    "refusal_2": _refusal(BlockRefusal.PAST_END, 0),
    "refusal_3": _refusal(BlockRefusal.ABOVE_LIMIT, 0),
    "refusal_4": _refusal(BlockRefusal.BUSY, 2),
    "refusal_5": _refusal(BlockRefusal.PAUSED, 30),
    "refusal_6": _refusal(BlockRefusal.WITHDRAWN, 30),
    "refusal_7": _refusal(BlockRefusal.MALFORMED, 0),
}


def spelled(payload: bytes) -> str:
    """A payload for people: JSON or msgpack as JSON-like text, one top-level key per line, bytes as h'…'."""
    value = json.loads(payload) if payload[:1] == b"{" else msgpack.unpackb(payload)
    if isinstance(value, dict):
        lines = [f"  {json.dumps(key)}: {_inline(item)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n}"
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, bytes):
        text = value.hex()
        return f"h'{text}'" if len(value) <= 32 else f"h'{text[:16]}…{text[-8:]}' ({len(value)} bytes)"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def base64_text(data: bytes) -> str:
    """As binary stands in JSON."""
    return base64.b64encode(data).decode()
