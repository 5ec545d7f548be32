"""What is noted of a device beside its reports: what it was served, what it was refused, what could not be decoded."""

from ota_bridge.core.deployment import DeploymentEvent, State
from ota_bridge.core.fleet import Device
from ota_bridge.core.messages import BlockActivity, BlockTrouble, CancelUpdate, Progress, Rejected, ReportKey
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.records import replace
from ota_bridge.core.updates import Updates


def note_activity(updates: Updates, activity: BlockActivity) -> None:
    """What a deployment was served since the last time."""
    deployment = updates.unit.deployments.get(activity.deployment)
    device = updates.unit.devices.get(activity.device)
    if deployment is None or device is None or deployment.device != activity.device:
        return
    updates.unit.devices.put(replace(device, last_block_wall=activity.wall))
    seen = deployment.with_activity(activity)
    if device.last_report_wall is not None and activity.wall <= device.last_report_wall:
        # Asked before the device's last word: that may have been a deferral, or a restart that waits for its offer.
        seen = replace(seen, retry_wall=deployment.retry_wall)
        if seen.state is State.DEFERRED:
            updates.schedule(seen)
            return
    if seen.state in {State.QUEUED, State.OFFERED, State.DEFERRED}:
        updates.move(seen, DeploymentEvent.BLOCKS, "asks for blocks")
    elif seen.is_open:
        cause = "asks for blocks" if deployment.stalled else seen.cause
        updates.schedule(replace(seen, cause=cause))
    else:
        updates.unit.deployments.put(seen)


def note_trouble(updates: Updates, trouble: BlockTrouble) -> None:
    """What a device was refused."""
    device = updates.unit.devices.get(trouble.device)
    if device is None:
        return
    known = replace(
        device.trouble,
        refusal=trouble.refusal,
        refusal_wall=trouble.wall,
        refusals=device.trouble.refusals + trouble.count,
        waits_for=trouble.waits_for,
        retry_after_s=trouble.retry_after_s,
    )
    updates.unit.devices.put(replace(device, trouble=known))
    told: dict[str, object] = {"reason": trouble.refusal.name.lower(), "count": trouble.count}
    if trouble.waits_for is not None:
        told |= {"waits_for": trouble.waits_for, "retry_after_s": trouble.retry_after_s}
    updates.tell(device.id, "blocks_refused", **told)


def note_rejected(updates: Updates, rejected: Rejected) -> None:
    """What could not be decoded or used."""
    device = updates.unit.devices.get(rejected.device)
    if device is None:
        return
    trouble = replace(
        device.trouble,
        rejected=device.trouble.rejected + 1,
        rejected_reason=rejected.reason[:200],
        rejected_wall=updates.now.wall,
    )
    updates.unit.devices.put(replace(device, trouble=trouble))
    updates.tell(device.id, "rejected", reason=rejected.reason[:200])


def end_forgotten(updates: Updates, device: Device, report: Progress) -> None:
    """A device is busy with a deployment that the database, an older one put back, does not have: let it end that."""
    if report.deployment is not None and updates.unit.deployments.get(report.deployment) is None:
        updates.outputs.append(CancelUpdate(device=device.id, encoding=device.encoding, deployment=report.deployment))
        updates.tell(device.id, "forgotten", id=report.deployment, said=report.state)


def is_live_again(unit: UnitOfWork, device: Device, key: ReportKey) -> bool:
    """A boot that checks in twice in a row was superseded by a report that came late: else it were deaf for ever."""
    last = next(iter(unit.reports.recent(device.id, limit=1)), None)
    if last is None or last.key is None or last.kind != "report_version":
        return False
    return last.key.boot == key.boot and last.key.seq < key.seq
