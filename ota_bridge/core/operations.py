"""The operator's face of the core: every command, by name, with typed arguments.

`perform` checks the arguments against the signature and runs the operation inside a unit of work; CLI, socket and REST
all go through it, so each says the same. Reads change nothing and may run on a read-only unit of work.
Raises NotFound, Conflict or InvalidInput; nothing is changed then.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args, get_origin, get_type_hints

from ota_bridge.core.bridge import Bridge
from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.explain import why as explain
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import CheckInRequest, LimitsChanged, Output, RolloutChanged
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.model import Rollout, RolloutState, Target
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import (
    DeviceId,
    Now,
    ReleaseId,
    RolloutId,
    StandingLimits,
    checked_hardware_id,
    checked_tag,
    release_id,
)
from ota_bridge.core.views import (
    Json,
    deployment_view,
    device_view,
    limits_view,
    release_view,
    report_view,
    rollout_view,
    transition_view,
)

LABEL_MAX: Final = 64
IMPORT_MAX: Final = 100_000


@dataclass(slots=True, kw_only=True)
class Context:
    """What an operation works with."""

    unit: UnitOfWork
    now: Now
    actor: str
    """The user of the process at the other end of the socket."""
    bridge: Bridge
    updates: Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A command: `writes` False means it runs on a read-only unit of work too."""

    name: str
    function: Callable[..., Any]
    writes: bool
    summary: str


OPERATIONS: Final[dict[str, Operation]] = {}


