"""Users, roles and tokens: what they are called, what a token's text holds, and who may what."""

from base64 import urlsafe_b64decode

import pytest

from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.operations import OPERATIONS
from ota_bridge.core.people import (
    ALL_ROLES,
    Actor,
    Caller,
    Role,
    Token,
    TokenId,
    User,
    parse_token,
    roles_of,
    token_text,
    without_tokens,
)

SECRET = bytes(range(32))
TEXT = token_text(TokenId("0123abcd"), SECRET)


def user(name="ann", **changes):
    plain = {"name": name, "roles": frozenset({Role.OPERATOR}), "created_wall": 1.0, "created_by": "root"}
    return User(**(plain | changes))


def token(**changes):
    parsed = parse_token(TEXT)
    plain = {
        "id": parsed[0],
        "name": "ci",
        "user": "ann",
        "digest": parsed[1],
        "created_wall": 1.0,
        "created_by": "root",
        "expires_wall": 100.0,
    }
    return Token(**(plain | changes))


@pytest.mark.parametrize("name", ["ann", "_apt", "a.b-c@d", "7", "x" * 64])
def test_a_user_is_called_as_the_system_calls_it(name):
    assert name == user(name).name


@pytest.mark.parametrize("name", ["", "uid 7", "-ann", "x" * 65, "a\nb", "a/b", "ann\n"])
def test_other_names_are_refused(name):
    with pytest.raises(InvalidInput, match="is not valid"):
        user(name)


def test_a_user_without_roles_is_none():
    with pytest.raises(InvalidInput, match="at least one role of viewer, operator, approver, author, admin"):
        user(roles=frozenset())


def test_an_unknown_role_is_named_with_those_there_are():
    assert frozenset({Role.ADMIN}) == roles_of(["admin", "admin"])
    with pytest.raises(InvalidInput, match="role 'boss': one of viewer, operator"):
        roles_of(["admin", "boss"])


def test_the_text_of_a_token_holds_its_name_and_32_random_bytes():
    prefix, name, secret = TEXT.split("_", 2)
    assert ("ota", "0123abcd", SECRET) == (prefix, name, urlsafe_b64decode(secret + "="))


def test_a_token_is_opened_by_its_own_secret_alone():
    other = parse_token(token_text(TokenId("0123abcd"), bytes(32)))
    assert token().is_opened_by(parse_token(TEXT)[1])
    assert not token().is_opened_by(other[1])


@pytest.mark.parametrize("text", ["", "ota_", TEXT[:-1], TEXT + "a", TEXT + "\n", TEXT.upper(), " " + TEXT, "é" * 56])
def test_what_is_no_token_is_none(text):
    assert parse_token(text) is None


def test_the_secret_is_not_kept_nor_shown():
    secret = TEXT.rpartition("0123abcd_")[2]
    kept = token()
    assert secret not in repr(kept)
    assert repr(kept.digest) not in repr(kept)
    assert secret not in repr(Caller(user="ann", token=TEXT))
    assert "revoke ota_0123abcd_... of ann" == without_tokens(f"revoke {TEXT} of ann")


def test_a_token_is_live_until_it_expires_or_is_revoked():
    assert token().is_live(99.9)
    assert not token().is_live(100.0)
    revoked = token().revoked(50.0)
    assert not revoked.is_live(51.0)
    with pytest.raises(Conflict, match=r"token ci \(0123abcd\) is already revoked"):
        revoked.revoked(60.0)


@pytest.mark.parametrize("name", ["", "a b", "x" * 33, "a\n"])
def test_a_token_has_a_short_name(name):
    with pytest.raises(InvalidInput, match="token"):
        token(name=name)


@pytest.mark.parametrize("held", sorted(Role))
def test_a_role_allows_itself_and_to_look_and_nothing_else(held):
    actor = Actor(name="ann", how="peer", roles=frozenset({held}))
    assert {held, Role.VIEWER} == {role for role in Role if actor.may(role)}


def test_without_roles_nothing_is_allowed_and_with_all_everything():
    nobody, everybody = (Actor(name="ann", how="peer", roles=roles) for roles in (frozenset(), ALL_ROLES))
    assert set() == {role for role in Role if nobody.may(role)}
    assert set(Role) == {role for role in Role if everybody.may(role)}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_names_the_role_that_its_kind_needs(name):
    operation = OPERATIONS[name]
    group, _, verb = name.partition(".")
    if not operation.writes:
        expected = Role.VIEWER
    elif verb in {"approve", "disapprove"} and group == "rollout":
        expected = Role.APPROVER
    else:
        kinds = {"release": Role.AUTHOR, "user": Role.ADMIN, "token": Role.ADMIN, "history": Role.ADMIN}
        expected = kinds.get(group, Role.OPERATOR)
    assert expected is operation.role
