"""Who a caller is: the peer or the user of a token, and what holds before and after there are users."""

import pytest
from core_world import World

from ota_bridge.core.admission import admitted, claimed, identified
from ota_bridge.core.errors import Forbidden
from ota_bridge.core.people import ALL_ROLES, Caller, Role

OWNER = Caller(user="root", is_owner=True)
ANN = Caller(user="ann")


@pytest.fixture
def world():
    made = World()
    made.caller = OWNER
    return made


def who(world, caller):
    return world.read(lambda unit: identified(unit, caller, world.now))


def refused(world, caller, role=Role.VIEWER):
    with pytest.raises(Forbidden) as caught:
        world.read(lambda unit: admitted(unit, caller, role, "device.tag", world.now))
    return str(caught.value)


def token(world, *, user="ann", roles=("operator",), name="ci", **more):
    if user not in [one["name"] for one in world.do("user.list")]:
        world.do("user.add", user=user, roles=list(roles))
    return world.do("token.new", user=user, name=name, **more)["token"]


def test_while_no_user_is_registered_all_may_everything_but_say_who_may_what(world):
    assert ALL_ROLES == who(world, OWNER).roles
    assert ALL_ROLES - {Role.ADMIN} == who(world, ANN).roles
    said = refused(world, ANN, Role.ADMIN)
    assert "device.tag needs the role admin: while no user is registered only root and the daemon's own user" in said


def test_with_the_first_user_roles_count_and_the_owner_stays(world):
    world.do("user.add", user="ann", roles=["operator"])
    assert ALL_ROLES == who(world, OWNER).roles
    assert frozenset({Role.OPERATOR}) == who(world, ANN).roles
    assert frozenset() == who(world, Caller(user="bob")).roles
    world.do("user.remove", user="ann")
    assert ALL_ROLES - {Role.ADMIN} == who(world, Caller(user="bob")).roles


def test_a_registration_under_the_owners_name_takes_nothing_from_it(world):
    world.do("user.add", user="root", roles=["viewer"])
    assert ALL_ROLES == who(world, OWNER).roles
    assert frozenset({Role.VIEWER}) == who(world, Caller(user="root", token=token(world, user="root"))).roles


def test_a_refusal_says_what_is_missing_and_who_gives_it(world):
    world.do("user.add", user="ann", roles=["viewer", "author"])
    says = "device.tag needs the role operator, and ann has author, viewer; root or the daemon's own user can give it: "
    assert says + "ota-bridge user roles ann --add operator" == refused(world, ANN, Role.OPERATOR)
    world.do("user.add", user="cho", roles=["admin"])
    says = "and bob has no role; cho, root or the daemon's own user can give it: ota-bridge user add bob --role viewer"
    assert refused(world, Caller(user="bob")).endswith(says)


def test_a_token_stands_for_its_user_whoever_shows_it(world):
    text = token(world)
    for shower in ("root", "bob", "ann"):
        actor = who(world, Caller(user=shower, is_owner=shower == "root", token=text))
        assert ("ann", "token ci", frozenset({Role.OPERATOR})) == (actor.name, actor.how, actor.roles)
    world.do("user.roles", user="ann", add=["author"], remove=["operator"])
    assert frozenset({Role.AUTHOR}) == who(world, Caller(user="bob", token=text)).roles


@pytest.mark.parametrize("owner", [True, False])
def test_a_token_that_cannot_be_used_is_a_refusal_and_never_a_step_back_to_the_peer(world, owner):
    text = token(world)
    other = World()
    other.caller = OWNER
    shows = lambda shown: refused(world, Caller(user="root", is_owner=owner, token=shown))  # noqa: E731
    assert "is not one: it begins with ota_" in shows("")
    assert "is not one: it begins with ota_" in shows("secret")
    assert "not one of this daemon's" in shows(token(other))
    assert "not one of this daemon's" in shows(text[:13] + "A" * 43)
    world.do("token.revoke", token="ci")
    assert "token ci of ann was revoked; an admin makes another" in shows(text)


def test_a_token_ends_with_its_day_its_user_and_its_last_role(world):
    short, long = token(world, name="short", days=1), token(world, name="long", days=2)
    world.jump(86_399)
    assert "ann" == who(world, Caller(user="bob", token=short)).name
    world.jump(1)
    assert "token short of ann expired at 1970-01-13 13:46 UTC" in refused(world, Caller(user="bob", token=short))
    assert "ann" == who(world, Caller(user="bob", token=long)).name
    assert 2 == world.do("user.remove", user="ann")["revoked"]
    assert "was revoked" in refused(world, Caller(user="bob", token=long))
    world.do("user.add", user="ann", roles=["operator"])
    assert "was revoked" in refused(world, Caller(user="bob", token=long))


def test_a_refusal_is_recorded_under_the_name_of_who_showed_the_token(world):
    def claim(shown):
        one = world.read(lambda unit: claimed(unit, Caller(user="bob", token=shown), world.now))
        return one.name, one.how

    assert ("bob", "peer, with a token that was refused") == claim("ota_x")
    assert ("ann", "token ci") == claim(token(world))
