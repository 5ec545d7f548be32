"""What a device checks before it erases a word or asks for a block (`native-protocol.md` §6).

The order is fixed: size of the envelope, signature, format and type, class, epoch and seq, ticket, dependencies,
size, precursor. Nothing of the payload is parsed before its signature holds. The first thing that is wrong raises
`ManifestRefused` with the name for the wire; nothing here writes anything.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from device_sim import cbor
from device_sim.envelope import parts
from device_sim.errors import Malformed, ManifestRefused, Refusal
from device_sim.trust import Trust

MAX_ENVELOPE_BYTES: Final = 512
MAX_TICKET_BYTES: Final = 256
RAW_IMAGE: Final = 1
CONFIG: Final = 3
KNOWN_KEYS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 23})
REQUIRED_KEYS: Final = frozenset(range(1, 12))
UUID_BYTES: Final = 16
HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts of a verified manifest; `digest` and `size_bytes` are of the image, `envelope` of all of it."""

    envelope_digest: bytes
    seq: int
    vendor: bytes
    classes: tuple[bytes, ...]
    version: str
    component: str
    payload_type: int
    size_bytes: int
    digest: bytes
    chunk_bytes: int
    root: bytes
    min_seq: int = 0
    expires_s: int | None = None
    security_counter: int | None = None
    installed_size_bytes: int | None = None
    precursor: bytes | None = None
    device: bytes | None = None
    deps: tuple[tuple[str, int], ...] = ()
    epoch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the device is, as manifests name it."""

    vendor: bytes
    device_class: bytes
    device: bytes
    component: str

    @classmethod
    def of(cls, trust: Trust, *, product: str, device: str, hw: str, component: str) -> "Identity":
        """The identity of a device of this vendor."""
        name = hashlib.sha256(f"{product}/{device}".encode()).digest()[:UUID_BYTES]
        return cls(
            vendor=trust.vendor_id,
            device_class=trust.class_id(product, hw),
            device=name,
            component=component,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What the device runs now, as far as a manifest is judged by it. The seqs are of this `epoch`."""

    digest: bytes
    epoch: int = 1
    seqs: dict[str, int] = field(default_factory=dict)
    security_counter: int = 0
    slot_bytes: int


def read_manifest(trust: Trust, envelope: bytes) -> Manifest:
    """Signature first, then the form; the facts of a manifest that an author made."""
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise ManifestRefused(Refusal.SIZE, f"an envelope of {len(envelope)} bytes")
    payload = trust.open_manifest(envelope)
    try:
        fields = cbor.loads(payload)
        return _facts(fields, hashlib.sha256(envelope).digest())
    except Malformed as error:
        raise ManifestRefused(Refusal.TYPE, str(error)) from None


def still_holds(trust: Trust, envelope: bytes) -> Manifest:
    """The facts of a manifest that was accepted once, if the keyset that counts now would take it too."""
    manifest = read_manifest(trust, envelope)
    _check_epoch(manifest, trust.epoch)
    return manifest


def own_manifest(envelope: bytes) -> Manifest:
    """The facts of a manifest that this device installed, whoever may sign now; `ManifestRefused` if it is none."""
    try:
        payload, _ = parts(envelope)
        return _facts(cbor.loads(payload), hashlib.sha256(envelope).digest())
    except Malformed as error:
        raise ManifestRefused(Refusal.TYPE, str(error)) from None


def judge(manifest: Manifest, identity: Identity, installed: Installed) -> bool:
    """Refuse what is not for this device as it is now; True when exactly this image is installed already."""
    _check_type(manifest, identity)
    _check_class(manifest, identity)
    _check_epoch(manifest, installed.epoch)
    return _check_seq(manifest, installed)


