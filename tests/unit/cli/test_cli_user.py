"""`user …`, and what the roles of a user mean on the command line."""

import getpass

import pytest

ME = getpass.getuser()


def test_at_first_there_is_nobody_and_it_says_what_that_means(operator, daemon):
    ran = operator("user", "list")
    assert (0, "") == (ran.code, ran.out)
    assert "no users yet: whoever can open the socket may do everything" in ran.err


def test_users_are_added_shown_changed_and_removed(operator, daemon):
    assert (
        "user ann: operator, author\n" == operator("user", "add", "ann", "--role", "author", "--role", "operator").out
    )
    assert "user ann: author, admin\n" == operator("user", "roles", "ann", "--add", "admin", "--remove", "operator").out
    shown = operator("user", "list").lines()
    assert ["USER", "ROLES", "SINCE", "BY"] == shown[0]
    assert ("ann", "author, admin", ME) == (shown[1][0], shown[1][1], shown[1][-1])
    assert ["ann"] == [one["name"] for one in operator("user", "list", "--json").json["users"]]
    ran = operator("user", "remove", "ann")
    assert "user ann is removed; tokens revoked: 0\n" == ran.out
    assert "that was the last user" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("add", "ann"), 2, "--role"),
        (("add", "ann", "--role", "boss"), 1, "role 'boss': one of viewer"),
        (("roles", "ann"), 2, "name at least one role with --add or --remove"),
        (("roles", "ann", "--add", "viewer"), 1, "no user 'ann'"),
        (("remove", "ann"), 1, "no user 'ann'"),
    ],
)
def test_what_cannot_be_is_refused(operator, daemon, words, code, says):
    ran = operator("user", *words)
    assert (code, True) == (ran.code, says in ran.err), ran.err


def test_a_refusal_has_a_code_of_its_own_and_says_who_can_help(operator, daemon):
    operator("user", "add", "vic", "--role", "viewer")
    text = operator("token", "new", "vic", "desk").out.strip()
    ran = operator("--token", text, "device", "add", "demo/d1", "--json")
    assert (1, "forbidden") == (ran.code, ran.json["error"]["code"])
    assert "device.add needs the role operator, and vic has viewer" in ran.err
    assert "ota-bridge user roles vic --add operator" in ran.err
    assert 0 == operator("--token", text, "device", "list").code
    assert 1 == operator("--token", text, "backup", operator.directory / "b.tar").code


def test_two_people_approve_what_a_third_created(operator, daemon, publish):
    publish()
    daemon.report("demo/d1")
    rollout = operator("rollout", "start", "1.1.0", "--to", "all", "--json").json["id"]
    assert "was created by" in operator("rollout", "approve", rollout).err
    operator("user", "add", "bob", "--role", "approver")
    text = operator("token", "new", "bob", "desk").out.strip()
    ran = operator("--token", text, "rollout", "approve", rollout, "--note", "canaries look good")
    assert f"rollout {rollout}: approved by 1, missing 0\n" == ran.out
    shown = operator("rollout", "approvals", rollout).lines()
    assert ("bob", "counts", "canaries look good") == (shown[1][0], shown[1][-2], shown[1][-1])
    assert "approved by 0" in operator("--token", text, "rollout", "disapprove", rollout).out
