"""Who a caller is, and whether he may.

1. A token that is shown counts alone: one that cannot be used is a refusal, never a step back to who shows it.
2. Root and the daemon's own user have every role, always: they hold the database anyway, and so nobody can lock
   everybody out.
3. While no user is registered, everybody who can open the socket may do everything but say who may do what.
4. From the first registered user on roles count, and who is not registered has none.
"""

from datetime import UTC, datetime

from ota_bridge.core.errors import Forbidden
from ota_bridge.core.people import ALL_ROLES, Actor, Caller, Role, Token, parse_token
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.values import Now

PEER = "peer"
_AGAIN = "an admin makes another: ota-bridge token new"


def identified(unit: UnitOfWork, caller: Caller, now: Now) -> Actor:
    """Who acts; raises Forbidden where a token cannot be used."""
    if caller.token is not None:
        return _behind(unit, caller.token, now)
    if caller.is_owner:
        return Actor(name=caller.user, how=PEER, roles=ALL_ROLES)
    found = unit.users.get(caller.user)
    if found is not None:
        return Actor(name=found.name, how=PEER, roles=found.roles)
    roles = frozenset[Role]() if unit.users.all() else ALL_ROLES - {Role.ADMIN}
    return Actor(name=caller.user, how=PEER, roles=roles)


def _behind(unit: UnitOfWork, text: str, now: Now) -> Actor:
    parsed = parse_token(text)
    if parsed is None:
        raise Forbidden("the token is not one: it begins with ota_ and has 56 characters")
    found = unit.tokens.get(parsed[0])
    if found is None or not found.is_opened_by(parsed[1]):
        raise Forbidden(f"the token is not one of this daemon's; {_AGAIN}")
    _check_live(found, now)
    user = unit.users.get(found.user)
    if user is None:
        raise Forbidden(f"token {found.name} is of {found.user}, who is no user any more")
    return Actor(name=user.name, how=f"token {found.name}", roles=user.roles)


def _check_live(token: Token, now: Now) -> None:
    if token.revoked_wall is not None:
        raise Forbidden(f"token {token.name} of {token.user} was revoked; {_AGAIN}")
    if not token.is_live(now.wall):
        when = datetime.fromtimestamp(token.expires_wall, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise Forbidden(f"token {token.name} of {token.user} expired at {when}; {_AGAIN}")


def admitted(unit: UnitOfWork, caller: Caller, role: Role, what: str, now: Now) -> Actor:
    """Who acts, if he has the role that `what` needs; raises Forbidden that says which is missing and who gives it."""
    actor = identified(unit, caller, now)
    if actor.may(role):
        return actor
    users = unit.users.all()
    if not users:
        raise Forbidden(
            f"{what} needs the role {role}: while no user is registered only root and the daemon's own user have it"
        )
    held = ", ".join(sorted(actor.roles)) or "no role"
    admins = ", ".join(user.name for user in users if Role.ADMIN in user.roles)
    giver = f"{admins}, root or the daemon's own user" if admins else "root or the daemon's own user"
    verb = f"user roles {actor.name} --add" if actor.roles else f"user add {actor.name} --role"
    raise Forbidden(
        f"{what} needs the role {role}, and {actor.name} has {held}; {giver} can give it: ota-bridge {verb} {role}"
    )


def claimed(unit: UnitOfWork, caller: Caller, now: Now) -> Actor:
    """Who acts as far as it can be told: for the record of what was refused."""
    try:
        return identified(unit, caller, now)
    except Forbidden:
        return Actor(name=caller.user, how=f"{PEER}, with a token that was refused", roles=frozenset())
