"""`token …`, and how a token is shown to the daemon."""

import pytest


@pytest.fixture
def text(operator, daemon):
    """The token of a user who may look."""
    assert 0 == operator("user", "add", "vic", "--role", "viewer").code
    ran = operator("token", "new", "vic", "desk", "--days", "7")
    assert "token desk stands for vic until" in ran.err
    assert "it is not shown again" in ran.err
    return ran.out.strip()


def actors(operator):
    return [one["actor"] for one in operator("audit", "list", "--json").json["entries"]]


def test_a_token_is_one_line_of_output_and_is_listed_without_its_secret(operator, text):
    assert 56 == len(text)
    ran = operator("token", "list")
    assert ["TOKEN", "USER", "STATE", "EXPIRES", "ID", "BY"] == ran.lines()[0]
    assert ["desk", "vic", "live"] == ran.lines()[1][:3]
    assert text[-20:] not in ran.out
    assert [] == operator("token", "list", "--user", "ann", "--json").json["tokens"]


def test_a_token_in_the_environment_or_on_the_command_line_is_who_acts(operator, text, monkeypatch):
    monkeypatch.setenv("OTA_BRIDGE_TOKEN", text)
    assert "vic has viewer" in operator("limits", "set", "--downloads", "5").err
    monkeypatch.delenv("OTA_BRIDGE_TOKEN")
    assert 0 == operator("device", "add", "demo/d1").code
    assert "vic has viewer" in operator("--token", text, "limits", "set", "--downloads", "5").err
    assert ["vic", "vic"] == [name for name in actors(operator) if name == "vic"]


def test_an_empty_token_is_never_a_step_back_to_who_one_is(operator, daemon, monkeypatch):
    assert 2 == operator("--token", "", "device", "add", "demo/d1").code
    monkeypatch.setenv("OTA_BRIDGE_TOKEN", "")
    ran = operator("device", "add", "demo/d1")
    assert (2, True) == (ran.code, "the token is empty; unset OTA_BRIDGE_TOKEN to act as yourself" in ran.err)
    monkeypatch.delenv("OTA_BRIDGE_TOKEN")
    assert 0 == operator("device", "add", "demo/d1").code


def test_a_token_is_no_setting_and_shown_by_no_command(operator, text, monkeypatch):
    monkeypatch.setenv("OTA_BRIDGE_TOKEN", text)
    for words in (("config", "show"), ("config", "show", "--json"), ("--help",)):
        assert text not in operator(*words).out


@pytest.mark.parametrize("wrong", ["ota_x", "nonsense"])
def test_a_wrong_token_is_a_refusal_even_to_who_owns_the_daemon(operator, text, wrong):
    ran = operator("--token", wrong, "device", "list")
    assert (1, True) == (ran.code, "the token is not one" in ran.err)


def test_a_revoked_token_ends_at_once(operator, text):
    assert 0 == operator("--token", text, "device", "list").code
    assert "token desk of vic is revoked\n" == operator("token", "revoke", "desk").out
    ran = operator("--token", text, "device", "list")
    assert (1, True) == (ran.code, "token desk of vic was revoked" in ran.err)
    ran = operator("--token", text, "events")
    assert (1, True) == (ran.code, "was revoked" in ran.err)
    assert ["desk", "vic", "revoked"] == operator("token", "list").lines()[1][:3]
