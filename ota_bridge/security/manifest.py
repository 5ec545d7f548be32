"""Signed manifests: written once, verified as the exact bytes that came, read only after that.

The payload is a map with small unsigned keys (`_Key` below is the format); `envelope` holds the signatures.
`verify` raises ManifestRefused with the name that a device would report:

- REFUSED_SIZE: larger than the 512 bytes that a device sets aside;
- REFUSED_SIG: not an envelope, or not enough valid signatures by trusted authors;
- REFUSED_TYPE: signed, but not a manifest of this format (unknown key, wrong type, value out of range);
- REFUSED_CLASS: another vendor's;
- REFUSED_ROLLBACK, REFUSED_DEP: its seq counts from an earlier keyset than the present one's, or from a later.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from ota_bridge.core.errors import InvalidInput, Malformed, ManifestRefused, RefusedReason
from ota_bridge.core.manifest import (
    CLASSES_MAX,
    DEPENDENCIES_MAX,
    Dependency,
    ManifestContent,
    ManifestFacts,
    PayloadType,
)
from ota_bridge.core.values import Sha256
from ota_bridge.decode import U32, U64, Fields, read_cbor
from ota_bridge.security import cbor, envelope
from ota_bridge.security.keys import SigningKey
from ota_bridge.security.trust import Trust

FORMAT: Final = 1
_UUID_BYTES: Final = 16
_DEPTH_MAX: Final = 4


class _Key(IntEnum):
    """The keys of the payload; 19 and 21 are reserved and refused."""

    FORMAT = 1
    SEQ = 2
    VENDOR = 3
    CLASS = 4
    VERSION = 5
    COMPONENT = 6
    PAYLOAD_TYPE = 7
    SIZE = 8
    SHA256 = 9
    LOG2_CHUNK = 10
    MERKLE_ROOT = 11
    MIN_PRESENT_SEQ = 12
    EXPIRES = 13
    SECURITY_COUNTER = 14
    INSTALLED_SIZE = 15
    INSTALLED_SHA256 = 16
    PRECURSOR_SHA256 = 17
    DEVICE = 18
    DEPENDENCIES = 20
    EPOCH = 22
    METADATA_SHA256 = 23


def encode_payload(content: ManifestContent) -> bytes:
    """The bytes to sign."""
    one_class = len(content.classes) == 1
    dependencies: list[cbor.Cbor] = [[one.component, one.min_seq] for one in content.dependencies]
    fields: dict[int, cbor.Cbor] = {
        _Key.FORMAT: FORMAT,
        _Key.SEQ: content.seq,
        _Key.VENDOR: content.vendor,
        _Key.CLASS: content.classes[0] if one_class else content.classes,
        _Key.VERSION: content.version,
        _Key.COMPONENT: content.component,
        _Key.PAYLOAD_TYPE: content.payload_type,
        _Key.SIZE: content.size_bytes,
        _Key.SHA256: content.sha256,
        _Key.LOG2_CHUNK: content.chunk_bytes.bit_length() - 1,
        _Key.MERKLE_ROOT: content.merkle_root,
        _Key.MIN_PRESENT_SEQ: content.min_present_seq,
        _Key.EXPIRES: content.expires_s,
        _Key.SECURITY_COUNTER: content.security_counter,
        _Key.INSTALLED_SIZE: content.installed_size_bytes,
        _Key.INSTALLED_SHA256: content.installed_sha256,
        _Key.PRECURSOR_SHA256: content.precursor_sha256,
        _Key.DEVICE: content.device,
        _Key.DEPENDENCIES: dependencies or None,
        _Key.EPOCH: None if content.epoch == 1 else content.epoch,
        _Key.METADATA_SHA256: content.metadata_sha256,
    }
    return cbor.write({key: value for key, value in fields.items() if value is not None})


def sign(payload: bytes, keys: Iterable[SigningKey]) -> bytes:
    """The envelope; raises InvalidInput for what is no manifest, a key twice, or a result above 512 bytes."""
    _check_payload(payload)
    return envelope.seal(payload, keys)


def add_signature(signed: bytes, key: SigningKey) -> bytes:
    """`signed` with one more author's signature; raises InvalidInput."""
    try:
        opened = envelope.open_envelope(signed)
    except Malformed as error:
        raise InvalidInput(f"not a signed manifest: {error}") from None
    _check_payload(opened.payload)
    return envelope.add(signed, key)


def read(signed: bytes) -> ManifestFacts:
    """What a manifest claims, for display: NO signature is checked. Raises ManifestRefused."""
    return _facts(_opened(signed).payload, envelope.digest(signed))


def signers(signed: bytes) -> tuple[bytes, ...]:
    """The ids of the keys that are said to have signed, unchecked, for display; raises ManifestRefused."""
    return tuple(signature.kid for signature in _opened(signed).signatures)


