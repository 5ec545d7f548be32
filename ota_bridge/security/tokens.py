"""Freshness tickets: the bridge's online key says that a manifest is what this device should take now.

A ticket binds the device, the nonce of its latest check-in and the digest of the manifest's envelope, and
gives the time to a device without a clock. Its key can get nothing installed: only authors sign manifests.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ota_bridge.core.errors import InvalidInput, Malformed, ManifestRefused, RefusedReason
from ota_bridge.core.values import Sha256
from ota_bridge.decode import U32, U64, Fields, read_cbor
from ota_bridge.security import cbor, envelope
from ota_bridge.security.keys import PublicKey, SigningKey

NONCE_BYTES: Final = 16
DEVICE_BYTES: Final = 16
_DIGEST_BYTES: Final = 32


class _Key(IntEnum):
    DEVICE = 1
    NONCE = 2
    MANIFEST = 3
    TIME = 4
    VALID = 5
    FLAGS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketFacts:
    """What a ticket says."""

    device: bytes
    nonce: bytes
    manifest_digest: Sha256
    time_s: int
    valid_s: int
    flags: int


def device_id16(device: str) -> bytes:
    """How a ticket and a manifest name the device `product/name`: 16 bytes of its SHA-256."""
    return hashlib.sha256(device.encode()).digest()[:DEVICE_BYTES]


def issue(
    key: SigningKey,
    *,
    device: str,
    nonce: bytes,
    manifest_digest: bytes,
    time_s: int,
    valid_s: int,
    flags: int = 0,
) -> bytes:
    """A ticket for `device` (`product/name`) that answers its `nonce`; raises InvalidInput."""
    if len(nonce) != NONCE_BYTES:
        raise InvalidInput(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    if len(manifest_digest) != _DIGEST_BYTES:
        raise InvalidInput(f"a manifest's digest has {_DIGEST_BYTES} bytes, not {len(manifest_digest)}")
    if not (0 <= time_s <= U64 and 0 <= valid_s <= U32 and 0 <= flags <= U32):
        raise InvalidInput(f"time {time_s}, validity {valid_s} or flags {flags} out of range")
    payload = cbor.write(
        {
            _Key.DEVICE: device_id16(device),
            _Key.NONCE: nonce,
            _Key.MANIFEST: manifest_digest,
            _Key.TIME: time_s,
            _Key.VALID: valid_s,
            _Key.FLAGS: flags,
        }
    )
    return envelope.seal(payload, [key])


def verify(
    ticket: bytes, *, online: Sequence[PublicKey], device: str, nonce: bytes, manifest_digest: bytes
) -> TicketFacts:
    """What a device checks, except the time; raises ManifestRefused with REFUSED_STALE."""
    try:
        opened = envelope.open_envelope(ticket)
        signed = bool(envelope.valid_kids(opened, online))
        facts = _read(opened.payload)
    except Malformed as error:
        raise ManifestRefused(RefusedReason.STALE, f"ticket: {error}") from None
    if not signed:
        raise ManifestRefused(RefusedReason.STALE, "ticket: no signature by a trusted online key")
    checks = {
        "another device": facts.device == device_id16(device),
        "another check-in": facts.nonce == nonce,
        "another manifest": facts.manifest_digest == manifest_digest,
    }
    for other, holds in checks.items():
        if not holds:
            raise ManifestRefused(RefusedReason.STALE, f"the ticket is for {other}")
    return facts


def _read(payload: bytes) -> TicketFacts:
    fields = Fields(read_cbor(payload, max_bytes=envelope.ENVELOPE_BYTES_MAX, max_depth=1), name="ticket")
    fields.only(*_Key)
    return TicketFacts(
        device=fields.binary(_Key.DEVICE, min_bytes=DEVICE_BYTES, max_bytes=DEVICE_BYTES),
        nonce=fields.binary(_Key.NONCE, min_bytes=NONCE_BYTES, max_bytes=NONCE_BYTES),
        manifest_digest=Sha256(fields.binary(_Key.MANIFEST, min_bytes=_DIGEST_BYTES, max_bytes=_DIGEST_BYTES)),
        time_s=fields.uint(_Key.TIME, maximum=U64),
        valid_s=fields.uint(_Key.VALID, maximum=U32),
        flags=fields.uint(_Key.FLAGS, maximum=U32),
    )
