"""Whom a device believes: the trust document of the factory, and the keysets that follow it over the air.

1. Manifests need as many authors as the keyset says, tickets one online key.
2. A keyset follows when enough authors of the present one and enough of its own signed it and its version is the
   next. Nothing of it is parsed before the old authors' signatures hold.
3. Keys and their signatures are judged as in `envelope`; in a keyset even an unknown key may sign only once.

The document holds public keys only. `ota-bridge keys new` writes it.
"""

import base64
import binascii
import json
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from device_sim import cbor, envelope
from device_sim.envelope import PUBLIC_BYTES, Key, Signature
from device_sim.errors import KeysetRefusal, KeysetRefused, Malformed, ManifestRefused, Refusal, TrustError

MAX_KEYSET_BYTES: Final = 1024
MAX_KEYS: Final = 32
CONTEXT: Final = b"keyset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The keyset that counts on a device: who may sign its firmware, and who vouches for freshness.

    `epoch` is the version of the keyset since which manifests count their seq.
    """

    vendor: str
    threshold: int
    authors: dict[bytes, Key]
    online: dict[bytes, Key]
    version: int = 1
    epoch: int = 1

    @property
    def vendor_id(self) -> bytes:
        """The vendor's UUID, as manifests carry it."""
        return uuid.uuid5(uuid.NAMESPACE_DNS, self.vendor).bytes

    def class_id(self, product: str, hw: str) -> bytes:
        """The UUID of a device class: one product on one hardware."""
        return uuid.uuid5(uuid.UUID(bytes=self.vendor_id), f"{product}/{hw}").bytes

    def open_manifest(self, signed: bytes) -> bytes:
        """The payload of a manifest envelope that enough authors signed; else REFUSED_SIG."""
        return _open(signed, self.authors, self.threshold)

    def open_ticket(self, signed: bytes) -> bytes:
        """The payload of a freshness ticket that an online key signed; else REFUSED_SIG."""
        return _open(signed, self.online, 1)


def _open(signed: bytes, keys: dict[bytes, Key], threshold: int) -> bytes:
    try:
        payload, signatures = envelope.parts(signed)
        seen = envelope.signers(payload, signatures, keys)
    except Malformed as error:
        raise ManifestRefused(Refusal.SIG, str(error)) from None
    if len(seen) < threshold:
        raise ManifestRefused(Refusal.SIG, f"{len(seen)} trusted signatures of {threshold} needed")
    return payload


# --- keysets ------------------------------------------------------------------------------------------------------


def follow(present: Trust, step: bytes) -> tuple[Trust, bytes]:
    """The trust after a signed step, and the bytes to keep of it; `KeysetRefused` says why not."""
    if len(step) > MAX_KEYSET_BYTES:
        raise KeysetRefused(KeysetRefusal.SIZE, f"a keyset of {len(step)} bytes")
    try:
        payload, signatures = envelope.parts(step)
    except Malformed as error:
        raise KeysetRefused(KeysetRefusal.FORM, str(error)) from None
    if len({signature.kid for signature in signatures}) != len(signatures):
        raise KeysetRefused(KeysetRefusal.TWICE, "a key signs twice")
    _need(present, payload, signatures, KeysetRefusal.OLD)
    try:
        after = _read(present, payload)
    except Malformed as error:
        raise KeysetRefused(KeysetRefusal.FORM, str(error)) from None
    if after.version <= present.version:
        raise KeysetRefused(KeysetRefusal.ROLLBACK, f"keyset {after.version} is not above {present.version}")
    if after.version != present.version + 1:
        raise KeysetRefused(KeysetRefusal.STEP, f"keyset {after.version} does not come after {present.version}")
    if after.epoch not in {present.epoch, after.version}:
        raise KeysetRefused(KeysetRefusal.EPOCH, f"epoch {after.epoch} after {present.epoch}")
    _need(after, payload, signatures, KeysetRefusal.NEW)
    return after, payload


