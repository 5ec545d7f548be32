"""Keysets: which keys count from a version on, and the signed step from one version to the next.

A step is an `envelope` around a map with small unsigned keys (`_Key` below is the format). It follows the keyset
before it when enough authors of THAT one signed it and enough of its own, and its version is the next: the rule of
TUF's root. So nobody below the threshold of either changes whom devices believe, and a device that slept through
several goes through each.

`follow` refuses with the name that a device would report, in this order:

- REFUSED_KEYS_SIZE: larger than the 1,024 bytes that a device sets aside;
- REFUSED_KEYS_FORM: not an envelope;
- REFUSED_KEYS_TWICE: a key signed twice;
- REFUSED_KEYS_SIG: the signature of a known key does not hold;
- REFUSED_KEYS_OLD: too few authors of the keyset before it signed; nothing of the payload was read until here;
- REFUSED_KEYS_FORM: signed, but not a keyset (unknown field, keys not ascending, a threshold out of reach);
- REFUSED_KEYS_VENDOR: another vendor's;
- REFUSED_KEYS_ROLLBACK, REFUSED_KEYS_STEP: its version is not above, or not the next;
- REFUSED_KEYS_EPOCH: its epoch is neither that of the one before nor its own version;
- REFUSED_KEYS_NEW: too few of its own authors signed.

The *epoch* is the version of the keyset since which manifests count their seq from 0 again: the way back after a
stolen key has signed the highest seq there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ota_bridge.core.errors import InvalidInput, KeysetReason, KeysetRefused, Malformed
from ota_bridge.decode import U32, Fields, read_cbor
from ota_bridge.security import cbor, envelope
from ota_bridge.security.keys import PublicKey, SigningKey

FORMAT: Final = 1
KEYS_MAX: Final = 32
KIND: Final = envelope.Kind(name="keyset", max_bytes=1024, context=b"keyset")
SIGNED_BYTES: Final = 83
"""What one signature takes in an envelope."""
_VENDOR_BYTES: Final = 16
_PUBLIC_BYTES_MAX: Final = 65
_DEPTH_MAX: Final = 2


class _Key(IntEnum):
    """The keys of the payload; all are needed."""

    FORMAT = 1
    VERSION = 2
    VENDOR = 3
    EPOCH = 4
    THRESHOLD = 5
    AUTHORS = 6
    ONLINE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """The keys that count at one version; raises InvalidInput at construction."""

    version: int
    vendor: bytes
    epoch: int
    threshold: int
    authors: tuple[PublicKey, ...]
    online: tuple[PublicKey, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.version <= U32 or not 1 <= self.epoch <= self.version:
            raise InvalidInput(f"keyset {self.version} of epoch {self.epoch}: 1 <= epoch <= version is needed")
        kids = [key.kid for key in self.keys]
        if len(kids) > KEYS_MAX:
            raise InvalidInput(f"keyset: {len(kids)} keys, at most {KEYS_MAX} are allowed")
        for kid in kids:
            if kids.count(kid) > 1:
                raise InvalidInput(f"keyset: key {kid.hex()} stands in it twice")
        if not 1 <= self.threshold <= len(self.authors):
            count = len(self.authors)
            raise InvalidInput(f"keyset: threshold {self.threshold} with {count} author keys; it must be 1..{count}")

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """All keys, authors first."""
        return self.authors + self.online


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """How far the signing of a step is: whose signatures count on either side."""

    old: frozenset[bytes]
    new: frozenset[bytes]


def encode(keyset: Keyset) -> bytes:
    """The bytes to sign; keys stand in ascending order."""
    return cbor.write(
        {
            _Key.FORMAT: FORMAT,
            _Key.VERSION: keyset.version,
            _Key.VENDOR: keyset.vendor,
            _Key.EPOCH: keyset.epoch,
            _Key.THRESHOLD: keyset.threshold,
            _Key.AUTHORS: sorted(key.raw for key in keyset.authors),
            _Key.ONLINE: sorted(key.raw for key in keyset.online),
        }
    )


def proposal(before: Keyset, keyset: Keyset) -> bytes:
    """A step that nobody has signed yet; raises InvalidInput where it has no room for the signatures it needs."""
    unsigned = envelope.write(encode(keyset), (), kind=KIND)
    both = len({key.kid for key in before.authors} & {key.kid for key in keyset.authors})
    needed = before.threshold + keyset.threshold - min(both, before.threshold, keyset.threshold)
    size = len(unsigned) + needed * SIGNED_BYTES
    if needed > envelope.SIGNATURES_MAX or size > KIND.max_bytes:
        raise InvalidInput(
            f"it needs {needed} signatures and {size} bytes; at most {envelope.SIGNATURES_MAX} and {KIND.max_bytes} "
            "are allowed: change fewer authors at once, or lower the threshold"
        )
    return unsigned


def sign(step: bytes, key: SigningKey) -> bytes:
    """`step` with one more signature; raises InvalidInput."""
    read(step)
    return envelope.add(step, key, kind=KIND)


def combine(steps: Sequence[bytes]) -> bytes:
    """One step with the signatures of all; raises InvalidInput unless all are over the same bytes."""
    opened = [_opened(step) for step in steps]
    if len({one.payload for one in opened}) != 1:
        raise InvalidInput("the files are not copies of one proposal: they say different things")
    signatures = {signature.kid: signature for one in opened for signature in one.signatures}
    return envelope.write(opened[0].payload, tuple(signatures.values()), kind=KIND)


def read(step: bytes) -> Keyset:
    """What a step claims, for display: NO signature is checked. Raises InvalidInput."""
    try:
        return _read(_opened(step).payload)
    except Malformed as error:
        raise InvalidInput(f"not a keyset: {error}") from None


def payload_of(step: bytes) -> bytes:
    """What a step's signatures cover, unchecked: two steps that differ only in signatures say the same."""
    return _opened(step).payload


