"""Who may act: users with roles, tokens that stand for a user, and what the edge knows of a caller.

Each operation needs one role. Roles do not contain each other, so that who starts a rollout is not by that alone who
approves it; but whoever has any may look.

A token is `ota_`, the 8 hex digits that name it, `_` and 32 random bytes in base64url. Of the bytes only the SHA-256 is
kept: nobody can try 2**256 of them, so a slow hash would protect nothing and cost time on every request.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NewType

from ota_bridge.core.errors import Conflict, InvalidInput

TokenId = NewType("TokenId", str)
"""8 random lower-case hex digits; not secret."""

SECRET_BYTES: Final = 32
NOTE_MAX: Final = 200

_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_TOKEN: Final = re.compile(r"ota_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")


class Role(StrEnum):
    """What a user may do. Kept by value."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUTHOR = "author"
    ADMIN = "admin"


ALL_ROLES: Final = frozenset(Role)


def roles_of(names: list[str]) -> frozenset[Role]:
    """The roles of these names; raises InvalidInput."""
    found: set[Role] = set()
    for name in names:
        try:
            found.add(Role(name))
        except ValueError:
            raise InvalidInput(f"role {name[:40]!r}: one of {', '.join(Role)}") from None
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who was given roles, under the name that the system (or a token) knows."""

    name: str
    roles: frozenset[Role]
    created_wall: float
    created_by: str

    def __post_init__(self) -> None:
        if not _USER.fullmatch(self.name):
            raise InvalidInput(f"user {self.name[:80]!r} is not valid: allowed is {_USER.pattern}")
        if not self.roles:
            raise InvalidInput(f"user {self.name}: name at least one role of {', '.join(Role)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What stands for a user where the kernel cannot say who it is. `digest` is the SHA-256 of its secret."""

    id: TokenId
    name: str
    user: str
    digest: bytes = field(repr=False)
    created_wall: float
    created_by: str
    expires_wall: float
    revoked_wall: float | None = None

    def __post_init__(self) -> None:
        if not _TOKEN_NAME.fullmatch(self.name):
            raise InvalidInput(f"token {self.name[:40]!r} is not valid: allowed is {_TOKEN_NAME.pattern}")

    def is_live(self, wall: float) -> bool:
        """True while it can be used."""
        return self.revoked_wall is None and wall < self.expires_wall

    def revoked(self, wall: float) -> "Token":
        """This token, never to be used again; raises Conflict if it is that already."""
        if self.revoked_wall is not None:
            raise Conflict(f"token {self.name} ({self.id}) is already revoked")
        return replace(self, revoked_wall=wall)

    def is_opened_by(self, digest: bytes) -> bool:
        """True if this is the digest of its secret; how long that takes tells nothing of where they differ."""
        return hmac.compare_digest(self.digest, digest)


def token_text(token: TokenId, secret: bytes) -> str:
    """What is shown once to whoever made the token."""
    return f"ota_{token}_{urlsafe_b64encode(secret).decode('ascii').rstrip('=')}"


def parse_token(text: str) -> tuple[TokenId, bytes] | None:
    """The name of a token and the digest of the secret in it; None: this is no token."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else (TokenId(found[1]), secret_digest(found[2]))


def secret_digest(secret: str) -> bytes:
    """What is kept of a token: of its secret as it is written."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def without_tokens(text: str) -> str:
    """`text` with the secret of every token in it taken out."""
    return _TOKEN.sub(r"ota_\1_...", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as the edge knows it: the user at the other end of the socket, and the token that was shown, if any."""

    user: str
    is_owner: bool = False
    """It runs as root or as the daemon's own user: who holds those holds the database."""
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, how that is known (`peer`, `token NAME`), and what he may do."""

    name: str
    how: str
    roles: frozenset[Role]

    def may(self, role: Role) -> bool:
        """True if he has the role. Whoever has any may look."""
        return role in self.roles or (role is Role.VIEWER and bool(self.roles))
