"""An offer as it came over the wire, in the long or the short form: read strictly, judged elsewhere."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from device_sim.errors import Malformed, ManifestRefused, Refusal
from device_sim.manifest import MAX_ENVELOPE_BYTES, MAX_TICKET_BYTES
from device_sim.wire import binary, number, seconds, text

HASH_BYTES: Final = 32
MAX_ID_CHARS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A manifest, ticket or keyset: the bytes themselves, or what to fetch them by."""

    digest: bytes
    size_bytes: int
    data: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The notice that an update waits, in answer to one check-in."""

    id: str
    component: str
    manifest: Piece
    ticket: Piece | None
    boot: int
    nonce: bytes
    apply_now: bool
    start_in_s: float | None
    length_s: float | None
    block_max: int
    window_max: int


def read_offer(message: dict[str, Any]) -> Offer:
    """Read an `update_firmware`; `Malformed` names the field that is wrong."""
    manifests = message.get("manifests")
    if not isinstance(manifests, list) or len(manifests) != 1:
        raise Malformed("an offer carries one manifest")
    apply = message.get("apply", "now")
    if apply != "now" and apply != "on_command":  # noqa: PLR1714  a set would hash what came over the wire
        raise Malformed("apply is neither now nor on_command")
    ticket = message.get("ticket")
    return Offer(
        id=text(message, "id", MAX_ID_CHARS),
        component=text(message, "component", 16),
        manifest=read_piece(manifests[0], "manifest"),
        ticket=None if ticket is None else read_piece(ticket, "ticket"),
        boot=number(message, "boot", -1, low=0, high=1 << 64),
        nonce=binary(message.get("nonce"), "nonce"),
        apply_now=apply == "now",
        start_in_s=seconds(message, "start_in_s"),
        length_s=seconds(message, "length_s"),
        block_max=number(message, "block_max", 1 << 20, low=1),
        window_max=number(message, "window_max", 1 << 10, low=1),
    )


def read_piece(value: Any, what: str) -> Piece:
    """The bytes themselves or a digest with a size; `Malformed` when it is neither."""
    match value:
        case [digest, int() as size] if type(size) is int and size > 0:
            found = binary(digest, what)
            if len(found) != HASH_BYTES:
                raise Malformed(f"the digest of a {what} has {len(found)} bytes")
            return Piece(digest=found, size_bytes=size, data=None)
        case bytes() | str():
            data = binary(value, what)
            return Piece(digest=hashlib.sha256(data).digest(), size_bytes=len(data), data=data)
    raise Malformed(f"a {what} that is neither bytes nor a digest with a size")


def check_sizes(offer: Offer) -> None:
    """Refuse to fetch more than a manifest or a ticket can have."""
    if offer.manifest.size_bytes > MAX_ENVELOPE_BYTES:
        raise ManifestRefused(Refusal.SIZE, f"an envelope of {offer.manifest.size_bytes} bytes")
    if offer.ticket is not None and offer.ticket.size_bytes > MAX_TICKET_BYTES:
        raise ManifestRefused(Refusal.STALE, "a ticket of more bytes than one has")
