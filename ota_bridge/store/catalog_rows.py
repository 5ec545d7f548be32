"""Releases and rollouts to rows of `schema` and back; the rules are those of `rows`.

What was read once is kept and given out again for the same row: every device of a release shares one manifest.
"""

from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.manifest import Dependency, ManifestFacts, PayloadType
from ota_bridge.core.rollout.model import Rollout, RolloutState, Standing, Target
from ota_bridge.core.rollout.plan import Plan
from ota_bridge.core.rollout.plan_json import plan_from, record_from, record_json
from ota_bridge.core.values import DeviceId, ReleaseId, RolloutId
from ota_bridge.store.rows import Row, b64, decode, encode

# --- releases ------------------------------------------------------------------------------------------------

RELEASE_COLUMNS: Final = ("id", "product", "version", "hardware", "state", "created_wall", "created_by")
PART_COLUMNS: Final = (
    "release",
    "position",
    "component",
    "envelope",
    "facts",
    "md5",
    "file_name",
    "installs_from",
    "metadata",
)

_KEPT: Final = 512

_FACT_BYTES: Final = (
    "vendor",
    "sha256",
    "merkle_root",
    "installed_sha256",
    "precursor_sha256",
    "device",
    "metadata_sha256",
    "digest",
)
_FACT_PLAIN: Final = (
    "seq",
    "version",
    "component",
    "size_bytes",
    "chunk_bytes",
    "min_present_seq",
    "expires_s",
    "security_counter",
    "installed_size_bytes",
    "epoch",
)


def release_row(release: Release) -> Row:
    """The row in `releases`; the parts are rows of their own."""
    return (
        release.id,
        release.product,
        release.version,
        encode(release.hardware),
        release.state.value,
        release.created_wall,
        release.created_by,
    )


def release_from(row: Row, parts: Mapping[str, ReleasePart]) -> Release:
    """The reverse of `release_row`."""
    return Release(
        id=ReleaseId(row[0]),
        product=row[1],
        version=row[2],
        hardware=tuple(decode(row[3])),
        parts=parts,
        state=ReleaseState(row[4]),
        created_wall=row[5],
        created_by=row[6],
    )


def part_row(release: ReleaseId, position: int, part: ReleasePart) -> Row:
    """The row in `release_parts`; `position` keeps the order of the parts."""
    facts = _facts_text(part.manifest)
    return (
        release,
        position,
        part.component,
        part.envelope,
        facts,
        part.md5,
        part.file_name,
        encode(part.installs_from),
        encode(dict(part.metadata)),
    )


def part_from(row: Row) -> ReleasePart:
    """The reverse of `part_row`."""
    return _part(*row[2:9])


@lru_cache(maxsize=_KEPT)
def _part(
    component: str, envelope: bytes, facts: str, md5: str, file_name: str, installs_from: str, metadata: str
) -> ReleasePart:
    return ReleasePart(
        component=component,
        envelope=envelope,
        manifest=facts_from(facts),
        md5=md5,
        file_name=file_name,
        installs_from=tuple(decode(installs_from)),
        metadata=decode(metadata),
    )


def _facts_text(facts: ManifestFacts) -> str:
    found: dict[str, Any] = {name: getattr(facts, name) for name in _FACT_PLAIN}
    for name in _FACT_BYTES:
        value = getattr(facts, name)
        found[name] = None if value is None else b64(value)
    found["payload_type"] = facts.payload_type.name
    found["classes"] = [b64(one) for one in facts.classes]
    found["dependencies"] = [[one.component, one.min_seq] for one in facts.dependencies]
    return encode({name: value for name, value in found.items() if value is not None})


def facts_from(text: str) -> ManifestFacts:
    """The reverse of what a part's row keeps of its manifest."""
    found = decode(text)
    for name in _FACT_BYTES:
        if name in found:
            found[name] = b64decode(found[name])
    found["payload_type"] = PayloadType[found["payload_type"]]
    found["classes"] = tuple(b64decode(one) for one in found["classes"])
    found["dependencies"] = tuple(
        Dependency(component=component, min_seq=min_seq) for component, min_seq in found["dependencies"]
    )
    return ManifestFacts(**found)


# --- rollouts ------------------------------------------------------------------------------------------------

ROLLOUT_COLUMNS: Final = (
    *("id", "release", "product", "percent", "devices", "state"),
    *("created_wall", "created_by", "changed_wall", "changed_by"),
    *("target_query", "plan", "standing", "cause"),
)


def rollout_row(rollout: Rollout) -> Row:
    """The row in `rollouts`."""
    return (
        rollout.id,
        rollout.release,
        rollout.product,
        rollout.target.percent,
        _target_text(rollout),
        rollout.state.value,
        rollout.created_wall,
        rollout.created_by,
        rollout.changed_wall,
        rollout.changed_by,
        rollout.target.where,
        _record_text(rollout.plan),
        _record_text(rollout.standing),
        rollout.cause,
    )


def rollout_from(row: Row) -> Rollout:
    """The reverse of `rollout_row`."""
    target, sweep = _target(row[3], row[4], row[10])
    return Rollout(
        id=RolloutId(row[0]),
        release=ReleaseId(row[1]),
        product=row[2],
        target=target,
        state=RolloutState(row[5]),
        created_wall=row[6],
        created_by=row[7],
        changed_wall=row[8],
        changed_by=row[9],
        sweep=sweep,
        plan=_plan(row[11]),
        standing=_standing(row[12]),
        cause=row[13],
    )


def _target_text(rollout: Rollout) -> str:
    """The named devices; while they are being planned an object that says beside them how far that has come."""
    named = [str(device) for device in rollout.target.devices]
    return encode(named if rollout.sweep is None else {"named": named, "sweep": rollout.sweep})


@lru_cache(maxsize=_KEPT)
def _target(percent: int, text: str, where: str) -> tuple[Target, str | None]:
    found = decode(text)
    sweep: str | None = None
    if isinstance(found, dict):
        found, sweep = found["named"], found["sweep"]
    return Target(percent=percent, devices=tuple(DeviceId.parse(name) for name in found), where=where), sweep


def _record_text(record: Plan | Standing) -> str:
    found = record_json(record)
    return encode(found) if found else ""


@lru_cache(maxsize=_KEPT)
def _plan(text: str) -> Plan:
    return plan_from(decode(text)) if text else Plan()


def _standing(text: str) -> Standing:
    return record_from(Standing, decode(text), ("standing",)) if text else Standing()
