"""Devices, deployments, reports, limits to rows of `schema` and back, written out by hand: this runs for every report.

Each `..._COLUMNS` names the columns in the order in which `..._row` gives and `..._from` takes the values.
Maps are compact JSON text in which bytes are base64.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from ota_bridge.core.deployment import Deployment, State, Transition
from ota_bridge.core.errors import BlockRefusal, StoreError
from ota_bridge.core.fleet import Assignment, Device, DeviceState, Silence
from ota_bridge.core.messages import Encoding, InstalledPart, ReportKey
from ota_bridge.core.ports import StoredReport
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, ReleaseId, Share, StandingLimits
from ota_bridge.json_text import compact_encoder

Row = Sequence[Any]

_U64_END: Final = 1 << 64
_I64_END: Final = 1 << 63
_NO_TROUBLE: Final = Silence()
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_DEVICE_STATES: Final = {one.value: one for one in DeviceState}
_ENCODINGS: Final = {one.value: one for one in Encoding}
_KEPT_TEXTS: Final = 1024
"""What many devices have in common (what runs there, what is assigned) is read and written once for as many of them."""


def to_signed(number: int | None) -> int | None:
    """An unsigned 64-bit number as the signed one of the same bits, which is what SQLite can keep."""
    if number is None or 0 <= number < _I64_END:
        return number
    if not 0 <= number < _U64_END:
        raise StoreError(f"the number {number} does not fit into 64 bits")
    return number - _U64_END


def from_signed(number: int | None) -> int | None:
    """The reverse of `to_signed`."""
    return number + _U64_END if number is not None and number < 0 else number


def _text_of_bytes(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode("ascii")
    raise StoreError(f"a report body cannot hold a {type(value).__name__}")


encode: Final = compact_encoder(_text_of_bytes)
decode: Final = json.JSONDecoder().decode


def body_text(body: Mapping[str, Any]) -> str:
    """A report's body as compact JSON text."""
    return encode(body if isinstance(body, dict) else dict(body))


def b64(value: bytes) -> str:
    """Bytes as base64 text."""
    return b64encode(value).decode("ascii")


# --- devices -------------------------------------------------------------------------------------------------

DEVICE_COLUMNS: Final = (
    *("product", "name", "state", "created_wall", "hw", "hw_reported", "label", "tags", "dialect", "encoding"),
    *("proto", "boot", "nonce", "max_packet", "max_block", "max_window", "parts", "have", "assigned"),
    *("last_report_wall", "next_check_in_wall", "last_offer_wall", "last_block_wall", "trouble", "keyset", "attrs"),
)
HEARD_COLUMNS: Final = (
    *("boot", "nonce", "last_report_wall", "next_check_in_wall", "last_offer_wall", "last_block_wall"),
)
"""What changes with every report and every notice."""


def device_row(device: Device) -> Row:
    """The row in `devices`."""
    return (
        device.id.product,
        device.id.name,
        device.state.value,
        device.created_wall,
        device.hw,
        device.hw_reported,
        device.label,
        encode(device.tags) if device.tags else "[]",
        device.dialect,
        device.encoding.value,
        device.proto,
        to_signed(device.boot),
        device.nonce,
        device.max_packet,
        device.max_block,
        device.max_window,
        _parts_text(device.parts),
        encode([(b64(prefix), size) for prefix, size in device.have]) if device.have else "[]",
        _assigned_text(device.assigned),
        device.last_report_wall,
        device.next_check_in_wall,
        device.last_offer_wall,
        device.last_block_wall,
        _trouble_text(device.trouble),
        device.keyset,
        encode(dict(device.attrs)) if device.attrs else "{}",
    )


def heard_row(device: Device) -> Row:
    """The values of `HEARD_COLUMNS`."""
    return (
        to_signed(device.boot),
        device.nonce,
        device.last_report_wall,
        device.next_check_in_wall,
        device.last_offer_wall,
        device.last_block_wall,
    )


