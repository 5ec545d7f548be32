"""`limits …`: show and set, with a daemon and without."""

import pytest


@pytest.fixture(autouse=True)
def answers_at_once(monkeypatch):
    """The daemon lets a change settle before it answers; here nothing is on its way."""
    monkeypatch.setattr("ota_bridge.gateway.SETTLE_S", 0.0)


@pytest.mark.parametrize("words", [(), ("show",)])
def test_at_first_there_is_no_limit(operator, daemon, words):
    assert operator("limits", *words).lines() == [
        ["blocks per second", "no limit"],
        ["bytes per second", "no limit"],
        ["downloads at a time", "no limit"],
    ]


def test_what_is_set_is_shown_with_who_set_it(operator, daemon):
    ran = operator("limits", "set", "--downloads", "50", "--bytes-per-s", "200000")
    assert ran.code == 0
    assert ["downloads at a time", "50"] in ran.lines()
    shown = operator("limits").lines()
    assert ["bytes per second", "200000"] in shown
    assert ["blocks per second", "no limit"] in shown
    assert [" by " in line[1] for line in shown if line[0] == "set"] == [True]


def test_what_is_not_named_stays_and_zero_lifts(operator, daemon):
    operator("limits", "set", "--downloads", "50", "--blocks-per-s", "100")
    found = operator("limits", "set", "--downloads", "0", "--json").json
    assert (found["blocks_per_s"], found["downloads"]) == (100, 0)
    assert operator("limits", "--json").json == operator("limits", "show", "--json").json == found


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "name at least one of"),
        (("--downloads", "-1"), 1, "downloads = -1: allowed is 0 (no limit) or 1.."),
        (("--bytes-per-s", "100"), 1, "bytes_per_s = 100: allowed is 0 (no limit) or 4096.."),
        (("--downloads", "many"), 2, "--downloads"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(operator, daemon, words, code, says):
    ran = operator("limits", "set", *words)
    assert (ran.code, says in ran.err) == (code, True), ran.err
    assert operator("limits", "--json").json["downloads"] == 0


def test_without_a_daemon_they_are_read_from_the_database_and_not_changed(operator, daemon):
    operator("limits", "set", "--downloads", "7")
    daemon.stop()
    ran = operator("limits")
    assert ["downloads at a time", "7"] in ran.lines()
    assert "as of" in ran.err
    assert operator("limits", "set", "--downloads", "8").code == 3
