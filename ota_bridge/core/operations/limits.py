"""The fleet-wide caps: shown and set."""

from dataclasses import replace

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.messages import LimitsChanged
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.values import StandingLimits
from ota_bridge.core.views import Json, limits_view


@operation("limits.show", writes=False, role=Role.VIEWER)
def limits_show(context: Context) -> Json:
    """The fleet-wide caps."""
    return limits_view(context.unit.limits.get())


@operation("limits.set", writes=True, role=Role.OPERATOR)
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
