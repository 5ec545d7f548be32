"""Users, tokens, approvals and the audit log to rows of `schema` and back.

Each `..._COLUMNS` names the columns in the order in which `..._row` gives and `..._from` takes the values.
"""

from typing import Final

from ota_bridge.core.chain import Entry
from ota_bridge.core.people import Role, Token, TokenId, User
from ota_bridge.core.rollout.approvals import Approval
from ota_bridge.core.values import RolloutId
from ota_bridge.store.rows import Row, decode, encode

USER_COLUMNS: Final = ("name", "roles", "created_wall", "created_by")
TOKEN_COLUMNS: Final = (
    *("id", "name", "user", "digest", "created_wall", "created_by", "expires_wall", "revoked_wall"),
)
APPROVAL_COLUMNS: Final = ("rollout", "user", "digest", "wall", "note")
ENTRY_COLUMNS: Final = ("n", "wall_ms", "actor", "how", "action", "subject", "result", "detail", "digest")


def user_row(user: User) -> Row:
    """The row in `users`."""
    return (user.name, encode(sorted(user.roles)), user.created_wall, user.created_by)


def user_from(row: Row) -> User:
    """The reverse of `user_row`."""
    roles = frozenset(Role(name) for name in decode(row[1]))
    return User(name=row[0], roles=roles, created_wall=row[2], created_by=row[3])


def token_row(token: Token) -> Row:
    """The row in `tokens`."""
    return (
        *(token.id, token.name, token.user, token.digest, token.created_wall, token.created_by),
        *(token.expires_wall, token.revoked_wall),
    )


def token_from(row: Row) -> Token:
    """The reverse of `token_row`."""
    return Token(
        id=TokenId(row[0]),
        name=row[1],
        user=row[2],
        digest=bytes(row[3]),
        created_wall=row[4],
        created_by=row[5],
        expires_wall=row[6],
        revoked_wall=row[7],
    )


def approval_row(one: Approval) -> Row:
    """The row in `approvals`."""
    return (one.rollout, one.user, one.digest, one.wall, one.note)


def approval_from(row: Row) -> Approval:
    """The reverse of `approval_row`."""
    return Approval(rollout=RolloutId(row[0]), user=row[1], digest=bytes(row[2]), wall=row[3], note=row[4])


def entry_row(one: Entry) -> Row:
    """The row in `audit`."""
    return (
        *(one.n, one.wall_ms, one.actor, one.how, one.action, one.subject, one.result, one.detail),
        one.digest,
    )


def entry_from(row: Row) -> Entry:
    """The reverse of `entry_row`."""
    return Entry(
        n=row[0],
        wall_ms=row[1],
        actor=row[2],
        how=row[3],
        action=row[4],
        subject=row[5],
        result=row[6],
        detail=row[7],
        digest=bytes(row[8]),
    )