def _operation(name: str, *, writes: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = inspect.getdoc(function) or ""
        OPERATIONS[name] = Operation(name=name, function=function, writes=writes, summary=summary.partition("\n")[0])
        return function

    return register


def perform(
    unit: UnitOfWork, bridge: Bridge, name: str, args: Mapping[str, Any], *, actor: str, now: Now
) -> tuple[Any, list[Output]]:
    """Run one operation; returns its result (plain JSON values) and what to release after the commit."""
    operation = OPERATIONS.get(name)
    if operation is None:
        raise NotFound(f"no operation {name[:40]!r}; known are {', '.join(sorted(OPERATIONS))}")
    updates = bridge.updates(unit, now)
    context = Context(unit=unit, now=now, actor=actor, bridge=bridge, updates=updates)
    result = operation.function(context, **checked_arguments(operation, args))
    return result, updates.outputs


def checked_arguments(operation: Operation, args: Mapping[str, Any]) -> dict[str, Any]:
    """`args` if they fit the operation's signature; raises InvalidInput that names the argument."""
    hints = get_type_hints(operation.function)
    parameters = [p for p in inspect.signature(operation.function).parameters.values() if p.name != "context"]
    known = {parameter.name for parameter in parameters}
    for name in args:
        if name not in known:
            raise InvalidInput(f"{operation.name}: unknown argument {str(name)[:40]!r}; known are {sorted(known)}")
    checked: dict[str, Any] = {}
    for parameter in parameters:
        value = args.get(parameter.name)
        if value is None:
            if parameter.default is inspect.Parameter.empty:
                raise InvalidInput(f"{operation.name}: argument {parameter.name!r} is missing")
            continue
        if not _fits(value, hints[parameter.name]):
            raise InvalidInput(f"{operation.name}: argument {parameter.name!r} has the wrong type")
        checked[parameter.name] = value
    return checked


def _fits(value: object, hint: Any) -> bool:
    options = get_args(hint) if get_origin(hint) is not None and type(None) in get_args(hint) else (hint,)
    for option in options:
        origin = get_origin(option)
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return True
        if option is str and isinstance(value, str):
            return True
        if origin is list and isinstance(value, list):
            return all(_fits(item, get_args(option)[0]) for item in value)
        if origin is dict and isinstance(value, dict):
            return all(isinstance(key, str) for key in value)
    return False


# --- releases ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A verified manifest and a stored artifact, on their way to become a part of a release."""

    product: str
    hardware: tuple[str, ...]
    part: ReleasePart


def add_release(context: Context, upload: Upload) -> Json:
    """Add a release, or a component to one without a rollout. The edge has verified the upload."""
    unit, manifest = context.unit, upload.part.manifest
    name = release_id(upload.product, manifest.version)
    for release in unit.releases.all(product=upload.product):
        other = release.parts.get(manifest.component)
        if other is not None and release.id != name and other.manifest.counter == manifest.counter:
            raise Conflict(
                f"seq {manifest.seq} of {upload.product} {manifest.component} is taken by {release.id}; sign a higher"
            )
    existing = unit.releases.get(name)
    held = existing.parts.get(manifest.component) if existing is not None else None
    if existing is not None and held is not None and held.envelope == upload.part.envelope:
        return release_view(existing)  # its file was put back, nothing else changes
    if held is not None and held.manifest.sha256 == manifest.sha256:
        seq = held.manifest.seq
        raise Conflict(
            f"release {name} holds this image, signed with seq {seq}; to put its file back name --seq {seq}, "
            "to sign it anew choose another version"
        )
    if existing is None:
        existing = Release(
            id=name,
            product=upload.product,
            version=manifest.version,
            hardware=upload.hardware,
            parts={},
            state=ReleaseState.ACTIVE,
            created_wall=context.now.wall,
            created_by=context.actor,
        )
    elif any(rollout.release == name for rollout in unit.rollouts.all(product=upload.product)):
        raise Conflict(f"release {name} has a rollout and can no longer change; choose another version")
    elif existing.hardware != upload.hardware:
        raise Conflict(
            f"release {name} is for hardware {', '.join(existing.hardware)}; all components must name the same"
        )
    added = existing.with_part(upload.part)
    unit.releases.put(added)
    return release_view(added)


@_operation("release.list", writes=False)
def release_list(context: Context, product: str | None = None) -> list[Json]:
    """All releases."""
    return [release_view(release) for release in context.unit.releases.all(product=product)]


@_operation("release.show", writes=False)
def release_show(context: Context, release: str) -> Json:
    """One release."""
    return release_view(_release(context, release))


@_operation("release.ahead", writes=False)
def release_ahead(context: Context, release: str) -> Json:
    """How many devices report a seq that is not below the release's and run something else: they will not take it."""
    found = _release(context, release)
    ahead: list[int] = []
    for device in _all_devices(context.unit, found.product):
        for component, part in found.parts.items():
            installed = device.parts.get(component)
            if installed is None or installed.seq is None or policy.fits(device, found, part) is not None:
                continue
            if policy.is_needed(device, found, part) is policy.Obstacle.ANTI_ROLLBACK:
                ahead.append(installed.seq)
                break
    return {"release": found.id, "devices": len(ahead), "seq": max(ahead, default=None)}


@_operation("release.withdraw", writes=True)
def release_withdraw(context: Context, release: str, reason: str = "") -> Json:
    """Stop offering a release; its rollouts end, and every open deployment of it is canceled."""
    found = _release(context, release).withdrawn()
    context.unit.releases.put(found)
    cause = f"withdrawn by {context.actor}" + (f": {reason[:200]}" if reason else "")
    canceled = 0
    for rollout in context.unit.rollouts.all(product=found.product):
        if rollout.release == found.id:
            if rollout.state is not RolloutState.CANCELED:
                rollout = rollout.becomes(RolloutState.CANCELED, context.now.wall, context.actor)  # noqa: PLW2901
                context.unit.rollouts.put(rollout)
            canceled += _cancel_open(context, rollout, cause)
            context.updates.outputs.append(RolloutChanged(rollout=rollout.id))
    return {**release_view(found), "canceled": canceled}


def _release(context: Context, name: str) -> Release:
    if "/" in name:
        found = context.unit.releases.get(ReleaseId(name))
        if found is not None:
            return found
    matching = [release for release in context.unit.releases.all() if release.version == name]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InvalidInput(f"release {name!r} is ambiguous: {', '.join(release.id for release in matching)}")
    raise NotFound(f"no release {name[:80]!r}; see: release list")


# --- devices -------------------------------------------------------------------------------------------------


@_operation("device.list", writes=False)
def device_list(
    context: Context, product: str | None = None, state: str | None = None, tag: str | None = None
) -> list[Json]:
    """All devices, with their open deployments."""
    wanted = None
    if state is not None:
        try:
            wanted = DeviceState(state)
        except ValueError as error:
            raise InvalidInput(f"state {state[:40]!r}: one of {', '.join(DeviceState)}") from error
    return [device_view(context.unit, device) for device in _all_devices(context.unit, product, wanted, tag)]


def _all_devices(
    unit: UnitOfWork, product: str | None = None, state: DeviceState | None = None, tag: str | None = None
) -> list[Device]:
    found: list[Device] = []
    after: DeviceId | None = None
    while page := unit.devices.page(product=product, state=state, tag=tag, after=after):
        found.extend(page)
        after = page[-1].id
    return found


@_operation("device.show", writes=False)
def device_show(context: Context, device: str) -> Json:
    """One device with its history."""
    found = _device(context.unit, device)
    history = [
        transition_view(step)
        for deployment in reversed(context.unit.deployments.recent_of(found.id))
        for step in context.unit.deployments.history(deployment.id)
    ]
    reports = [report_view(report) for report in context.unit.reports.recent(found.id)]
    deployments = [deployment_view(deployment) for deployment in context.unit.deployments.recent_of(found.id)]
    return {**device_view(context.unit, found), "deployments": deployments, "history": history, "reports": reports}


def _device(unit: UnitOfWork, name: str) -> Device:
    if "/" in name:
        found = unit.devices.get(DeviceId.parse(name))
        if found is not None:
            return found
    else:
        named = unit.devices.named(name)
        if len(named) == 1:
            return named[0]
        if named:
            raise InvalidInput(f"device {name!r} is ambiguous: {', '.join(str(device.id) for device in named)}")
    raise NotFound(f"no device {name[:140]!r}; see: device list")


@_operation("device.add", writes=True)
def device_add(context: Context, device: str, hw: str | None = None, tags: list[str] | None = None) -> Json:
    """Register a device before it appears."""
    return _add(context, {"device": device, "hw": hw, "tags": tags or []})


@_operation("device.import", writes=True)
def device_import(context: Context, rows: list[dict[str, Any]]) -> Json:
    """Register many devices; all or none."""
    if len(rows) > IMPORT_MAX:
        raise InvalidInput(f"{len(rows)} rows: at most {IMPORT_MAX} at once")
    for number, row in enumerate(rows, start=1):
        try:
            _add(context, row)
        except (InvalidInput, Conflict) as error:
            raise type(error)(f"row {number}: {error}") from error
    return {"added": len(rows)}


def _add(context: Context, row: Mapping[str, Any]) -> Json:
    device_id = DeviceId.parse(str(row.get("device", "")))
    if context.unit.devices.get(device_id) is not None:
        raise Conflict(f"device {device_id} exists already")
    if context.bridge.rules.unique_names:
        for known in context.unit.devices.named(device_id.name):
            if known.id.name == device_id.name:
                raise Conflict(f"{device_id.name} is registered as {known.id}; names are unique (topics.identity)")
    tags = row.get("tags") or []
    if not isinstance(tags, list):
        raise InvalidInput(f"tags of {device_id}: must be a list")
    hw = row.get("hw") or None
    device = Device(
        id=device_id,
        state=DeviceState.ACTIVE,
        created_wall=context.now.wall,
        hw=checked_hardware_id(str(hw)) if hw else None,
        label=_free_label(context.unit, str(row.get("label") or ""), device_id),
        tags=tuple(sorted({checked_tag(str(tag)) for tag in tags})),
    )
    context.unit.devices.put(device)
    return device_view(context.unit, device)


def _free_label(unit: UnitOfWork, text: str, device: DeviceId) -> str:
    """`text` if it may be a label and nobody else is called so."""
    if len(text) > LABEL_MAX or not text.isprintable():
        raise InvalidInput(f"label {text[:40]!r}: at most {LABEL_MAX} printable characters")
    others = [other.id for other in unit.devices.named(text) if other.id != device] if text else []
    if others:
        raise Conflict(f"label {text!r} is taken by {others[0]}")
    return text


@_operation("device.approve", writes=True)
def device_approve(context: Context, device: str) -> Json:
    """Let a device take part that waits for it (`enrol = approve`)."""
    found = _device(context.unit, device).approved()
    context.unit.devices.put(found)
    context.updates.tell(found.id, "approved", by=context.actor)
    return device_view(context.unit, context.updates.reconcile(found))


@_operation("device.tag", writes=True)
def device_tag(context: Context, device: str, add: list[str] | None = None, remove: list[str] | None = None) -> Json:
    """Add and remove tags."""
    found = _device(context.unit, device)
    tags = (set(found.tags) | {checked_tag(tag) for tag in add or []}) - set(remove or [])
    found = replace(found, tags=tuple(sorted(tags)))
    context.unit.devices.put(found)
    return device_view(context.unit, found)


@_operation("device.rename", writes=True)
def device_rename(context: Context, device: str, label: str) -> Json:
    """Give a device a name for people; on the wire it keeps its own."""
    found = _device(context.unit, device)
    found = replace(found, label=_free_label(context.unit, label, found.id))
    context.unit.devices.put(found)
    return device_view(context.unit, found)


@_operation("device.retire", writes=True)
def device_retire(context: Context, device: str) -> Json:
    """Take a device out of everything; its open deployments are canceled."""
    found = _device(context.unit, device)
    return device_view(context.unit, _retire(context, found, f"retired by {context.actor}"))


def _retire(context: Context, device: Device, cause: str) -> Device:
    for deployment in context.unit.deployments.open_of(device.id):
        context.updates.cancel(device, deployment, cause)
    retired = device.retired()
    context.unit.devices.put(retired)
    context.updates.tell(device.id, "retired", by=context.actor, cause=cause)
    return retired


@_operation("device.replace", writes=True)
def device_replace(context: Context, device: str, hw: str | None = None, successor: str | None = None) -> Json:
    """A board was swapped: accept its new hardware id, or hand everything to a successor and retire it."""
    found = _device(context.unit, device)
    if (hw is None) == (successor is None):
        raise InvalidInput("device replace: name either the new hardware id or the successor")
    if hw is not None:
        accepted = replace(found, hw=checked_hardware_id(hw), hw_reported=None)
        context.unit.devices.put(accepted)
        context.updates.tell(found.id, "hw_accepted", before=found.hw, after=hw, by=context.actor)
        return device_view(context.unit, context.updates.reconcile(accepted))
    heir_id = (
        DeviceId.parse(successor) if successor and "/" in successor else DeviceId(found.id.product, successor or "")
    )
    if heir_id == found.id:
        raise InvalidInput(f"device replace: {heir_id} cannot succeed itself")
    if heir_id.product != found.id.product:
        raise InvalidInput(f"device replace: {heir_id} is not a {found.id.product}")
    heir = context.unit.devices.get(heir_id) or Device(
        id=heir_id, state=DeviceState.ACTIVE, created_wall=context.now.wall
    )
    if heir.state is DeviceState.RETIRED:
        raise Conflict(f"device {heir_id} is retired")
    assigned = {**found.assigned, **heir.assigned}
    heir = replace(
        heir, tags=tuple(sorted({*found.tags, *heir.tags})), assigned=assigned, label=heir.label or found.label
    )
    _retire(context, replace(found, label=""), f"replaced by {heir_id}, said {context.actor}")
    context.unit.devices.put(heir)
    return device_view(context.unit, context.updates.reconcile(heir))


# --- rollouts ------------------------------------------------------------------------------------------------


@_operation("rollout.start", writes=True)
def rollout_start(context: Context, release: str, devices: list[str] | None = None, percent: int | None = None) -> Json:
    """Bring a release to all compatible devices of its product, to a share of them, or to those named."""
    found = _release(context, release)
    if found.state is ReleaseState.WITHDRAWN:
        raise Conflict(f"release {found.id} is withdrawn")
    if devices and percent is not None:
        raise InvalidInput("rollout start: name devices or a percentage, not both")
    if devices is not None and not devices:
        raise InvalidInput("rollout start: the list of devices is empty; leave it out to mean all")
    named = {device.id: device for device in (_device(context.unit, name) for name in devices or [])}
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


def _rollout(context: Context, name: str) -> Rollout:
    found = context.unit.rollouts.get(RolloutId(name))
    if found is None:
        raise NotFound(f"no rollout {name[:40]!r}; see: rollout status")
    return found


@_operation("rollout.list", writes=False)
def rollout_list(context: Context) -> list[Json]:
    """All rollouts with their counts."""
    return [
        rollout_view(rollout, context.unit.deployments.counts(rollout.id)) for rollout in context.unit.rollouts.all()
    ]


@_operation("rollout.status", writes=False)
def rollout_status(context: Context, rollout: str) -> Json:
    """One rollout, its counts and what it sent."""
    found = _rollout(context, rollout)
    view = rollout_view(found, context.unit.deployments.counts(found.id))
    deployments = [deployment_view(deployment) for deployment in _deployments_of(context.unit, found)]
    deployments.sort(key=lambda row: (str(row["device"]), str(row["component"]), row["attempt"]))
    return {**view, "bytes_sent": sum(row["bytes_sent"] for row in deployments), "deployments": deployments}


def _deployments_of(unit: UnitOfWork, rollout: Rollout, *, open_only: bool = False) -> "list[Any]":
    found: list[Any] = []
    after = None
    while page := unit.deployments.of_rollout(rollout.id, open_only=open_only, after=after):
        found.extend(page)
        after = page[-1].id
    return found


@_operation("rollout.percent", writes=True)
def rollout_percent(context: Context, rollout: str, percent: int) -> Json:
    """Widen a rollout to a larger share of the fleet."""
    widened = _rollout(context, rollout).widened(percent, context.now.wall, context.actor)
    return _planned_from_here(context, widened)


@_operation("rollout.pause", writes=True)
def rollout_pause(context: Context, rollout: str) -> Json:
    """Hold a rollout: no offers, no blocks, no installs; nothing is lost."""
    paused = _rollout(context, rollout).becomes(RolloutState.PAUSED, context.now.wall, context.actor)
    return _revise(context, paused)


@_operation("rollout.resume", writes=True)
def rollout_resume(context: Context, rollout: str) -> Json:
    """Go on with a paused rollout."""
    running = _rollout(context, rollout).becomes(RolloutState.RUNNING, context.now.wall, context.actor)
    return _revise(context, running)


def _revise(context: Context, rollout: Rollout) -> Json:
    """Store a paused or resumed rollout; its deployments' times start again, and its grants follow."""
    context.unit.rollouts.put(rollout)
    running = rollout.state is RolloutState.RUNNING
    for deployment in _deployments_of(context.unit, rollout, open_only=True):
        if running and deployment.state in {State.OFFERED, State.DOWNLOADING, State.DOWNLOADED, State.DEFERRED}:
            deployment = replace(deployment, changed_wall=context.now.wall, resent=False)  # noqa: PLW2901
        context.updates.schedule(deployment)
        context.updates.grant(deployment.device)
        device = context.unit.devices.get(deployment.device)
        if running and device is not None and device.proto > 0 and deployment.state in OPEN:
            context.updates.outputs.append(CheckInRequest(device=device.id, encoding=device.encoding))
    context.updates.outputs.append(RolloutChanged(rollout=rollout.id))
    return rollout_view(rollout, context.unit.deployments.counts(rollout.id))


@_operation("rollout.cancel", writes=True)
def rollout_cancel(context: Context, rollout: str) -> Json:
    """End a rollout: what has not begun to install is canceled on the devices, what runs stays."""
    canceled = _rollout(context, rollout).becomes(RolloutState.CANCELED, context.now.wall, context.actor)
    context.unit.rollouts.put(canceled)
    number = _cancel_open(context, canceled, f"rollout canceled by {context.actor}")
    context.updates.outputs.append(RolloutChanged(rollout=canceled.id))
    return {**rollout_view(canceled, context.unit.deployments.counts(canceled.id)), "canceled": number}


def _cancel_open(context: Context, rollout: Rollout, cause: str) -> int:
    canceled = 0
    for deployment in _deployments_of(context.unit, rollout):
        device = context.unit.devices.get(deployment.device)
        if device is None:
            continue
        held = device.assigned.get(deployment.component)
        if deployment.state is not State.CONFIRMED and held is not None and held.rollout == rollout.id:
            device = device.assign(deployment.component, None)
            context.unit.devices.put(device)
        if deployment.is_open and context.updates.cancel(device, deployment, cause):
            canceled += 1
    return canceled


# --- limits --------------------------------------------------------------------------------------------------


@_operation("limits.show", writes=False)
def limits_show(context: Context) -> Json:
    """The fleet-wide caps."""
    return limits_view(context.unit.limits.get())


@_operation("limits.set", writes=True)
def limits_set(
    context: Context, blocks_per_s: int | None = None, bytes_per_s: int | None = None, downloads: int | None = None
) -> Json:
    """Change the caps that are named; 0 lifts one."""
    named = {"blocks_per_s": blocks_per_s, "bytes_per_s": bytes_per_s, "downloads": downloads}
    changes = {name: value for name, value in named.items() if value is not None}
    if not changes:
        raise InvalidInput(f"limits set: name at least one of {', '.join(named)}; 0 lifts it")
    limits = replace(context.unit.limits.get().limits, **changes)
    standing = StandingLimits(limits=limits, set_wall=context.now.wall, set_by=context.actor)
    context.unit.limits.put(standing)
    context.updates.outputs.append(LimitsChanged(limits=limits))
    return limits_view(standing)


# --- the whole -----------------------------------------------------------------------------------------------


@_operation("why", writes=False)
def why(context: Context, device: str) -> Json:
    """One sentence: why this device is where it is."""
    found = explain(context.unit, _device(context.unit, device), context.bridge.rules.retries, context.now)
    return {"device": str(found.device), "code": found.code, "sentence": found.sentence, "facts": found.facts}


@_operation("fleet", writes=False)
def fleet(context: Context, product: str | None = None) -> Json:
    """Everything that `watch` shows."""
    devices: Sequence[Device] = _all_devices(context.unit, product)
    rollouts = [
        rollout_view(rollout, context.unit.deployments.counts(rollout.id))
        for rollout in context.unit.rollouts.all(product=product)
    ]
    return {"devices": [device_view(context.unit, device) for device in devices], "rollouts": rollouts}
