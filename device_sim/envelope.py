"""Signed envelopes as a device reads them: `[payload, [signature, …]]`, and which keys made the signatures.

Rules: only the two algorithms of the contract, named by constant protected headers; a key counts once; a known key
with a bad signature refuses the whole; unknown keys do not count.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

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
from device_sim.errors import Malformed

PROTECTED: Final = {"ed25519": bytes.fromhex("a10132"), "p256": bytes.fromhex("a10128")}
PUBLIC_BYTES: Final = {"ed25519": 32, "p256": 65}
KID_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64
MAX_SIGNATURES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One public key. Two are equal when they are the same key."""

    kid: bytes
    alg: str
    raw: bytes

    @classmethod
    def of(cls, alg: str, raw: bytes) -> Self:
        """The key of these bytes; `ValueError` when they are none."""
        if PUBLIC_BYTES.get(alg) != len(raw):
            raise ValueError(f"no key of {alg!r} has {len(raw)} bytes")
        key = cls(kid=hashlib.sha256(raw).digest()[:KID_BYTES], alg=alg, raw=raw)
        key.loaded()
        return key

    def loaded(self) -> Ed25519PublicKey | EllipticCurvePublicKey:
        """The key to verify with; `ValueError` when the bytes are no key."""
        if self.alg == "ed25519":
            return Ed25519PublicKey.from_public_bytes(self.raw)
        return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), self.raw)

    def holds(self, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`."""
        public = self.loaded()
        try:
            if isinstance(public, Ed25519PublicKey):
                public.verify(signature, signed)
            else:
                half = SIGNATURE_BYTES // 2
                r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
                public.verify(encode_dss_signature(r, s), signed, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope, not checked yet."""

    protected: bytes
    kid: bytes
    value: bytes


def signed_bytes(protected: bytes, payload: bytes, context: bytes = b"") -> bytes:
    """What a COSE_Sign1 signature covers: ["Signature1", protected, context, payload]."""
    return b"\x84\x6aSignature1" + _bstr(protected) + _bstr(context) + _bstr(payload)


def _bstr(data: bytes) -> bytes:
    size = len(data)
    if size < 24:  # noqa: PLR2004  RFC 8949 §3: the length fits the first byte
        return bytes([0x40 | size]) + data
    return (b"\x58" + bytes([size]) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data  # noqa: PLR2004


def parts(envelope: bytes) -> tuple[bytes, list[Signature]]:
    """The payload and the signatures of an envelope; `Malformed` when it is none."""
    match cbor.loads(envelope):
        case [bytes() as payload, [_, *_] as signatures] if len(signatures) <= MAX_SIGNATURES:
            return payload, [_signature(item) for item in signatures]
    raise Malformed("not an envelope of a payload and its signatures")


def _signature(value: cbor.Value) -> Signature:
    match value:
        case [bytes() as protected, {4: bytes() as kid, **others}, None, bytes() as signature] if (
            not others and len(kid) == KID_BYTES and len(signature) == SIGNATURE_BYTES
        ):
            return Signature(protected, kid, signature)
    raise Malformed("not a detached COSE_Sign1 signature")


def signers(payload: bytes, signatures: list[Signature], keys: dict[bytes, Key], context: bytes = b"") -> set[bytes]:
    """Which of `keys` signed, each once; `Malformed` where a signature is not that of the key it names."""
    seen: set[bytes] = set()
    for signature in signatures:
        key = keys.get(signature.kid)
        if key is None:
            continue
        if signature.protected != PROTECTED[key.alg]:
            raise Malformed(f"the signature of key {key.kid.hex()} names another algorithm")
        if not key.holds(signed_bytes(signature.protected, payload, context), signature.value):
            raise Malformed(f"the signature of key {key.kid.hex()} does not hold")
        seen.add(key.kid)
    return seen
