"""Old history, made small by hand."""

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.history import Compacted, compact, devices_after
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.values import DeviceId
from ota_bridge.core.views import Json

DEVICES_MAX = 500
"""How many devices one call looks at: reports wait behind it."""
_DAY_S = 86_400.0


@operation("history.compact", writes=True, role=Role.ADMIN)
def history_compact(context: Context, keep_days: int | None = None, after: str | None = None) -> Json:
    """Make small what is older than `history.keep_days`, for the next devices; `next` names where to go on."""
    keep_s = context.bridge.rules.keep_history_s
    if keep_days is not None:
        if keep_days < 1:
            raise InvalidInput(f"history compact: keep_days is {keep_days}; at least 1 is kept")
        keep_s = keep_days * _DAY_S
    if keep_s is None:
        raise InvalidInput("history compact: history.keep_days is 0, which keeps everything; name --keep-days")
    done, last, more = Compacted(), None, False
    for number, device in enumerate(devices_after(context.unit, DeviceId.parse(after) if after else None)):
        if number == DEVICES_MAX:
            more = True
            break
        done += compact(context.unit, device, context.now.wall - keep_s)
        last = device.id
    return {
        "deployments": done.deployments,
        "reports": done.reports,
        "next": str(last) if more else None,
    }
