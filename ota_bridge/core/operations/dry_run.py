"""Who would get a release, who would not, and why not (`rollout plan`): the verdicts of the planner, on nobody."""

from typing import Any, Final

from ota_bridge.core import journey
from ota_bridge.core.catalog import Release
from ota_bridge.core.fleet import Device
from ota_bridge.core.known import is_known
from ota_bridge.core.operations.named import all_devices, release_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.operations.rollouts import checked_rollout, shown
from ota_bridge.core.people import Role
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.model import Rollout
from ota_bridge.core.views import Json

SHOWN_MAX: Final = 1000
"""Devices that are named for each reason; all are counted."""


@operation("rollout.plan", writes=False, role=Role.VIEWER)
def rollout_plan(
    context: Context,
    release: str,
    devices: list[str] | None = None,
    percent: int | None = None,
    where: str | None = None,
    plan: dict[str, Any] | None = None,
) -> Json:
    """Who a rollout would bring a release to, who not, and why not; nothing is changed."""
    rollout = checked_rollout(context, release, devices=devices, percent=percent, where=where, plan=plan)
    found = release_named(context, rollout.release)
    reasons: dict[str, list[str]] = {}
    total = 0
    for device in all_devices(context.unit, found.product):
        total += 1
        reasons.setdefault(_verdict(context, device, rollout, found), []).append(str(device.id))
    gets = reasons.pop("gets", [])
    return {
        **shown(rollout),
        "devices": total,
        "gets": {"count": len(gets), "devices": gets[:SHOWN_MAX]},
        "not": {
            code: {"count": len(names), "devices": names[:SHOWN_MAX]}
            for code, names in sorted(reasons.items(), key=lambda entry: -len(entry[1]))
        },
    }


def _verdict(context: Context, device: Device, rollout: Rollout, release: Release) -> str:
    """`gets`, or the code of what keeps the release from a device."""
    if not context.updates.terms.belongs(device, rollout):
        return "not_targeted"
    obstacle = policy.may_take_part(device)
    if obstacle is not None:
        return obstacle.value
    found: list[str] = []
    for component, part in sorted(release.parts.items()):
        known = is_known(context.unit, device.id.product, component, device.parts.get(component))
        hindrance = policy.fits(device, release, part) or policy.is_needed(device, part, is_known=known)
        if hindrance is None:
            hindrance, _ = journey.next_step(context.unit, device, component, release, is_known=known)
        if hindrance is None:
            return "gets"
        found.append(hindrance.value)
    return found[0] if found else "gets"
