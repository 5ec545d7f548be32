"""Users, their roles, and the tokens that stand for them."""

from dataclasses import replace
from typing import Final

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role, Token, TokenId, User, parse_token, roles_of, token_text
from ota_bridge.core.people_views import token_view, user_view
from ota_bridge.core.views import Json

DAY_S: Final = 86_400
DAYS: Final = 90
DAYS_MAX: Final = 366


@operation("user.list", writes=False, role=Role.VIEWER)
def user_list(context: Context) -> list[Json]:
    """All users with their roles."""
    return [user_view(user) for user in context.unit.users.all()]


@operation("user.add", writes=True, role=Role.ADMIN)
def user_add(context: Context, user: str, roles: list[str]) -> Json:
    """Give somebody roles; with the first user, roles begin to count."""
    if context.unit.users.get(user) is not None:
        raise Conflict(f"user {user} is registered already; to change it: user roles")
    added = User(name=user, roles=roles_of(roles), created_wall=context.now.wall, created_by=context.actor)
    context.unit.users.put(added)
    return user_view(added)


@operation("user.roles", writes=True, role=Role.ADMIN)
def user_roles(context: Context, user: str, add: list[str] | None = None, remove: list[str] | None = None) -> Json:
    """Give and take roles; tokens of the user follow at once."""
    found = _user(context, user)
    roles = (found.roles | roles_of(add or [])) - roles_of(remove or [])
    if not roles:
        raise InvalidInput(f"user roles: nothing would be left to {user}; to take everything away: user remove")
    changed = replace(found, roles=roles)
    context.unit.users.put(changed)
    return user_view(changed)


@operation("user.remove", writes=True, role=Role.ADMIN)
def user_remove(context: Context, user: str) -> Json:
    """Take everything away from somebody, and revoke his tokens; with the last user, roles no longer count."""
    found = _user(context, user)
    live = [token for token in context.unit.tokens.all(user=user) if token.revoked_wall is None]
    for token in live:
        context.unit.tokens.put(token.revoked(context.now.wall))
    context.unit.users.remove(user)
    return {**user_view(found), "revoked": len(live), "users": len(context.unit.users.all())}


def _user(context: Context, name: str) -> User:
    found = context.unit.users.get(name)
    if found is None:
        raise NotFound(f"no user {name[:80]!r}; see: user list")
    return found


@operation("token.list", writes=False, role=Role.VIEWER)
def token_list(context: Context, user: str | None = None) -> list[Json]:
    """All tokens, or those of a user; never their secrets."""
    return [token_view(token, context.now.wall) for token in context.unit.tokens.all(user=user)]


@operation("token.new", writes=True, role=Role.ADMIN)
def token_new(context: Context, user: str, name: str, days: int = DAYS) -> Json:
    """Make a token that stands for a user. It is in this answer and nowhere else."""
    owner = _user(context, user)
    if not 1 <= days <= DAYS_MAX:
        raise InvalidInput(f"days {days}: allowed is 1..{DAYS_MAX}")
    if any(token.name == name and token.is_live(context.now.wall) for token in context.unit.tokens.all(user=user)):
        raise Conflict(f"{user} has a token called {name} already; choose another name, or revoke that one first")
    parsed = parse_token(text := token_text(context.unit.new_token_id(), context.unit.new_secret()))
    assert parsed is not None
    made = Token(
        id=parsed[0],
        name=name,
        user=owner.name,
        digest=parsed[1],
        created_wall=context.now.wall,
        created_by=context.actor,
        expires_wall=context.now.wall + days * DAY_S,
    )
    context.unit.tokens.put(made)
    return {**token_view(made, context.now.wall), "token": text}


@operation("token.revoke", writes=True, role=Role.ADMIN)
def token_revoke(context: Context, token: str) -> Json:
    """End a token, by its name or its id, from the next request on."""
    found = context.unit.tokens.get(TokenId(token)) or _token_named(context, token)
    revoked = found.revoked(context.now.wall)
    context.unit.tokens.put(revoked)
    return token_view(revoked, context.now.wall)


def _token_named(context: Context, name: str) -> Token:
    named = [one for one in context.unit.tokens.all() if one.name == name]
    live = [one for one in named if one.is_live(context.now.wall)]
    if len(live) > 1:
        listed = ", ".join(f"{one.id} of {one.user}" for one in live)
        raise InvalidInput(f"token {name!r} is ambiguous: {listed}; name the id")
    if not named:
        raise NotFound(f"no token {name[:40]!r}; see: token list")
    return live[0] if live else named[-1]
