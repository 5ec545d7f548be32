"""Devices: registered, described, taken out, replaced."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.operations.named import all_devices, device_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.queries import checked_query
from ota_bridge.core.rollout.facts import facts_of
from ota_bridge.core.values import DeviceId, checked_attribute, checked_attributes, checked_hardware_id, checked_tag
from ota_bridge.core.views import Json, deployment_view, device_view, report_view, transition_view

LABEL_MAX: Final = 64
IMPORT_MAX: Final = 100_000


@operation("device.list", writes=False, role=Role.VIEWER)
def device_list(
    context: Context,
    product: str | None = None,
    state: str | None = None,
    tag: str | None = None,
    where: str | None = None,
) -> list[Json]:
    """All devices, or those that a query is true of, with their open deployments."""
    wanted = None
    if state is not None:
        try:
            wanted = DeviceState(state)
        except ValueError as error:
            raise InvalidInput(f"state {state[:40]!r}: one of {', '.join(DeviceState)}") from error
    found = all_devices(context.unit, product, wanted, tag)
    if where is not None:
        wall = context.now.wall
        query = checked_query(context.bridge.queries, where, found, wall)
        found = [device for device in found if query(facts_of(device, wall))]
    return [device_view(context.unit, device) for device in found]


@operation("device.show", writes=False, role=Role.VIEWER)
def device_show(context: Context, device: str) -> Json:
    """One device with its history."""
    found = device_named(context.unit, device)
    history = [
        transition_view(step)
        for deployment in reversed(context.unit.deployments.recent_of(found.id))
        for step in context.unit.deployments.history(deployment.id)
    ]
    reports = [report_view(report) for report in context.unit.reports.recent(found.id)]
    deployments = [deployment_view(deployment) for deployment in context.unit.deployments.recent_of(found.id)]
    return {**device_view(context.unit, found), "deployments": deployments, "history": history, "reports": reports}


@operation("device.add", writes=True, role=Role.OPERATOR)
def device_add(context: Context, device: str, hw: str | None = None, tags: list[str] | None = None) -> Json:
    """Register a device before it appears."""
    return _add(context, {"device": device, "hw": hw, "tags": tags or []})


@operation("device.import", writes=True, role=Role.OPERATOR)
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
    attrs = row.get("attrs") or {}
    if not isinstance(attrs, dict):
        raise InvalidInput(f"attrs of {device_id}: must be a map")
    hw = row.get("hw") or None
    device = Device(
        id=device_id,
        state=DeviceState.ACTIVE,
        created_wall=context.now.wall,
        hw=checked_hardware_id(str(hw)) if hw else None,
        label=_free_label(context.unit, str(row.get("label") or ""), device_id),
        tags=tuple(sorted({checked_tag(str(tag)) for tag in tags})),
        attrs=_attributes(context, attrs),
    )
    context.unit.devices.put(device)
    return device_view(context.unit, device)


def _attributes(context: Context, attrs: Mapping[str, Any]) -> dict[str, str | int]:
    """`attrs` if a device may have them: `tz` is the zone in which windows open for it."""
    checked = checked_attributes(attrs)
    if "tz" in checked and not context.bridge.calendar.knows(str(checked["tz"])):
        raise InvalidInput(f"attribute tz: {checked['tz']!r} is no time zone; write it as Europe/Berlin")
    return checked


def _free_label(unit: UnitOfWork, text: str, device: DeviceId) -> str:
    """`text` if it may be a label and nobody else is called so."""
    if len(text) > LABEL_MAX or not text.isprintable():
        raise InvalidInput(f"label {text[:40]!r}: at most {LABEL_MAX} printable characters")
    others = [other.id for other in unit.devices.named(text) if other.id != device] if text else []
    if others:
        raise Conflict(f"label {text!r} is taken by {others[0]}")
    return text


@operation("device.approve", writes=True, role=Role.OPERATOR)
def device_approve(context: Context, device: str) -> Json:
    """Let a device take part that waits for it (`enrol = approve`)."""
    found = device_named(context.unit, device).approved()
    context.unit.devices.put(found)
    context.updates.tell(found.id, "approved", by=context.actor)
    return device_view(context.unit, context.updates.reconcile(found))


@operation("device.tag", writes=True, role=Role.OPERATOR)
def device_tag(context: Context, device: str, add: list[str] | None = None, remove: list[str] | None = None) -> Json:
    """Add and remove tags."""
    found = device_named(context.unit, device)
    tags = (set(found.tags) | {checked_tag(tag) for tag in add or []}) - set(remove or [])
    found = replace(found, tags=tuple(sorted(tags)))
    context.unit.devices.put(found)
    return device_view(context.unit, found)


@operation("device.set", writes=True, role=Role.OPERATOR)
def device_set(context: Context, device: str, attrs: dict[str, Any]) -> Json:
    """Attach attributes, text or whole numbers by name; null takes one away."""
    found = device_named(context.unit, device)
    for name, value in attrs.items():
        if value is None and checked_attribute(name) not in found.attrs:
            raise NotFound(f"device {found.id} has no attribute {name}")
    wanted = {name: value for name, value in {**found.attrs, **attrs}.items() if value is not None}
    found = replace(found, attrs=_attributes(context, wanted))
    context.unit.devices.put(found)
    return device_view(context.unit, found)


@operation("device.rename", writes=True, role=Role.OPERATOR)
def device_rename(context: Context, device: str, label: str) -> Json:
    """Give a device a name for people; on the wire it keeps its own."""
    found = device_named(context.unit, device)
    found = replace(found, label=_free_label(context.unit, label, found.id))
    context.unit.devices.put(found)
    return device_view(context.unit, found)


@operation("device.retire", writes=True, role=Role.OPERATOR)
def device_retire(context: Context, device: str) -> Json:
    """Take a device out of everything; its open deployments are canceled."""
    found = device_named(context.unit, device)
    return device_view(context.unit, _retire(context, found, f"retired by {context.actor}"))


def _retire(context: Context, device: Device, cause: str) -> Device:
    for deployment in context.unit.deployments.open_of(device.id):
        context.updates.cancel(device, deployment, cause)
    retired = device.retired()
    context.unit.devices.put(retired)
    context.updates.tell(device.id, "retired", by=context.actor, cause=cause)
    return retired


@operation("device.replace", writes=True, role=Role.OPERATOR)
def device_replace(context: Context, device: str, hw: str | None = None, successor: str | None = None) -> Json:
    """A board was swapped: accept its new hardware id, or hand everything to a successor and retire it."""
    found = device_named(context.unit, device)
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
        heir,
        tags=tuple(sorted({*found.tags, *heir.tags})),
        attrs=checked_attributes({**found.attrs, **heir.attrs}),
        assigned=assigned,
        label=heir.label or found.label,
    )
    _retire(context, replace(found, label=""), f"replaced by {heir_id}, said {context.actor}")
    context.unit.devices.put(heir)
    return device_view(context.unit, context.updates.reconcile(heir))
