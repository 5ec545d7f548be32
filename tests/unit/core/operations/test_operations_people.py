"""Users and tokens: given, changed, taken away; and what is refused with which sentence."""

import json

import pytest
from core_world import World

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.people import Caller


@pytest.fixture
def world():
    made = World()
    made.caller = Caller(user="root", is_owner=True)
    return made


def test_a_user_is_added_shown_changed_and_removed(world):
    added = world.do("user.add", user="ann", roles=["operator", "author", "operator"])
    assert ("ann", ["operator", "author"], "root") == (added["name"], added["roles"], added["created_by"])
    assert [added] == world.do("user.list")
    assert ["operator", "admin"] == world.do("user.roles", user="ann", add=["admin"], remove=["author"])["roles"]
    removed = world.do("user.remove", user="ann")
    assert (0, 0) == (removed["revoked"], removed["users"])
    assert [] == world.do("user.list")


@pytest.mark.parametrize(
    ("name", "args", "error", "says"),
    [
        ("user.add", {"user": "ann", "roles": ["viewer"]}, Conflict, "registered already; to change it: user roles"),
        ("user.add", {"user": "bob", "roles": []}, InvalidInput, "at least one role"),
        ("user.add", {"user": "bob", "roles": ["boss"]}, InvalidInput, "role 'boss': one of"),
        ("user.add", {"user": "b b", "roles": ["viewer"]}, InvalidInput, "is not valid"),
        ("user.roles", {"user": "bob", "add": ["viewer"]}, NotFound, "no user 'bob'; see: user list"),
        ("user.roles", {"user": "ann", "remove": ["operator"]}, InvalidInput, "nothing would be left to ann"),
        ("user.remove", {"user": "bob"}, NotFound, "no user 'bob'"),
        ("token.new", {"user": "bob", "name": "ci"}, NotFound, "no user 'bob'"),
        ("token.new", {"user": "ann", "name": "ci"}, Conflict, "ann has a token called ci already"),
        ("token.new", {"user": "ann", "name": "a b"}, InvalidInput, "is not valid"),
        ("token.new", {"user": "ann", "name": "x", "days": 0}, InvalidInput, "days 0: allowed is 1..366"),
        ("token.new", {"user": "ann", "name": "x", "days": 367}, InvalidInput, "allowed is 1..366"),
        ("token.revoke", {"token": "what"}, NotFound, "no token 'what'; see: token list"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(world, name, args, error, says):
    world.do("user.add", user="ann", roles=["operator"])
    world.do("token.new", user="ann", name="ci")
    before = world.do("user.list"), world.do("token.list")
    with pytest.raises(error, match=says):
        world.do(name, **args)
    assert before == (world.do("user.list"), world.do("token.list"))


def test_the_text_of_a_token_is_told_once_and_kept_nowhere(world):
    world.do("user.add", user="ann", roles=["operator"])
    text = world.do("token.new", user="ann", name="ci")["token"]
    secret = text.rpartition("_")[2]
    assert secret not in json.dumps(world.do("token.list"))
    assert secret not in repr(world.store._state)


def test_two_tokens_are_never_alike(world):
    world.do("user.add", user="ann", roles=["operator"])
    texts = {world.do("token.new", user="ann", name=f"t{number}")["token"] for number in range(20)}
    assert 20 == len(texts)


def test_a_token_is_revoked_by_name_or_id_once_and_its_name_is_free_again(world):
    world.do("user.add", user="ann", roles=["operator"])
    first = world.do("token.new", user="ann", name="ci", days=1)
    assert "revoked" == world.do("token.revoke", token="ci")["state"]
    with pytest.raises(Conflict, match="already revoked"):
        world.do("token.revoke", token="ci")
    second = world.do("token.new", user="ann", name="ci", days=1)
    assert second["id"] == world.do("token.revoke", token=second["id"])["id"]
    third = world.do("token.new", user="ann", name="ci", days=1)
    world.jump(86_400)
    fourth = world.do("token.new", user="ann", name="ci")
    shown = [(one["id"], one["state"]) for one in world.do("token.list", user="ann")]
    ids = [one["id"] for one in (first, second, third, fourth)]
    assert list(zip(ids, ["revoked", "revoked", "expired", "live"], strict=True)) == shown
    assert [] == world.do("token.list", user="bob")


def test_two_users_may_call_their_tokens_alike_and_the_id_tells_them_apart(world):
    for user in ("ann", "bob"):
        world.do("user.add", user=user, roles=["operator"])
    first, second = (world.do("token.new", user=user, name="laptop")["id"] for user in ("ann", "bob"))
    with pytest.raises(InvalidInput, match=f"'laptop' is ambiguous: {first} of ann, {second} of bob; name the id"):
        world.do("token.revoke", token="laptop")
    assert "ann" == world.do("token.revoke", token=first)["user"]
    assert "bob" == world.do("token.revoke", token="laptop")["user"]
