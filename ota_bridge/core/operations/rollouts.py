"""Rollouts: started, widened, held, ended."""

from dataclasses import replace

from ota_bridge.core.catalog import ReleaseState
from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.fleet import DeviceState
from ota_bridge.core.messages import CheckInRequest, RolloutChanged
from ota_bridge.core.operations.named import deployments_of, device_named, release_named, rollout_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.rollout.model import Rollout, RolloutState, Target
from ota_bridge.core.values import ReleaseId
from ota_bridge.core.views import Json, deployment_view, rollout_view


@operation("rollout.start", writes=True, role=Role.OPERATOR)
def rollout_start(context: Context, release: str, devices: list[str] | None = None, percent: int | None = None) -> Json:
    """Bring a release to all compatible devices of its product, to a share of them, or to those named."""
    found = release_named(context, release)
    if found.state is ReleaseState.WITHDRAWN:
        raise Conflict(f"release {found.id} is withdrawn")
    if devices and percent is not None:
        raise InvalidInput("rollout start: name devices or a percentage, not both")
    if devices is not None and not devices:
        raise InvalidInput("rollout start: the list of devices is empty; leave it out to mean all")
    named = {device.id: device for device in (device_named(context.unit, name) for name in devices or [])}
    for device in named.values():
        if device.id.product != found.product:
            raise InvalidInput(f"device {device.id} is not a {found.product}")
        if device.state is DeviceState.RETIRED:
            raise Conflict(f"device {device.id} is retired")
    target = Target(devices=tuple(named)) if named else Target(percent=100 if percent is None else percent)
    rollout = Rollout(
        id=context.unit.new_rollout_id(),
        release=found.id,
        product=found.product,
        target=target,
        state=RolloutState.RUNNING,
        created_wall=context.now.wall,
        created_by=context.actor,
        changed_wall=context.now.wall,
        changed_by=context.actor,
        sweep="",
    )
    return _planned_from_here(context, rollout)


def _planned_from_here(context: Context, rollout: Rollout) -> Json:
    """Store a rollout whose devices are to be looked at: `bridge.plan` does that in slices, from the next one on."""
    context.unit.rollouts.put(rollout)
    context.updates.outputs.append(RolloutChanged(rollout=rollout.id))
    return rollout_view(rollout, context.unit.deployments.counts(rollout.id))


@operation("rollout.list", writes=False, role=Role.VIEWER)
def rollout_list(context: Context) -> list[Json]:
    """All rollouts with their counts."""
    return [
        rollout_view(rollout, context.unit.deployments.counts(rollout.id)) for rollout in context.unit.rollouts.all()
    ]


@operation("rollout.status", writes=False, role=Role.VIEWER)
def rollout_status(context: Context, rollout: str) -> Json:
    """One rollout, its counts and what it sent."""
    found = rollout_named(context, rollout)
    view = rollout_view(found, context.unit.deployments.counts(found.id))
    deployments = [deployment_view(deployment) for deployment in deployments_of(context.unit, found)]
    deployments.sort(key=lambda row: (str(row["device"]), str(row["component"]), row["attempt"]))
    return {**view, "bytes_sent": sum(row["bytes_sent"] for row in deployments), "deployments": deployments}


@operation("rollout.percent", writes=True, role=Role.OPERATOR)
def rollout_percent(context: Context, rollout: str, percent: int) -> Json:
    """Widen a rollout to a larger share of the fleet."""
    widened = rollout_named(context, rollout).widened(percent, context.now.wall, context.actor)
    return _planned_from_here(context, widened)


@operation("rollout.pause", writes=True, role=Role.OPERATOR)
def rollout_pause(context: Context, rollout: str) -> Json:
    """Hold a rollout: no offers, no blocks, no installs; nothing is lost."""
    paused = rollout_named(context, rollout).becomes(RolloutState.PAUSED, context.now.wall, context.actor)
    return _revise(context, paused)


@operation("rollout.resume", writes=True, role=Role.OPERATOR)
def rollout_resume(context: Context, rollout: str) -> Json:
    """Go on with a paused rollout."""
    running = rollout_named(context, rollout).becomes(RolloutState.RUNNING, context.now.wall, context.actor)
    return _revise(context, running)


def _revise(context: Context, rollout: Rollout) -> Json:
    """Store a paused or resumed rollout; its deployments' times start again, and its grants follow."""
    context.unit.rollouts.put(rollout)
    running = rollout.state is RolloutState.RUNNING
    for deployment in deployments_of(context.unit, rollout, open_only=True):
        if running and deployment.state in {State.OFFERED, State.DOWNLOADING, State.DOWNLOADED, State.DEFERRED}:
            deployment = replace(deployment, changed_wall=context.now.wall, resent=False)  # noqa: PLW2901
        context.updates.schedule(deployment)
        context.updates.grant(deployment.device)
        device = context.unit.devices.get(deployment.device)
        if running and device is not None and device.proto > 0 and deployment.state in OPEN:
            context.updates.outputs.append(CheckInRequest(device=device.id, encoding=device.encoding))
    context.updates.outputs.append(RolloutChanged(rollout=rollout.id))
    return rollout_view(rollout, context.unit.deployments.counts(rollout.id))


@operation("rollout.cancel", writes=True, role=Role.OPERATOR)
def rollout_cancel(context: Context, rollout: str) -> Json:
    """End a rollout: what has not begun to install is canceled on the devices, what runs stays."""
    canceled = rollout_named(context, rollout).becomes(RolloutState.CANCELED, context.now.wall, context.actor)
    context.unit.rollouts.put(canceled)
    number = cancel_open(context, canceled, f"rollout canceled by {context.actor}")
    context.updates.outputs.append(RolloutChanged(rollout=canceled.id))
    return {**rollout_view(canceled, context.unit.deployments.counts(canceled.id)), "canceled": number}


def cancel_open(context: Context, rollout: Rollout, cause: str) -> int:
    """Take back every assignment of a rollout and cancel what of it is open; returns how many were canceled."""
    canceled = 0
    for deployment in deployments_of(context.unit, rollout):
        device = context.unit.devices.get(deployment.device)
        if device is None:
            continue
        held = device.assigned.get(deployment.component)
        arrived = deployment.state is State.CONFIRMED and deployment.release == rollout.release
        if not arrived and held is not None and held.rollout == rollout.id:
            device = device.assign(deployment.component, None)
            context.unit.devices.put(device)
        if deployment.is_open and context.updates.cancel(device, deployment, cause):
            canceled += 1
    return canceled


def cancel_stones(context: Context, rollout: Rollout, stone: ReleaseId, cause: str) -> int:
    """Cancel what is open of another release than the rollout's, on the way to that; its assignments stay."""
    canceled = 0
    for deployment in deployments_of(context.unit, rollout, open_only=True):
        device = context.unit.devices.get(deployment.device)
        if device is not None and deployment.release == stone and context.updates.cancel(device, deployment, cause):
            canceled += 1
    return canceled