def verify(signed: bytes, trust: Trust) -> ManifestFacts:
    """What the authors signed; raises ManifestRefused unless as many as the present keyset demands did."""
    opened, keyset = _opened(signed), trust.keyset
    try:
        valid = envelope.valid_kids(opened, keyset.authors)
    except Malformed as error:
        raise ManifestRefused(RefusedReason.SIG, str(error)) from None
    if len(valid) < keyset.threshold:
        raise ManifestRefused(
            RefusedReason.SIG, f"{len(valid)} of the {keyset.threshold} required author signatures are there"
        )
    facts = _facts(opened.payload, envelope.digest(signed))
    if facts.vendor != trust.vendor_id:
        raise ManifestRefused(RefusedReason.CLASS, f"it is for another vendor than {trust.vendor}")
    if facts.epoch < keyset.epoch:
        raise ManifestRefused(
            RefusedReason.ROLLBACK, f"since keyset {keyset.epoch} seqs count anew and it is from before; sign it again"
        )
    if facts.epoch > keyset.epoch:
        raise ManifestRefused(RefusedReason.DEP, f"it counts from keyset {facts.epoch}; publish that one first")
    return facts


def _opened(signed: bytes) -> envelope.Envelope:
    if len(signed) > envelope.ENVELOPE_BYTES_MAX:
        raise ManifestRefused(
            RefusedReason.SIZE, f"a manifest of {len(signed)} bytes; at most {envelope.ENVELOPE_BYTES_MAX} are allowed"
        )
    try:
        return envelope.open_envelope(signed)
    except Malformed as error:
        raise ManifestRefused(RefusedReason.SIG, str(error)) from None


def _facts(payload: bytes, digest: Sha256) -> ManifestFacts:
    try:
        decoded = read_cbor(payload, max_bytes=envelope.ENVELOPE_BYTES_MAX, max_depth=_DEPTH_MAX)
        return _read_payload(Fields(decoded, name="manifest"), digest)
    except (Malformed, InvalidInput) as error:
        raise ManifestRefused(RefusedReason.TYPE, str(error)) from None


def _check_payload(payload: bytes) -> None:
    try:
        _facts(payload, Sha256(bytes(32)))
    except ManifestRefused as error:
        raise InvalidInput(f"this would not be a valid manifest: {error}") from None


def _read_payload(fields: Fields, digest: Sha256) -> ManifestFacts:
    """Types are checked here, ranges by the record."""
    fields.only(*_Key)
    fields.uint(_Key.FORMAT, minimum=FORMAT, maximum=FORMAT)
    for key in fields:
        if key not in fields:
            raise Malformed(f"manifest: key {key} is null")
    return ManifestFacts(
        seq=fields.uint(_Key.SEQ, maximum=U32),
        vendor=fields.binary(_Key.VENDOR, min_bytes=_UUID_BYTES, max_bytes=_UUID_BYTES),
        classes=_read_classes(fields),
        version=fields.text(_Key.VERSION, max_bytes=32),
        component=fields.text(_Key.COMPONENT, max_bytes=16),
        payload_type=PayloadType(fields.uint(_Key.PAYLOAD_TYPE, minimum=min(PayloadType), maximum=max(PayloadType))),
        size_bytes=fields.uint(_Key.SIZE, maximum=U64),
        sha256=_read_sha256(fields, _Key.SHA256),
        chunk_bytes=1 << fields.uint(_Key.LOG2_CHUNK, minimum=8, maximum=16),
        merkle_root=_read_sha256(fields, _Key.MERKLE_ROOT),
        min_present_seq=fields.optional(fields.uint, _Key.MIN_PRESENT_SEQ, maximum=U32),
        expires_s=fields.optional(fields.uint, _Key.EXPIRES, maximum=U64),
        security_counter=fields.optional(fields.uint, _Key.SECURITY_COUNTER, maximum=U32),
        installed_size_bytes=fields.optional(fields.uint, _Key.INSTALLED_SIZE, maximum=U64),
        installed_sha256=_read_optional_sha256(fields, _Key.INSTALLED_SHA256),
        precursor_sha256=_read_optional_sha256(fields, _Key.PRECURSOR_SHA256),
        device=fields.optional(fields.binary, _Key.DEVICE, min_bytes=_UUID_BYTES, max_bytes=_UUID_BYTES),
        dependencies=_read_dependencies(fields) if _Key.DEPENDENCIES in fields else (),
        epoch=fields.uint(_Key.EPOCH, minimum=2, maximum=U32) if _Key.EPOCH in fields else 1,
        metadata_sha256=_read_optional_sha256(fields, _Key.METADATA_SHA256),
        digest=digest,
    )


def _read_sha256(fields: Fields, key: _Key) -> Sha256:
    return Sha256(fields.binary(key, min_bytes=32, max_bytes=32))


def _read_optional_sha256(fields: Fields, key: _Key) -> Sha256 | None:
    return _read_sha256(fields, key) if key in fields else None


def _read_classes(fields: Fields) -> tuple[bytes, ...]:
    if fields.is_array(_Key.CLASS):
        listed = fields.array(_Key.CLASS, min_items=2, max_items=CLASSES_MAX)
        return tuple(listed.binary(i, min_bytes=_UUID_BYTES, max_bytes=_UUID_BYTES) for i in range(len(listed)))
    return (fields.binary(_Key.CLASS, min_bytes=_UUID_BYTES, max_bytes=_UUID_BYTES),)


def _read_dependencies(fields: Fields) -> tuple[Dependency, ...]:
    listed = fields.array(_Key.DEPENDENCIES, min_items=1, max_items=DEPENDENCIES_MAX)
    pairs = (listed.array(i, min_items=2, max_items=2) for i in range(len(listed)))
    return tuple(Dependency(component=p.text(0, max_bytes=16), min_seq=p.uint(1, maximum=U32)) for p in pairs)