def device_from(row: Row, device: DeviceId | None = None) -> Device:
    """The reverse of `device_row`; `device`, where it is known whose row it is."""
    return Device(
        id=device or DeviceId(row[0], row[1]),
        state=_DEVICE_STATES[row[2]],
        created_wall=row[3],
        hw=row[4],
        hw_reported=row[5],
        label=row[6],
        tags=() if row[7] == "[]" else tuple(decode(row[7])),
        dialect=row[8],
        encoding=_ENCODINGS[row[9]],
        proto=row[10],
        boot=from_signed(row[11]),
        nonce=row[12],
        max_packet=row[13],
        max_block=row[14],
        max_window=row[15],
        parts=parts_from(row[16]),
        have=() if row[17] == "[]" else tuple((b64decode(prefix), size) for prefix, size in decode(row[17])),
        assigned=_assigned_from(row[18]),
        last_report_wall=row[19],
        next_check_in_wall=row[20],
        last_offer_wall=row[21],
        last_block_wall=row[22],
        trouble=_trouble_from(row[23]),
        keyset=row[24],
        attrs=_NOTHING if row[25] == "{}" else decode(row[25]),
    )


def _parts_text(parts: Mapping[str, InstalledPart]) -> str:
    return _text_of_parts(tuple(parts.items()))


@lru_cache(maxsize=_KEPT_TEXTS)
def _text_of_parts(parts: tuple[tuple[str, InstalledPart], ...]) -> str:
    return encode({name: (part.version, part.seq, b64(part.digest8), part.trial) for name, part in parts})


@lru_cache(maxsize=_KEPT_TEXTS)
def parts_from(text: str) -> Mapping[str, InstalledPart]:
    """What a device reported, from its column."""
    found = {
        name: InstalledPart(version=version, seq=seq, digest8=b64decode(digest8), trial=trial)
        for name, (version, seq, digest8, trial) in decode(text).items()
    }
    return MappingProxyType(found)


def _assigned_text(assigned: Mapping[str, Assignment]) -> str:
    return encode({name: (one.release, one.rollout) for name, one in assigned.items()}) if assigned else "{}"


@lru_cache(maxsize=_KEPT_TEXTS)
def _assigned_from(text: str) -> Mapping[str, Assignment]:
    found = {
        name: Assignment(release=ReleaseId(release), rollout=rollout)
        for name, (release, rollout) in decode(text).items()
    }
    return MappingProxyType(found)


def _trouble_text(trouble: Silence) -> str:
    if trouble is _NO_TROUBLE or trouble == _NO_TROUBLE:
        return ""
    return encode(
        {
            "refusal": None if trouble.refusal is None else trouble.refusal.name,
            "refusal_wall": trouble.refusal_wall,
            "refusals": trouble.refusals,
            "waits_for": None if trouble.waits_for is None else trouble.waits_for.value,
            "retry_after_s": trouble.retry_after_s,
            "rejected": trouble.rejected,
            "rejected_reason": trouble.rejected_reason,
            "rejected_wall": trouble.rejected_wall,
            "clashes": trouble.clashes,
            "keyset_refused": trouble.keyset_refused,
            "told_silent_wall": trouble.told_silent_wall,
        }
    )


def _trouble_from(text: str) -> Silence:
    if not text:
        return _NO_TROUBLE
    found = decode(text)
    refusal, waits_for = found.pop("refusal"), found.pop("waits_for", None)
    return Silence(
        refusal=None if refusal is None else BlockRefusal[refusal],
        waits_for=None if waits_for is None else Share(waits_for),
        **found,
    )


# --- deployments ---------------------------------------------------------------------------------------------

DEPLOYMENT_COLUMNS: Final = (
    *("id", "product", "name", "component", "release", "rollout", "attempt", "state", "is_open", "cause"),
    *("created_wall", "changed_wall", "size_bytes", "old_version", "latest", "due_wall", "offered_wall"),
    *("offers", "retry_wall", "boot", "claimed_wall", "stalled", "last_block_wall", "high_water_bytes"),
    *("bytes_sent", "blocks_sent", "requests", "percent", "result_code", "stage", "earlier_end", "slot_rank"),
)
TRANSITION_COLUMNS: Final = ("deployment", "wall", "event", "before", "after", "cause")


