"""The audit log: shown, and verified as a chain."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from ota_bridge.core.chain import Entry, Head, verify
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.operations.named import device_named, rollout_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.people_views import entry_view
from ota_bridge.core.ports import AuditLog
from ota_bridge.core.views import Json

LIST_MAX: Final = 10_000


@operation("audit.list", writes=False, role=Role.VIEWER)
def audit_list(
    context: Context,
    device: str | None = None,
    rollout: str | None = None,
    actor: str | None = None,
    since: str | None = None,
    limit: int = 1000,
) -> list[Json]:
    """Who did what, oldest first; the last `limit` of those that fit."""
    if device is not None and rollout is not None:
        raise InvalidInput("audit list: name a device or a rollout, not both")
    if not 1 <= limit <= LIST_MAX:
        raise InvalidInput(f"limit {limit}: allowed is 1..{LIST_MAX}")
    subject = None
    if device is not None:
        subject = f"device {device_named(context.unit, device).id}"
    elif rollout is not None:
        subject = f"rollout {rollout_named(context, rollout).id}"
    since_ms = None if since is None else _milliseconds(since)
    found = context.unit.audit.latest(actor=actor, subject=subject, since_ms=since_ms, limit=limit)
    return [entry_view(entry) for entry in found]


def _milliseconds(text: str) -> int:
    """An ISO 8601 time, in UTC where it names no zone, in milliseconds since 1970."""
    try:
        read = datetime.fromisoformat(text)
        aware = read if read.tzinfo is not None else read.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    except ValueError:
        raise InvalidInput(f"since {text[:40]!r}: write a time as 2026-01-31 or 2026-01-31T12:00:00Z") from None


@operation("audit.verify", writes=False, role=Role.VIEWER)
def audit_verify(context: Context, head: str | None = None) -> Json:
    """Whether the whole log is what was written; with a head that was kept elsewhere, also whether its end is there."""
    verdict = verify(_entries(context.unit.audit), None if head is None else Head.parse(head))
    return {
        "holds": verdict.wrong is None,
        "entries": verdict.head.n,
        "head": str(verdict.head),
        "wrong": verdict.wrong,
        "reason": verdict.reason,
    }


def _entries(log: AuditLog) -> Iterator[Entry]:
    after = 0
    while page := log.page(after=after):
        yield from page
        after = page[-1].n