def kept(factory: Trust, payload: bytes) -> Trust:
    """The trust that flash holds, or the factory's where there is none or that is newer."""
    try:
        found = _read(factory, payload) if payload else factory
    except (Malformed, KeysetRefused):  # a factory of another vendor has been at the device
        return factory
    return found if found.version > factory.version else factory


def _need(trust: Trust, payload: bytes, signatures: list[Signature], code: KeysetRefusal) -> None:
    try:
        count = len(envelope.signers(payload, signatures, trust.authors, CONTEXT))
    except Malformed as error:
        raise KeysetRefused(KeysetRefusal.SIG, str(error)) from None
    if count < trust.threshold:
        raise KeysetRefused(code, f"{count} authors of keyset {trust.version} signed, {trust.threshold} must")


def _read(present: Trust, payload: bytes) -> Trust:
    match cbor.loads(payload):
        case {
            1: 1, 2: int() as version, 3: bytes() as vendor, 4: int() as epoch, 5: int() as threshold,
            6: [_, *_] as authors, 7: list() as online, **others,
        } if not others:  # fmt: skip
            pass
        case _:
            raise Malformed("not a keyset")
    if vendor != present.vendor_id:
        raise KeysetRefused(KeysetRefusal.VENDOR, "of another vendor")
    signing, vouching = _raw_keys(authors), _raw_keys(online)
    if signing.keys() & vouching.keys() or len(signing) + len(vouching) > MAX_KEYS:
        raise Malformed("a key that is author and online key, or too many keys")
    if not 1 <= threshold <= len(signing) or not 1 <= epoch <= version or version >> 32:
        raise Malformed("a threshold, epoch or version that cannot be")
    return replace(present, version=version, epoch=epoch, threshold=threshold, authors=signing, online=vouching)


def _raw_keys(values: list[cbor.Value]) -> dict[bytes, Key]:
    found = [value for value in values if isinstance(value, bytes)]
    if found != values or found != sorted(set(found)):
        raise Malformed("keys that are not ascending, each once")
    algorithms = {size: alg for alg, size in PUBLIC_BYTES.items()}
    try:
        keys = [Key.of(algorithms.get(len(raw), "unknown"), raw) for raw in found]
    except ValueError as error:
        raise Malformed(str(error)) from None
    return {key.kid: key for key in keys}


# --- the trust document -------------------------------------------------------------------------------------------


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
    if authors.keys() & online.keys():
        raise ValueError("an online key cannot be an author's")
    trust = Trust(vendor=vendor, threshold=threshold, authors=authors, online=online)
    return _walked(trust, [] if document.get("rotations") is None else document["rotations"])


def _walked(trust: Trust, rotations: Any) -> Trust:
    """The trust at the end of a document's rotations, each of which must follow the one before it."""
    if not isinstance(rotations, list):
        raise ValueError("rotations is not a list")  # noqa: TRY004  one error for a bad document
    for step in rotations:
        try:
            trust, _ = follow(trust, base64.b64decode(step, validate=True))
        except (TypeError, binascii.Error, KeysetRefused) as error:
            raise ValueError(f"the rotation after keyset {trust.version} does not follow: {error}") from None
    return trust


def _keys(entries: Any, field: str) -> dict[bytes, Key]:
    if not isinstance(entries, list):
        raise ValueError(f"{field} is not a list of keys")  # noqa: TRY004  one error for a bad document
    keys = [_key(entry, field) for entry in entries]
    return {key.kid: key for key in keys}


def _key(entry: Any, field: str) -> Key:
    try:
        key = Key.of(entry["alg"], base64.b64decode(entry["public"], validate=True))
        kid = bytes.fromhex(entry["kid"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"a key in {field} cannot be used: {error}") from None
    if kid != key.kid:
        raise ValueError(f"the kid {kid.hex()} in {field} is not the digest of its key")
    return key
