"""How records look to operators: plain JSON values, one shape per thing, used by CLI, web and events alike.

Times are ISO 8601 UTC text; sizes are bytes; digests are lower-case hex.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ota_bridge.core.catalog import Release
from ota_bridge.core.deployment import OPEN, Deployment, State, Transition
from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import StoredReport, UnitOfWork
from ota_bridge.core.rollout.gates import Counts, tally
from ota_bridge.core.rollout.model import Rollout
from ota_bridge.core.rollout.plan_json import plan_json
from ota_bridge.core.values import StandingLimits

Json = dict[str, Any]


def iso(wall: float | None) -> str | None:
    """A wall time as ISO 8601 UTC with milliseconds."""
    if wall is None:
        return None
    second, fraction = divmod(wall, 1.0)
    microseconds = round(fraction * 1e6)
    if microseconds == 1_000_000:  # noqa: PLR2004 - as many as a second has
        second, microseconds = second + 1.0, 0
    return f"{_second(second)}.{microseconds // 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(wall: float) -> str:
    """The text of a whole second; every report says when it came, and many come within one."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def percent_of(deployment: Deployment) -> int:
    """How much of the image has been asked for, 0..100; what the device says where the bridge sees no bytes."""
    if deployment.state in {State.DOWNLOADED, State.INSTALLING, State.TRIAL, State.CONFIRMED}:
        return 100
    seen = deployment.high_water_bytes * 100 // deployment.size_bytes
    return min(100, max(seen, deployment.percent or 0))


def deployment_view(deployment: Deployment) -> Json:
    """A deployment for operators."""
    return {
        "id": deployment.id,
        "device": str(deployment.device),
        "component": deployment.component,
        "release": deployment.release,
        "rollout": deployment.rollout,
        "attempt": deployment.attempt,
        "state": deployment.state.value,
        "cause": deployment.cause,
        "percent": percent_of(deployment),
        "position_bytes": deployment.high_water_bytes,
        "size_bytes": deployment.size_bytes,
        "bytes_sent": deployment.bytes_sent,
        "blocks_sent": deployment.blocks_sent,
        "requests": deployment.requests,
        "offers": deployment.offers,
        "created": iso(deployment.created_wall),
        "changed": iso(deployment.changed_wall),
        "stalled": deployment.stalled,
        "result_code": deployment.result_code,
        "old_version": deployment.old_version,
        "stage": deployment.stage_number + 1,
    }


def device_view(unit: UnitOfWork, device: Device) -> Json:
    """A device and its open deployments."""
    return {
        "id": str(device.id),
        "product": device.id.product,
        "name": device.id.name,
        "label": device.label,
        "state": device.state.value,
        "hw": device.hw,
        "hw_reported": device.hw_reported,
        "tags": list(device.tags),
        "attrs": dict(device.attrs),
        "parts": {
            name: {"version": part.version, "seq": part.seq, "trial": part.trial}
            for name, part in sorted(device.parts.items())
        },
        "assigned": {
            name: {"release": held.release, "rollout": held.rollout} for name, held in sorted(device.assigned.items())
        },
        "dialect": device.dialect or None,
        "encoding": device.encoding.value,
        "keyset": device.keyset,
        "keyset_refused": device.trouble.keyset_refused or None,
        "last_report": iso(device.last_report_wall),
        "next_check_in": iso(device.next_check_in_wall),
        "last_offer": iso(device.last_offer_wall),
        "last_block": iso(device.last_block_wall),
        "refusals": device.trouble.refusals,
        "rejected": device.trouble.rejected,
        "clashes": device.trouble.clashes,
        "open": [deployment_view(deployment) for deployment in unit.deployments.open_of(device.id)],
    }


def transition_view(step: Transition) -> Json:
    """One row of history."""
    return {
        "at": iso(step.wall),
        "deployment": step.deployment,
        "event": step.event,
        "before": step.before.value if step.before else None,
        "after": step.after.value,
        "cause": step.cause,
    }


def report_view(report: StoredReport) -> Json:
    """One report as it was received."""
    return {
        "at": iso(report.wall),
        "type": report.kind,
        "boot": report.key.boot if report.key else None,
        "seq": report.key.seq if report.key else None,
        "report": dict(report.body),
    }


def release_view(release: Release) -> Json:
    """A release."""
    return {
        "id": release.id,
        "product": release.product,
        "version": release.version,
        "state": release.state.value,
        "hardware": list(release.hardware),
        "created": iso(release.created_wall),
        "created_by": release.created_by,
        "parts": {
            name: {
                "version": part.version,
                "installs_from": list(part.installs_from),
                "needs": {one.component: one.min_seq for one in part.manifest.dependencies},
                "sha256": part.manifest.sha256.hex(),
                "size_bytes": part.manifest.size_bytes,
                "seq": part.manifest.seq,
                "min_present_seq": part.manifest.min_present_seq,
                "epoch": part.manifest.epoch,
                "chunk_bytes": part.manifest.chunk_bytes,
                "file_name": part.file_name,
                "metadata": dict(part.metadata),
                "manifest_digest": part.manifest.digest.hex(),
            }
            for name, part in sorted(release.parts.items())
        },
    }


def limits_view(standing: StandingLimits) -> Json:
    """The fleet-wide caps; 0 is none."""
    return {
        "blocks_per_s": standing.limits.blocks_per_s,
        "bytes_per_s": standing.limits.bytes_per_s,
        "downloads": standing.limits.downloads,
        "set": iso(standing.set_wall),
        "set_by": standing.set_by or None,
    }


def rollout_view(rollout: Rollout, tallies: Counts) -> Json:
    """A rollout and its counts. `complete`: its last stage is open, its devices were planned, none is on the way."""
    counts: dict[State, int] = {}
    for (_, state, _), number in tallies.items():
        counts[state] = counts.get(state, 0) + number
    total = sum(counts.values())
    steps = sum(number for (stage, state, _), number in tallies.items() if stage < 0 and state is State.CONFIRMED)
    still_open = steps + sum(number for state, number in counts.items() if state in OPEN)
    standing = rollout.standing
    is_last = standing.stage + 1 == len(rollout.plan.stages)
    return {
        "id": rollout.id,
        "release": rollout.release,
        "state": rollout.state.value,
        "cause": rollout.cause or None,
        "target": str(rollout.target),
        "created": iso(rollout.created_wall),
        "created_by": rollout.created_by,
        "changed": iso(rollout.changed_wall),
        "changed_by": rollout.changed_by,
        "started": iso(standing.started_wall),
        "urgent": rollout.plan.is_urgent,
        "plan": plan_json(rollout.plan),
        "stages": [_stage_view(rollout, number, tallies) for number in range(len(rollout.plan.stages))],
        "waits_for_person": standing.waits_for_person,
        "counts": {state.value: counts[state] for state in State if counts.get(state)},
        "total": total,
        "confirmed": counts.get(State.CONFIRMED, 0) - steps,
        "open": still_open,
        "planning": rollout.is_planning,
        "complete": total > 0 and still_open == 0 and not rollout.is_planning and is_last,
    }


def _stage_view(rollout: Rollout, number: int, tallies: Counts) -> Json:
    stage, standing = rollout.plan.stages[number], rollout.standing
    is_open = number <= standing.stage
    found = tally(tallies, number, standing.sizes[number] if is_open else 0)
    state = "waiting" if not is_open else "open" if number == standing.stage and not standing.is_through else "done"
    return {
        "stage": str(stage),
        "state": state,
        "size": found.size if is_open else None,
        "confirmed": found.confirmed,
        "failed": found.failures(),
        "open": found.open,
    }
