"""Approvals of rollouts: given and taken back, each by the name of who acts."""

from ota_bridge.core.errors import Conflict, NotFound
from ota_bridge.core.messages import RolloutChanged
from ota_bridge.core.operations.named import rollout_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.operations.rollouts import approved
from ota_bridge.core.people import Role
from ota_bridge.core.people_views import approvals_view
from ota_bridge.core.rollout.approvals import Approval, check_may_approve, digest_of, needed_of, standing
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.views import Json


@operation("rollout.approve", writes=True, role=Role.APPROVER)
def rollout_approve(context: Context, rollout: str, note: str = "") -> Json:
    """Approve a rollout as it is now; any change of what it does makes this void."""
    found = _open(context, rollout)
    before = context.unit.approvals.of_rollout(found.id)
    check_may_approve(found, before, context.actor)
    approval = Approval(rollout=found.id, user=context.actor, digest=digest_of(found), wall=context.now.wall, note=note)
    _, missing_before = standing(before, found.created_by, approval.digest, needed_of(found))
    context.unit.approvals.put(approval)
    after = context.unit.approvals.of_rollout(found.id)
    _, missing = standing(after, found.created_by, approval.digest, needed_of(found))
    if missing_before and not missing and found.state is RolloutState.WAITING:
        approved(context, found)
    context.updates.outputs.append(RolloutChanged(rollout=found.id))
    return {"id": found.id, **approvals_view(found, after)}


@operation("rollout.disapprove", writes=True, role=Role.APPROVER)
def rollout_disapprove(context: Context, rollout: str) -> Json:
    """Take back the approval that one gave; what runs by it goes on."""
    found = _open(context, rollout)
    if all(one.user != context.actor for one in context.unit.approvals.of_rollout(found.id)):
        raise NotFound(f"{context.actor} has not approved rollout {found.id}")
    context.unit.approvals.remove(found.id, context.actor)
    context.updates.outputs.append(RolloutChanged(rollout=found.id))
    return {"id": found.id, **approvals_view(found, context.unit.approvals.of_rollout(found.id))}


@operation("rollout.approvals", writes=False, role=Role.VIEWER)
def rollout_approvals(context: Context, rollout: str) -> Json:
    """Who approved a rollout, whether that still counts, and how many are missing."""
    found = rollout_named(context, rollout)
    return {"id": found.id, **approvals_view(found, context.unit.approvals.of_rollout(found.id))}


def _open(context: Context, name: str) -> Rollout:
    found = rollout_named(context, name)
    if found.state is RolloutState.CANCELED:
        raise Conflict(f"rollout {found.id} is canceled; start a new one")
    return found
