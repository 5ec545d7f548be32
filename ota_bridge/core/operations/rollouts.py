"""Rollouts: started, widened, held, moved on, ended."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ota_bridge.core import steering
from ota_bridge.core.catalog import Release, ReleaseState
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.fleet import DeviceState
from ota_bridge.core.operations.named import device_named, every_device, release_named, rollout_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.queries import checked_query
from ota_bridge.core.rollout.model import Rollout, RolloutState, Target
from ota_bridge.core.rollout.plan import Plan
from ota_bridge.core.rollout.plan_json import Path, PlanError, plan_from
from ota_bridge.core.values import ReleaseId, RolloutId
from ota_bridge.core.views import Json, deployment_view, rollout_view


@operation("rollout.start", writes=True, role=Role.OPERATOR, first="rollout.check")
def rollout_start(
    context: Context,
    release: str,
    devices: list[str] | None = None,
    percent: int | None = None,
    where: str | None = None,
    plan: dict[str, Any] | None = None,
) -> Json:
    """Bring a release to all compatible devices of its product, to a share, to those of a query, or to those named."""
    checked = checked_rollout(context, release, devices=devices, percent=percent, where=where, plan=plan)
    return _started(context, replace(checked, id=context.unit.new_rollout_id()))


def _started(context: Context, rollout: Rollout) -> Json:
    """Store a rollout, and begin it where it waits for nothing; its devices are looked at in slices from then on."""
    is_due = rollout.plan.start_wall is None or rollout.plan.start_wall <= context.now.wall
    if rollout.state is RolloutState.RUNNING and is_due:
        steering.begin(context.updates, rollout)
    else:
        steering.store(context.updates, rollout)
    return _view(context, rollout.id)


def approved(context: Context, rollout: Rollout) -> Json:
    """The last approval that it needed has come: from now on it runs."""
    running = rollout.becomes(RolloutState.RUNNING, context.now.wall, context.actor)
    return _started(context, replace(running, sweep=None))


def checked_rollout(
    context: Context,
    name: str,
    *,
    devices: list[str] | None,
    percent: int | None,
    where: str | None,
    plan: Mapping[str, Any] | None,
) -> Rollout:
    """A rollout of the named release that can work, still without an id; raises Conflict or InvalidInput otherwise."""
    release = release_named(context, name)
    if release.state is ReleaseState.WITHDRAWN:
        raise Conflict(f"release {release.id} is withdrawn")
    if devices and (percent is not None or where):
        raise InvalidInput("rollout start: name devices, or a percentage and a query, not both")
    if devices is not None and not devices:
        raise InvalidInput("rollout start: the list of devices is empty; leave it out to mean all")
    if where is not None and not where.strip():
        raise InvalidInput("rollout start: the query is empty; leave it out to mean all")
    named = {device.id: device for device in (device_named(context.unit, name) for name in devices or [])}
    for device in named.values():
        if device.id.product != release.product:
            raise InvalidInput(f"device {device.id} is not a {release.product}")
        if device.state is DeviceState.RETIRED:
            raise Conflict(f"device {device.id} is retired")
    target = Target(devices=tuple(named), percent=100 if percent is None else percent, where=where or "")
    how = plan_from(plan or {})
    _check_queries(context, release, target, how)
    for number, window in enumerate(how.windows):
        try:
            context.bridge.calendar.check(window)
        except InvalidInput as error:
            raise PlanError(("windows", number), str(error)) from error
    if how.roll_back_to is not None:
        hindrance = steering.hindrance_to_roll_back(context.updates, release, how.roll_back_to)
        if hindrance:
            raise PlanError(("roll_back_to",), hindrance)
    return Rollout(
        id=RolloutId(""),
        release=release.id,
        product=release.product,
        target=target,
        state=RolloutState.WAITING if how.approvals else RolloutState.RUNNING,
        created_wall=context.now.wall,
        created_by=context.actor,
        changed_wall=context.now.wall,
        changed_by=context.actor,
        plan=how,
    )


def shown(rollout: Rollout) -> Json:
    """What was meant, before anything of it is done."""
    stages = [str(stage) for stage in rollout.plan.stages]
    return {"release": rollout.release, "target": str(rollout.target), "stages": stages}


def _check_queries(context: Context, release: Release, target: Target, plan: Plan) -> None:
    queries: list[tuple[Path, str]] = [(("where",), target.where)]
    queries += [(("stages", number, "where"), stage.where) for number, stage in enumerate(plan.stages)]
    queries += [(("windows", number, "where"), window.where) for number, window in enumerate(plan.windows)]
    asked = [(path, text) for path, text in queries if text]
    if not asked:
        return
    for path, text in asked:
        try:
            fleet = every_device(context.unit, release.product)
            checked_query(context.bridge.queries, text, fleet, context.now.wall)
        except InvalidInput as error:
            raise PlanError(path, str(error)) from error


def _view(context: Context, name: str) -> Json:
    rollout = rollout_named(context, name)
    return rollout_view(rollout, context.unit.deployments.tallies(rollout.id))


@operation("rollout.check", writes=False, role=Role.VIEWER)
def rollout_check(
    context: Context,
    release: str,
    devices: list[str] | None = None,
    percent: int | None = None,
    where: str | None = None,
    plan: dict[str, Any] | None = None,
) -> Json:
    """Whether a rollout could be started so; nothing is changed."""
    checked = checked_rollout(context, release, devices=devices, percent=percent, where=where, plan=plan)
    return {**shown(checked), "ok": True}


@operation("rollout.list", writes=False, role=Role.VIEWER)
def rollout_list(context: Context) -> list[Json]:
    """All rollouts with their counts."""
    return [_view(context, rollout.id) for rollout in context.unit.rollouts.all()]


@operation("rollout.status", writes=False, role=Role.VIEWER)
def rollout_status(context: Context, rollout: str) -> Json:
    """One rollout, its counts and what it sent."""
    found = rollout_named(context, rollout)
    deployments = [deployment_view(one) for one in steering.deployments_of(context.updates, found)]
    deployments.sort(key=lambda row: (str(row["device"]), str(row["component"]), row["attempt"]))
    return {
        **_view(context, found.id),
        "bytes_sent": sum(row["bytes_sent"] for row in deployments),
        "waiting": context.unit.members.count(found.id),
        "deployments": deployments,
    }


@operation("rollout.percent", writes=True, role=Role.OPERATOR)
def rollout_percent(context: Context, rollout: str, percent: int) -> Json:
    """Widen a rollout to a larger share of the fleet."""
    found = rollout_named(context, rollout)
    if found.state is RolloutState.WAITING:
        raise Conflict(f"rollout {found.id} waits for approval of what it is; start another to change it")
    if found.plan.approvals:
        raise Conflict(f"rollout {found.id} was approved as it is; start another to reach more devices")
    steering.store(context.updates, found.widened(percent, context.now.wall, context.actor))
    return _view(context, found.id)


@operation("rollout.pause", writes=True, role=Role.OPERATOR)
def rollout_pause(context: Context, rollout: str) -> Json:
    """Hold a rollout: no offers, no blocks, no installs; nothing is lost."""
    return _view(context, steering.pause(context.updates, rollout_named(context, rollout), context.actor).id)


@operation("rollout.resume", writes=True, role=Role.OPERATOR)
def rollout_resume(context: Context, rollout: str) -> Json:
    """Go on with a paused rollout; the failures for which a gate held it are not counted again."""
    found = rollout_named(context, rollout)
    if found.state is RolloutState.WAITING:
        raise Conflict(f"rollout {found.id} waits for approval: rollout approve")
    return _view(context, steering.resume(context.updates, found, context.actor).id)


@operation("rollout.next", writes=True, role=Role.OPERATOR)
def rollout_next(context: Context, rollout: str) -> Json:
    """Open the next stage now, whatever the gate of the last one says."""
    found = rollout_named(context, rollout)
    if found.state is not RolloutState.RUNNING or found.standing.started_wall is None:
        raise Conflict(f"rollout {found.id} is {found.state} and has no open stage to go on from")
    if found.is_planning:
        raise Conflict(f"rollout {found.id} is still finding its devices; try again in a moment")
    steering.open_stage(context.updates, replace(found, changed_wall=context.now.wall, changed_by=context.actor))
    return _view(context, found.id)


@operation("rollout.cancel", writes=True, role=Role.OPERATOR)
def rollout_cancel(context: Context, rollout: str, let_finish: bool = False) -> Json:
    """End a rollout: what has not begun to install is canceled; with `let_finish` what is open goes on to its end."""
    found = rollout_named(context, rollout)
    if let_finish:
        steering.finish(context.updates, found, context.actor)
        return {**_view(context, found.id), "canceled": 0}
    canceled = steering.cancel(context.updates, found, context.actor)
    number = steering.cancel_open(context.updates, canceled, f"rollout canceled by {context.actor}")
    return {**_view(context, found.id), "canceled": number}


@operation("rollout.rollback", writes=True, role=Role.OPERATOR)
def rollout_rollback(context: Context, rollout: str, to: str | None = None) -> Json:
    """End a rollout and take its devices to what ran before, signed again with a higher seq; says what to sign."""
    found = rollout_named(context, rollout)
    release = release_named(context, found.release)
    target = release_named(context, to) if to is not None else steering.successor_of_former(context.updates, found)
    hindrance = steering.hindrance_to_roll_back(context.updates, release, ReleaseId(target.id))
    if hindrance:
        raise Conflict(f"rollout {found.id} cannot be rolled back: {hindrance}")
    back = steering.roll_back(context.updates, found, context.actor, f"said {context.actor}", target)
    return _view(context, back.id)
