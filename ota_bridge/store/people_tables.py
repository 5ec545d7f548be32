"""Users, tokens, approvals and the audit log over SQLite; as `tables`, on whose connection they work."""

from collections.abc import Sequence
from typing import Any, Final

from sqlite_utils import Database

from ota_bridge.core.chain import Entry
from ota_bridge.core.people import Token, TokenId, User
from ota_bridge.core.rollout.approvals import Approval
from ota_bridge.core.values import RolloutId
from ota_bridge.store import people_rows as rows
from ota_bridge.store.statements import insert, select, upsert, where


class UserTable:
    """`Users`."""

    _PUT: Final = upsert("users", rows.USER_COLUMNS, ("name",))
    _SELECT: Final = select("users", rows.USER_COLUMNS)
    _GET: Final = _SELECT + "WHERE name = ?"
    _ALL: Final = _SELECT + "ORDER BY name"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def get(self, name: str) -> User | None:
        row = self._execute(self._GET, (name,)).fetchone()
        return None if row is None else rows.user_from(row)

    def put(self, user: User) -> None:
        self._execute(self._PUT, rows.user_row(user))

    def remove(self, name: str) -> None:
        self._execute("DELETE FROM users WHERE name = ?", (name,))

    def all(self) -> Sequence[User]:
        return [rows.user_from(row) for row in self._execute(self._ALL)]


class TokenTable:
    """`Tokens`."""

    _PUT: Final = upsert("tokens", rows.TOKEN_COLUMNS, ("id",))
    _SELECT: Final = select("tokens", rows.TOKEN_COLUMNS)
    _GET: Final = _SELECT + "WHERE id = ?"
    _ALL: Final = _SELECT + "WHERE ?1 IS NULL OR user = ?1 ORDER BY rowid"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def get(self, token: TokenId) -> Token | None:
        row = self._execute(self._GET, (token,)).fetchone()
        return None if row is None else rows.token_from(row)

    def put(self, token: Token) -> None:
        self._execute(self._PUT, rows.token_row(token))

    def all(self, *, user: str | None = None) -> Sequence[Token]:
        return [rows.token_from(row) for row in self._execute(self._ALL, (user,))]


class ApprovalTable:
    """`Approvals`."""

    _PUT: Final = upsert("approvals", rows.APPROVAL_COLUMNS, ("rollout", "user"))
    _OF_ROLLOUT: Final = select("approvals", rows.APPROVAL_COLUMNS) + "WHERE rollout = ? ORDER BY rowid"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def put(self, approval: Approval) -> None:
        self._execute(self._PUT, rows.approval_row(approval))

    def remove(self, rollout: RolloutId, user: str) -> None:
        self._execute("DELETE FROM approvals WHERE rollout = ? AND user = ?", (rollout, user))

    def of_rollout(self, rollout: RolloutId) -> Sequence[Approval]:
        return [rows.approval_from(row) for row in self._execute(self._OF_ROLLOUT, (rollout,))]


class AuditTable:
    """`AuditLog`. Triggers of the table refuse whatever is not an append."""

    _APPEND: Final = insert("audit", rows.ENTRY_COLUMNS)
    _SELECT: Final = select("audit", rows.ENTRY_COLUMNS)
    _LAST: Final = _SELECT + "ORDER BY n DESC LIMIT 1"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def last(self) -> Entry | None:
        row = self._execute(self._LAST).fetchone()
        return None if row is None else rows.entry_from(row)

    def append(self, entry: Entry) -> None:
        self._execute(self._APPEND, rows.entry_row(entry))

    def page(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since_ms: int | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Sequence[Entry]:
        conditions, values = _that_fit(actor, subject, since_ms)
        sql = self._SELECT + where([*conditions, "n > ?"]) + "ORDER BY n LIMIT ?"
        return [rows.entry_from(row) for row in self._execute(sql, (*values, after, limit))]

    def latest(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since_ms: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Entry]:
        conditions, values = _that_fit(actor, subject, since_ms)
        sql = self._SELECT + where(conditions) + "ORDER BY n DESC LIMIT ?"
        return [rows.entry_from(row) for row in self._execute(sql, (*values, limit))][::-1]


def _that_fit(actor: str | None, subject: str | None, since_ms: int | None) -> tuple[list[str], list[Any]]:
    asked = (("actor = ?", actor), ("subject = ?", subject), ("wall_ms >= ?", since_ms))
    return [text for text, value in asked if value is not None], [value for _, value in asked if value is not None]