def deployment_row(one: Deployment) -> Row:
    """The row in `deployments`."""
    return (
        *(one.id, one.device.product, one.device.name, one.component, one.release, one.rollout, one.attempt),
        *(one.state.value, one.is_open, one.cause, one.created_wall, one.changed_wall, one.size_bytes),
        *(one.old_version, one.latest, one.due_wall, one.offered_wall, _offers_row(one), one.retry_wall),
        *(to_signed(one.boot), one.claimed_wall, one.stalled, one.last_block_wall, one.high_water_bytes),
        *(one.bytes_sent, one.blocks_sent, one.requests, one.percent, one.result_code, one.stage),
        *("" if one.earlier_end is None else one.earlier_end.value, one.slot_rank),
    )


def _offers_row(one: Deployment) -> int:
    """How many notices went out; the complement, which is below zero, once the second of a pair has."""
    return ~one.offers if one.resent else one.offers


def deployment_from(row: Row) -> Deployment:
    """The reverse of `deployment_row`."""
    return Deployment(
        id=DeploymentId(row[0]),
        device=DeviceId(row[1], row[2]),
        component=row[3],
        release=ReleaseId(row[4]),
        rollout=row[5],
        attempt=row[6],
        state=State(row[7]),
        cause=row[9],
        created_wall=row[10],
        changed_wall=row[11],
        size_bytes=row[12],
        old_version=row[13],
        latest=row[14] == 1,
        due_wall=row[15],
        offered_wall=row[16],
        offers=row[17] if row[17] >= 0 else ~row[17],
        resent=row[17] < 0,
        retry_wall=row[18],
        boot=from_signed(row[19]),
        claimed_wall=row[20],
        stalled=row[21] == 1,
        last_block_wall=row[22],
        high_water_bytes=row[23],
        bytes_sent=row[24],
        blocks_sent=row[25],
        requests=row[26],
        percent=row[27],
        result_code=row[28],
        stage=row[29],
        earlier_end=State(row[30]) if row[30] else None,
        slot_rank=row[31],
    )


def transition_row(one: Transition) -> Row:
    """The row in `transitions`."""
    before = None if one.before is None else one.before.value
    return (one.deployment, one.wall, one.event, before, one.after.value, one.cause)


def transition_from(row: Row) -> Transition:
    """The reverse of `transition_row`."""
    return Transition(
        deployment=DeploymentId(row[0]),
        wall=row[1],
        event=row[2],
        before=None if row[3] is None else State(row[3]),
        after=State(row[4]),
        cause=row[5],
    )


# --- reports -------------------------------------------------------------------------------------------------

REPORT_COLUMNS: Final = ("product", "name", "boot", "seq", "content", "kind", "wall", "body")


def report_row(report: StoredReport) -> Row:
    """The row in `reports`."""
    device, key = report.device, report.key
    boot, seq, content = (None, None, None) if key is None else (to_signed(key.boot), to_signed(key.seq), key.content)
    return (device.product, device.name, boot, seq, content, report.kind, report.wall, body_text(report.body))


def key_from(row: Row) -> ReportKey:
    """The key of a report that has one, from boot, seq and content."""
    boot, seq, content = row
    return ReportKey(boot=boot & _U64_END - 1, seq=seq & _U64_END - 1, content=content)


def report_from(row: Row) -> StoredReport:
    """The reverse of `report_row`, but for the bytes in the body, which are base64 text now."""
    key = None if row[2] is None else key_from(row[2:5])
    return StoredReport(device=DeviceId(row[0], row[1]), key=key, kind=row[5], wall=row[6], body=decode(row[7]))


# --- limits --------------------------------------------------------------------------------------------------

LIMITS_COLUMNS: Final = ("blocks_per_s", "bytes_per_s", "downloads", "set_wall", "set_by")


def limits_row(standing: StandingLimits) -> Row:
    """The row in `limits`."""
    limits = standing.limits
    return (limits.blocks_per_s, limits.bytes_per_s, limits.downloads, standing.set_wall, standing.set_by)


def limits_from(row: Row) -> StandingLimits:
    """The reverse of `limits_row`."""
    limits = Limits(blocks_per_s=row[0], bytes_per_s=row[1], downloads=row[2])
    return StandingLimits(limits=limits, set_wall=row[3], set_by=row[4])