def judge_needs(manifest: Manifest, installed: Installed) -> None:
    """The checks that come after the ticket: dependencies, size, precursor."""
    if installed.seqs.get(manifest.component, 0) < manifest.min_seq:
        raise ManifestRefused(Refusal.DEP, f"needs {manifest.component} seq {manifest.min_seq}")
    for component, seq in manifest.deps:
        if installed.seqs.get(component, 0) < seq:
            raise ManifestRefused(Refusal.DEP, f"needs {component} seq {seq}")
    largest = max(manifest.size_bytes, manifest.installed_size_bytes or 0)
    if not manifest.size_bytes or largest > installed.slot_bytes:
        raise ManifestRefused(Refusal.SIZE, f"{largest} bytes do not fit a slot of {installed.slot_bytes}")
    if manifest.precursor is not None and manifest.precursor != installed.digest:
        raise ManifestRefused(Refusal.PRECURSOR, "made for another installed image")


def check_ticket(trust: Trust, manifest: Manifest, ticket: bytes | None, *, identity: Identity, nonce: bytes) -> None:
    """Freshness: an online key vouches for this manifest, to this device, in answer to this nonce."""
    if not trust.online:
        return
    if ticket is None:
        raise ManifestRefused(Refusal.STALE, "no ticket")
    if len(ticket) > MAX_TICKET_BYTES:
        raise ManifestRefused(Refusal.STALE, "a ticket of more bytes than one has")
    try:
        fields = cbor.loads(trust.open_ticket(ticket))
    except (ManifestRefused, Malformed) as error:
        raise ManifestRefused(Refusal.STALE, f"the ticket does not hold: {error}") from None
    match fields:
        case {1: bytes() as device, 2: bytes() as given, 3: bytes() as digest, 4: int() as time_s, 5: int(), 6: int()}:
            if device != identity.device or given != nonce or digest != manifest.envelope_digest:
                raise ManifestRefused(Refusal.STALE, "the ticket answers another device, nonce or manifest")
            if manifest.expires_s is not None and time_s > manifest.expires_s:
                raise ManifestRefused(Refusal.STALE, "the manifest has expired by the ticket's time")
        case _:
            raise ManifestRefused(Refusal.STALE, "the ticket lacks a field")


def _check_type(manifest: Manifest, identity: Identity) -> None:
    wanted = CONFIG if identity.component == "config" else RAW_IMAGE
    if manifest.payload_type != wanted:
        raise ManifestRefused(Refusal.TYPE, f"payload type {manifest.payload_type}")
    if manifest.component != identity.component:
        raise ManifestRefused(Refusal.TYPE, f"no component {manifest.component!r} here")


def _check_class(manifest: Manifest, identity: Identity) -> None:
    if manifest.vendor != identity.vendor:
        raise ManifestRefused(Refusal.CLASS, "of another vendor")
    if identity.device_class not in manifest.classes:
        raise ManifestRefused(Refusal.CLASS, "for another product or hardware")
    if manifest.device is not None and manifest.device != identity.device:
        raise ManifestRefused(Refusal.CLASS, "for another device")


def _check_epoch(manifest: Manifest, epoch: int) -> None:
    if manifest.epoch < epoch:
        raise ManifestRefused(Refusal.ROLLBACK, f"its seq counts from keyset {manifest.epoch}, not from {epoch}")
    if manifest.epoch > epoch:
        raise ManifestRefused(Refusal.DEP, f"needs keyset {manifest.epoch}")


def _check_seq(manifest: Manifest, installed: Installed) -> bool:
    stored = installed.seqs.get(manifest.component, 0)
    same = manifest.seq == stored and manifest.digest == installed.digest
    if manifest.seq <= stored and not same:
        raise ManifestRefused(Refusal.ROLLBACK, f"seq {manifest.seq} is not above {stored}")
    if (manifest.security_counter or 0) < installed.security_counter and not same:
        raise ManifestRefused(Refusal.ROLLBACK, "the security counter is below the installed one")
    return same


