"""The trust document and the signatures it lets a device believe.

Rules: only the two algorithms of the contract, named by constant protected headers; a key counts once; a
known key with a bad signature refuses the whole; unknown keys do not count; at least `threshold` authors.
The document holds public keys only. `ota-bridge keys new` writes it.
"""

import base64
import binascii
import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from device_sim import cbor
from device_sim.errors import Malformed, ManifestRefused, Refusal, TrustError

PROTECTED: Final = {"ed25519": bytes.fromhex("a10132"), "p256": bytes.fromhex("a10128")}
KID_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64
MAX_SIGNATURES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One public key of the trust document."""

    kid: bytes
    alg: str
    public: Ed25519PublicKey | EllipticCurvePublicKey

    def holds(self, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`."""
        try:
            if isinstance(self.public, Ed25519PublicKey):
                self.public.verify(signature, signed)
            else:
                half = SIGNATURE_BYTES // 2
                r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
                self.public.verify(encode_dss_signature(r, s), signed, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a device was given in the factory: who may sign its firmware, and who vouches for freshness."""

    vendor: str
    threshold: int
    authors: dict[bytes, Key]
    online: dict[bytes, Key]

    @property
    def vendor_id(self) -> bytes:
        """The vendor's UUID, as manifests carry it."""
        return uuid.uuid5(uuid.NAMESPACE_DNS, self.vendor).bytes

    def class_id(self, product: str, hw: str) -> bytes:
        """The UUID of a device class: one product on one hardware."""
        return uuid.uuid5(uuid.UUID(bytes=self.vendor_id), f"{product}/{hw}").bytes

    def open_manifest(self, envelope: bytes) -> bytes:
        """The payload of a manifest envelope that enough authors signed; else REFUSED_SIG."""
        return _open(envelope, self.authors, self.threshold)

    def open_ticket(self, envelope: bytes) -> bytes:
        """The payload of a freshness ticket that an online key signed; else REFUSED_SIG."""
        return _open(envelope, self.online, 1)


def signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """What a COSE_Sign1 signature covers: ["Signature1", protected, h'', payload]."""
    return b"\x84\x6aSignature1" + _bstr(protected) + b"\x40" + _bstr(payload)


def _bstr(data: bytes) -> bytes:
    size = len(data)
    if size < 24:  # noqa: PLR2004  RFC 8949 §3: the length fits the first byte
        return bytes([0x40 | size]) + data
    return (b"\x58" + bytes([size]) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data  # noqa: PLR2004


def _open(envelope: bytes, keys: dict[bytes, Key], threshold: int) -> bytes:
    try:
        payload, signatures = _envelope_parts(cbor.loads(envelope))
    except Malformed as error:
        raise ManifestRefused(Refusal.SIG, str(error)) from None
    seen: set[bytes] = set()
    for signature in signatures:
        key = keys.get(signature.kid)
        if key is None:
            continue
        if signature.protected != PROTECTED[key.alg]:
            raise ManifestRefused(Refusal.SIG, f"the signature of key {key.kid.hex()} names another algorithm")
        if not key.holds(signed_bytes(signature.protected, payload), signature.value):
            raise ManifestRefused(Refusal.SIG, f"the signature of key {key.kid.hex()} does not hold")
        seen.add(key.kid)
    if len(seen) < threshold:
        raise ManifestRefused(Refusal.SIG, f"{len(seen)} trusted signatures of {threshold} needed")
    return payload


@dataclass(frozen=True, slots=True)
class _Signature:
    protected: bytes
    kid: bytes
    value: bytes


def _envelope_parts(value: cbor.Value) -> tuple[bytes, list[_Signature]]:
    match value:
        case [bytes() as payload, [_, *_] as signatures] if len(signatures) <= MAX_SIGNATURES:
            return payload, [_signature(item) for item in signatures]
    raise Malformed("not an envelope of a payload and its signatures")


def _signature(value: cbor.Value) -> _Signature:
    match value:
        case [bytes() as protected, {4: bytes() as kid, **others}, None, bytes() as signature] if (
            not others and len(kid) == KID_BYTES and len(signature) == SIGNATURE_BYTES
        ):
            return _Signature(protected, kid, signature)
    raise Malformed("not a detached COSE_Sign1 signature")


def load_trust(path: Path) -> Trust:
    """Read a trust document; says in one sentence what is wrong with it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise TrustError(f"the trust document {path} does not exist: `ota-bridge keys new` makes it") from None
    except OSError as error:
        raise TrustError(f"the trust document {path} cannot be read: {error.strerror}") from None
    try:
        return parse_trust(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise TrustError(f"{path} is not a trust document: {error}") from None


def parse_trust(document: Any) -> Trust:
    """Build the trust from the parsed JSON; `ValueError` names the field that is wrong."""
    if not isinstance(document, dict) or document.get("format") != 1:
        raise ValueError("format 1 expected")
    vendor, threshold = document.get("vendor"), document.get("threshold", 1)
    if not isinstance(vendor, str) or not vendor:
        raise ValueError("vendor is missing")
    authors = _keys(document.get("authors"), "authors")
    if not authors or type(threshold) is not int or not 1 <= threshold <= len(authors):
        raise ValueError("threshold must be between 1 and the number of authors")
    online = _keys([] if document.get("online") is None else document["online"], "online")
    return Trust(vendor=vendor, threshold=threshold, authors=authors, online=online)


def _keys(entries: Any, field: str) -> dict[bytes, Key]:
    if not isinstance(entries, list):
        raise ValueError(f"{field} is not a list of keys")  # noqa: TRY004  one error for a bad document
    keys = [_key(entry, field) for entry in entries]
    return {key.kid: key for key in keys}


def _key(entry: Any, field: str) -> Key:
    try:
        alg, raw = entry["alg"], base64.b64decode(entry["public"], validate=True)
        kid = bytes.fromhex(entry["kid"])
        public: Ed25519PublicKey | EllipticCurvePublicKey
        if alg == "ed25519":
            public = Ed25519PublicKey.from_public_bytes(raw)
        elif alg == "p256":
            public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), raw)
        else:
            raise ValueError(f"unknown algorithm {alg!r}")  # noqa: TRY301  one sentence for all of them
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"a key in {field} cannot be used: {error}") from None
    if kid != hashlib.sha256(raw).digest()[:KID_BYTES]:
        raise ValueError(f"the kid {kid.hex()} in {field} is not the digest of its key")
    return Key(kid=kid, alg=alg, public=public)
