"""Approvals of a rollout: by people other than its creator, each once, of exactly what the rollout does now.

An approval holds the digest of what was approved. Whoever changes that makes every approval before it void, without
touching one: `standing` does not count what was given for something else.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.rollout.model import Rollout
from ota_bridge.core.rollout.plan_json import plan_json
from ota_bridge.core.values import RolloutId

NOTE_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody's word for a rollout as it was then."""

    rollout: RolloutId
    user: str
    digest: bytes
    wall: float
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.note) > NOTE_MAX or not self.note.isprintable():
            raise InvalidInput(f"note {self.note[:40]!r}: at most {NOTE_MAX} printable characters")


def digest_of(rollout: Rollout) -> bytes:
    """Names what a rollout does: which release, to whom, by which plan. Not its state, nor who changed it."""
    target = rollout.target
    devices = [str(device) for device in target.devices]
    values = (rollout.id, rollout.release, target.percent, devices, target.where, plan_json(rollout.plan))
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()


def needed_of(rollout: Rollout) -> int:
    """How many approvals a rollout needs before it starts."""
    return rollout.plan.approvals


def standing(
    approvals: Iterable[Approval], creator: str, digest: bytes, needed: int
) -> tuple[tuple[Approval, ...], int]:
    """The approvals that count, and how many are missing: of this digest, not by the creator, each person once."""
    given = {one.user: one for one in approvals if one.digest == digest and one.user != creator}
    return tuple(given.values()), max(0, needed - len(given))


def check_may_approve(rollout: Rollout, approvals: Iterable[Approval], user: str) -> None:
    """Raises Conflict where `user` cannot approve the rollout as it is."""
    if user == rollout.created_by:
        raise Conflict(f"rollout {rollout.id} was created by {user}: somebody else has to approve it")
    given, _ = standing(approvals, rollout.created_by, digest_of(rollout), 0)
    if any(one.user == user for one in given):
        raise Conflict(f"{user} has approved rollout {rollout.id} already; somebody else has to, too")
