"""The signed envelope that manifests, tickets and keysets share: `[payload, [signature, …]]` in deterministic CBOR.

Each signature is an untagged COSE_Sign1 (RFC 9052 §4.2) with a detached payload,
`[protected, {4: key id}, null, signature]`, over `["Signature1", protected, context, payload]`. So several
authors sign the same bytes on different machines, and a device needs no CBOR writer: what is signed is a
constant head and the payload as received. The payload is never serialised again.

1. The envelope is at most as large as its `Kind` says; signatures are written in the order of their key ids.
2. A signature by a key that is not trusted is ignored: it may be for devices with a newer key.
3. A signature that names a trusted key and does not hold refuses the whole envelope: it was tampered with.
4. A key counts once, however often it signed.
5. A signature over one kind of envelope never holds for another whose context differs.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.core.values import Sha256
from ota_bridge.decode import Fields, read_cbor
from ota_bridge.security import cbor
from ota_bridge.security.keys import KID_BYTES, SIGNATURE_BYTES, Algorithm, PublicKey, SigningKey

ENVELOPE_BYTES_MAX: Final = 512
"""Of a manifest or a ticket."""
_KID_LABEL: Final = 4  # RFC 9052 §3.1
SIGNATURES_MAX: Final = 8
_DETACHED: Final = 2  # the place of the payload in a COSE_Sign1
_PROTECTED: Final = {
    Algorithm.ED25519: bytes.fromhex("a10132"),  # {1: -19}
    Algorithm.P256: bytes.fromhex("a10128"),  # {1: -9}, ESP256
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What an envelope is for: its name in errors, how large it may be, what else its signatures cover."""

    name: str
    max_bytes: int
    context: bytes = b""


MANIFEST: Final = Kind(name="manifest", max_bytes=ENVELOPE_BYTES_MAX)
"""Tickets, too: their keys are never those of authors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One author's signature: who says to have made it, with which algorithm, and its 64 bytes."""

    kid: bytes
    protected: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A taken-apart envelope; nothing in it has been verified."""

    payload: bytes
    signatures: tuple[Signature, ...]


def signed_bytes(protected: bytes, payload: bytes, context: bytes = b"") -> bytes:
    """What a signature covers (RFC 9052 §4.4)."""
    return cbor.write(["Signature1", protected, context, payload])


def seal(payload: bytes, keys: Iterable[SigningKey], *, kind: Kind = MANIFEST) -> bytes:
    """Sign `payload` with each key; raises InvalidInput when a key comes twice or the result is too large."""
    signatures = [_signature(payload, key, kind) for key in keys]
    if not signatures:
        raise InvalidInput("at least one key must sign")
    return write(payload, signatures, kind=kind)


def add(envelope: bytes, key: SigningKey, *, kind: Kind = MANIFEST) -> bytes:
    """`envelope` with one more signature; those in it stay as they are, the payload byte for byte."""
    opened = open_envelope(envelope, kind=kind, min_signatures=0)
    return write(opened.payload, [*opened.signatures, _signature(opened.payload, key, kind)], kind=kind)


def write(payload: bytes, signatures: Sequence[Signature], *, kind: Kind) -> bytes:
    """An envelope from its parts; raises InvalidInput as `seal` does."""
    kids = [signature.kid for signature in signatures]
    if len(set(kids)) != len(kids):
        raise InvalidInput("the same key signs twice")
    ordered = sorted(signatures, key=lambda signature: signature.kid)
    envelope = cbor.write([payload, [[s.protected, {_KID_LABEL: s.kid}, None, s.value] for s in ordered]])
    if len(envelope) > kind.max_bytes:
        raise InvalidInput(f"the signed {kind.name} is {len(envelope)} bytes, at most {kind.max_bytes} are allowed")
    return envelope


def open_envelope(envelope: bytes, *, kind: Kind = MANIFEST, min_signatures: int = 1) -> Envelope:
    """Take an envelope apart; raises Malformed. Use `valid_kids` to learn whom to believe."""
    outer = Fields.of_array(read_cbor(envelope, max_bytes=kind.max_bytes), min_items=2, max_items=2, name="envelope")
    payload = outer.binary(0, min_bytes=1, max_bytes=kind.max_bytes)
    listed = outer.array(1, min_items=min_signatures, max_items=SIGNATURES_MAX)
    return Envelope(payload=payload, signatures=tuple(_read_signature(listed, i) for i in range(len(listed))))


def valid_kids(opened: Envelope, trusted: Sequence[PublicKey], *, kind: Kind = MANIFEST) -> frozenset[bytes]:
    """The trusted keys that signed; raises Malformed where one of their signatures does not hold."""
    by_kid = {key.kid: key for key in trusted}
    valid: set[bytes] = set()
    for signature in opened.signatures:
        key = by_kid.get(signature.kid)
        if key is None:
            continue
        if signature.protected != _PROTECTED[key.algorithm]:
            raise Malformed(f"the signature by {key.kid.hex()} names another algorithm than {key.algorithm}")
        if not key.verify(signed_bytes(signature.protected, opened.payload, kind.context), signature.value):
            raise Malformed(f"the signature by {key.kid.hex()} does not match")
        valid.add(key.kid)
    return frozenset(valid)


def digest(envelope: bytes) -> Sha256:
    """The name of an envelope."""
    return Sha256(hashlib.sha256(envelope).digest())


def _read_signature(listed: Fields, index: int) -> Signature:
    parts = listed.array(index, min_items=4, max_items=4)
    protected = parts.binary(0, min_bytes=1, max_bytes=8)
    if protected not in _PROTECTED.values():
        raise Malformed(f"envelope: signature {index} has an unknown protected header {protected.hex()}")
    unprotected = parts.mapping(1)
    unprotected.only(_KID_LABEL)
    kid = unprotected.binary(_KID_LABEL, min_bytes=KID_BYTES, max_bytes=KID_BYTES)
    if _DETACHED in parts:
        raise Malformed(f"envelope: signature {index} carries a payload of its own")
    value = parts.binary(3, min_bytes=SIGNATURE_BYTES, max_bytes=SIGNATURE_BYTES)
    return Signature(kid=kid, protected=protected, value=value)


def _signature(payload: bytes, key: SigningKey, kind: Kind) -> Signature:
    protected = _PROTECTED[key.algorithm]
    value = key.sign(signed_bytes(protected, payload, kind.context))
    return Signature(kid=key.kid, protected=protected, value=value)
