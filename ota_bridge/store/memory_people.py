"""Users, tokens, approvals and the audit log over dictionaries."""

from collections.abc import Sequence

from ota_bridge.core.chain import Entry
from ota_bridge.core.errors import StoreError
from ota_bridge.core.people import Token, TokenId, User
from ota_bridge.core.rollout.approvals import Approval
from ota_bridge.core.values import RolloutId
from ota_bridge.store.memory_state import Table


class MemoryUsers(Table):
    """`Users`."""

    def get(self, name: str) -> User | None:
        return self._state.users.get(name)

    def put(self, user: User) -> None:
        self._state.put(self._state.users, user.name, user)

    def remove(self, name: str) -> None:
        self._state.remove(self._state.users, name)

    def all(self) -> Sequence[User]:
        return sorted(self._state.users.values(), key=lambda one: one.name)


class MemoryTokens(Table):
    """`Tokens`."""

    def get(self, token: TokenId) -> Token | None:
        return self._state.tokens.get(token)

    def put(self, token: Token) -> None:
        self._state.put(self._state.tokens, token.id, token)

    def all(self, *, user: str | None = None) -> Sequence[Token]:
        return [one for one in self._state.tokens.values() if user in (None, one.user)]


class MemoryApprovals(Table):
    """`Approvals`."""

    def put(self, approval: Approval) -> None:
        self._state.need(self._state.rollouts, approval.rollout, "rollout")
        self._state.put(self._state.approvals, (approval.rollout, approval.user), approval)

    def remove(self, rollout: RolloutId, user: str) -> None:
        self._state.remove(self._state.approvals, (rollout, user))

    def of_rollout(self, rollout: RolloutId) -> Sequence[Approval]:
        return [one for one in self._state.approvals.values() if one.rollout == rollout]


class MemoryAudit(Table):
    """`AuditLog`."""

    def last(self) -> Entry | None:
        return self._state.audit.get(len(self._state.audit))

    def append(self, entry: Entry) -> None:
        if entry.n != len(self._state.audit) + 1:
            raise StoreError(f"the audit log is append-only: entry {len(self._state.audit) + 1} is next, not {entry.n}")
        self._state.put(self._state.audit, entry.n, entry)

    def page(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since_ms: int | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Sequence[Entry]:
        return [one for one in self._that_fit(actor, subject, since_ms) if one.n > after][:limit]

    def latest(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since_ms: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Entry]:
        return self._that_fit(actor, subject, since_ms)[::-1][:limit][::-1]

    def _that_fit(self, actor: str | None, subject: str | None, since_ms: int | None) -> list[Entry]:
        return [
            one
            for one in self._state.audit.values()
            if actor in (None, one.actor)
            and subject in (None, one.subject)
            and (since_ms is None or one.wall_ms >= since_ms)
        ]