def signed_by(before: Keyset, step: bytes) -> Signed:
    """Whose valid signatures a step carries; raises InvalidInput where one does not hold."""
    opened = _opened(step)
    try:
        old = envelope.valid_kids(opened, before.authors, kind=KIND)
        new = envelope.valid_kids(opened, _read(opened.payload).authors, kind=KIND)
    except Malformed as error:
        raise InvalidInput(f"not a keyset: {error}") from None
    return Signed(old=old, new=new)


def follow(before: Keyset, step: bytes) -> Keyset:
    """The keyset that counts after `before`; raises KeysetRefused (the module says when)."""
    if len(step) > KIND.max_bytes:
        raise KeysetRefused(KeysetReason.SIZE, f"{len(step)} bytes; at most {KIND.max_bytes} are allowed")
    try:
        opened = envelope.open_envelope(step, kind=KIND)
    except Malformed as error:
        raise KeysetRefused(KeysetReason.FORM, str(error)) from None
    kids = [signature.kid for signature in opened.signatures]
    if len(set(kids)) != len(kids):
        raise KeysetRefused(KeysetReason.TWICE, "a key signed it twice")
    _need(opened, before, KeysetReason.OLD, f"authors of keyset {before.version}")
    try:
        keyset = _read(opened.payload)
    except Malformed as error:
        raise KeysetRefused(KeysetReason.FORM, str(error)) from None
    check_place(before, keyset)
    _need(opened, keyset, KeysetReason.NEW, "of its own authors")
    return keyset


def _need(opened: envelope.Envelope, keyset: Keyset, reason: KeysetReason, whom: str) -> None:
    try:
        count = len(envelope.valid_kids(opened, keyset.authors, kind=KIND))
    except Malformed as error:
        raise KeysetRefused(KeysetReason.SIG, str(error)) from None
    if count < keyset.threshold:
        raise KeysetRefused(reason, f"{count} {whom} signed it, {keyset.threshold} must")


def check_place(before: Keyset, keyset: Keyset) -> None:
    """Whether `keyset` can come after `before`, whoever signs it; raises KeysetRefused."""
    if keyset.vendor != before.vendor:
        raise KeysetRefused(KeysetReason.VENDOR, "it is for another vendor")
    if keyset.version <= before.version:
        raise KeysetRefused(KeysetReason.ROLLBACK, f"it is keyset {keyset.version}, keyset {before.version} is there")
    if keyset.version != before.version + 1:
        raise KeysetRefused(
            KeysetReason.STEP, f"it is keyset {keyset.version}, only {before.version + 1} can follow {before.version}"
        )
    if keyset.epoch not in {before.epoch, keyset.version}:
        raise KeysetRefused(
            KeysetReason.EPOCH, f"its epoch is {keyset.epoch}; {before.epoch} or {keyset.version} is allowed"
        )


def _opened(step: bytes) -> envelope.Envelope:
    try:
        return envelope.open_envelope(step, kind=KIND, min_signatures=0)
    except Malformed as error:
        raise InvalidInput(f"not a keyset: {error}") from None


def _read(payload: bytes) -> Keyset:
    fields = Fields(read_cbor(payload, max_bytes=KIND.max_bytes, max_depth=_DEPTH_MAX), name="keyset")
    fields.only(*_Key)
    fields.uint(_Key.FORMAT, minimum=FORMAT, maximum=FORMAT)
    try:
        return Keyset(
            version=fields.uint(_Key.VERSION, minimum=1, maximum=U32),
            vendor=fields.binary(_Key.VENDOR, min_bytes=_VENDOR_BYTES, max_bytes=_VENDOR_BYTES),
            epoch=fields.uint(_Key.EPOCH, minimum=1, maximum=U32),
            threshold=fields.uint(_Key.THRESHOLD, minimum=1, maximum=KEYS_MAX),
            authors=_read_keys(fields, _Key.AUTHORS, 1),
            online=_read_keys(fields, _Key.ONLINE, 0),
        )
    except InvalidInput as error:
        raise Malformed(str(error)) from None


def _read_keys(fields: Fields, name: _Key, least: int) -> tuple[PublicKey, ...]:
    listed = fields.array(name, min_items=least, max_items=KEYS_MAX)
    raw = [listed.binary(index, min_bytes=1, max_bytes=_PUBLIC_BYTES_MAX) for index in range(len(listed))]
    if raw != sorted(set(raw)):
        raise Malformed(f"keyset[{name}]: the keys are not ascending, each once")
    return tuple(PublicKey.of(one) for one in raw)
