"""The whole at a glance: why a device is where it is, and everything that `watch` shows."""

from collections.abc import Sequence

from ota_bridge.core.explain import why as explain
from ota_bridge.core.explain_rollout import why_rollout
from ota_bridge.core.fleet import Device
from ota_bridge.core.operations.named import all_devices, device_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.values import RolloutId
from ota_bridge.core.views import Json, device_view, rollout_view


@operation("why", writes=False, role=Role.VIEWER)
def why(context: Context, device: str) -> Json:
    """One sentence: why this device, or rollout, is where it is."""
    rollout = context.unit.rollouts.get(RolloutId(device))
    if rollout is not None:
        reason = why_rollout(context.updates.terms, rollout)
        return {"rollout": rollout.id, "code": reason.code, "sentence": reason.sentence, "facts": reason.facts}
    found = explain(context.updates.terms, device_named(context.unit, device))
    return {"device": str(found.device), "code": found.code, "sentence": found.sentence, "facts": found.facts}


@operation("fleet", writes=False, role=Role.VIEWER)
def fleet(context: Context, product: str | None = None) -> Json:
    """Everything that `watch` shows."""
    devices: Sequence[Device] = all_devices(context.unit, product)
    rollouts = [
        rollout_view(rollout, context.unit.deployments.tallies(rollout.id))
        for rollout in context.unit.rollouts.all(product=product)
    ]
    return {"devices": [device_view(context.unit, device) for device in devices], "rollouts": rollouts}