def _facts(fields: cbor.Value, envelope_digest: bytes) -> Manifest:
    if not isinstance(fields, dict):
        raise Malformed("the payload is not a map")
    if fields.get(1) != 1:
        raise Malformed(f"format {fields.get(1)!r}")
    unknown = fields.keys() - KNOWN_KEYS
    if unknown or not fields.keys() >= REQUIRED_KEYS:
        raise Malformed(f"keys {sorted(unknown)} unknown, {sorted(REQUIRED_KEYS - fields.keys())} missing")
    _bytes(fields, 23, HASH_BYTES)
    _bytes(fields, 16, HASH_BYTES)
    return Manifest(
        envelope_digest=envelope_digest,
        seq=_uint(fields, 2),
        vendor=_bytes(fields, 3, UUID_BYTES) or b"",
        classes=_classes(fields[4]),
        version=_text(fields, 5, 32),
        component=_text(fields, 6, 16),
        payload_type=_uint(fields, 7),
        size_bytes=_uint(fields, 8, 64),
        digest=_bytes(fields, 9, HASH_BYTES) or b"",
        chunk_bytes=1 << _chunk_log2(fields),
        root=_bytes(fields, 11, HASH_BYTES) or b"",
        min_seq=_uint(fields, 12) if 12 in fields else 0,  # noqa: PLR2004  manifest keys
        expires_s=_uint(fields, 13, 64) if 13 in fields else None,  # noqa: PLR2004
        security_counter=_uint(fields, 14) if 14 in fields else None,  # noqa: PLR2004
        installed_size_bytes=_uint(fields, 15, 64) if 15 in fields else None,  # noqa: PLR2004
        precursor=_bytes(fields, 17, HASH_BYTES),
        device=_bytes(fields, 18, UUID_BYTES),
        deps=_deps(fields.get(20, [])),
        epoch=_epoch(fields),
    )


def _uint(fields: dict[int, cbor.Value], key: int, bits: int = 32) -> int:
    value = fields[key]
    if not isinstance(value, int) or value >> bits:
        raise Malformed(f"key {key} is not a number of {bits} bits")
    return value


def _epoch(fields: dict[int, cbor.Value]) -> int:
    value = _uint(fields, 22) if 22 in fields else 1  # noqa: PLR2004  manifest keys
    if 22 in fields and value < 2:  # noqa: PLR2004  the first epoch is not written
        raise Malformed(f"key 22 is {value}")
    return value


def _bytes(fields: dict[int, cbor.Value], key: int, size: int) -> bytes | None:
    value = fields.get(key)
    if key not in fields:
        return None
    if not isinstance(value, bytes) or len(value) != size:
        raise Malformed(f"key {key} is not {size} bytes")
    return value


def _text(fields: dict[int, cbor.Value], key: int, size: int) -> str:
    value = fields[key]
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= size:
        raise Malformed(f"key {key} is not a text of 1 to {size} bytes")
    return value


def _chunk_log2(fields: dict[int, cbor.Value]) -> int:
    value = _uint(fields, 10)
    if not 8 <= value <= 16:  # noqa: PLR2004  256 B to 64 KiB
        raise Malformed(f"chunks of 2^{value} bytes")
    return value


def _classes(value: cbor.Value) -> tuple[bytes, ...]:
    if isinstance(value, bytes) and len(value) == UUID_BYTES:
        return (value,)
    if isinstance(value, list) and 2 <= len(value) <= 8:  # noqa: PLR2004  one stands alone
        found = tuple(item for item in value if isinstance(item, bytes) and len(item) == UUID_BYTES)
        if len(found) == len(value) and list(found) == sorted(set(found)):
            return found
    raise Malformed("key 4 is not a class or a sorted list of several")


def _deps(value: cbor.Value) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, list):
        raise Malformed("key 20 is not a list")
    found: list[tuple[str, int]] = []
    for item in value:
        match item:
            case [str() as component, int() as seq]:
                found.append((component, seq))
            case _:
                raise Malformed("key 20 holds something that is no dependency")
    return tuple(found)
