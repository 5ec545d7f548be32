"""How users, tokens, approvals and the audit log look to operators; as `views`."""

import json
from collections.abc import Sequence

from ota_bridge.core.chain import Entry
from ota_bridge.core.people import Role, Token, User
from ota_bridge.core.rollout.approvals import Approval, digest_of, needed_of, standing
from ota_bridge.core.rollout.model import Rollout
from ota_bridge.core.views import Json, iso


def user_view(user: User) -> Json:
    """Somebody who was given roles."""
    return {
        "name": user.name,
        "roles": [role.value for role in Role if role in user.roles],
        "created": iso(user.created_wall),
        "created_by": user.created_by,
    }


def token_view(token: Token, wall: float) -> Json:
    """A token without its secret."""
    state = "live" if token.is_live(wall) else "expired" if token.revoked_wall is None else "revoked"
    return {
        "id": token.id,
        "name": token.name,
        "user": token.user,
        "state": state,
        "created": iso(token.created_wall),
        "created_by": token.created_by,
        "expires": iso(token.expires_wall),
        "revoked": iso(token.revoked_wall),
    }


def approvals_view(rollout: Rollout, approvals: Sequence[Approval]) -> Json:
    """Who approved a rollout; `void`: it was changed since, or that was its creator."""
    needed, digest = needed_of(rollout), digest_of(rollout)
    given, missing = standing(approvals, rollout.created_by, digest, needed)
    return {
        "needed": needed,
        "missing": missing,
        "approvals": [
            {"user": one.user, "at": iso(one.wall), "note": one.note, "void": one not in given} for one in approvals
        ],
    }


def entry_view(entry: Entry) -> Json:
    """One entry of the audit log."""
    return {
        "n": entry.n,
        "at": iso(entry.wall_ms / 1000),
        "actor": entry.actor,
        "how": entry.how,
        "action": entry.action,
        "subject": entry.subject,
        "result": entry.result,
        "detail": json.loads(entry.detail),
        "digest": entry.digest.hex(),
    }
