"""`audit …`: what was done, and whether the record of it is whole, with a daemon and without."""

import sqlite3

import pytest

from ota_bridge.daemon import DATABASE


@pytest.fixture
def busy(operator, daemon):
    """Three entries."""
    operator("device", "add", "demo/d1")
    operator("device", "tag", "d1", "--add", "a")
    operator("device", "add", "demo/d1")
    return daemon


def database(operator):
    return operator.directory / "ota-data" / DATABASE


def test_what_was_done_and_tried_is_listed(operator, busy):
    shown = operator("audit", "list").lines()
    assert ["N", "WHEN", "WHO", "KNOWN BY", "ACTION", "SUBJECT", "RESULT", "DETAIL"] == shown[0]
    assert [("device.add", "ok"), ("device.tag", "ok"), ("device.add", "conflict")] == [
        (line[-4], line[-2]) for line in shown[1:]
    ]
    found = operator("audit", "list", "--device", "d1", "--json").json["entries"]
    assert [1, 2, 3] == [one["n"] for one in found]
    assert "exists already" in found[-1]["detail"]["error"]
    assert "nothing was done that fits" in operator("audit", "list", "--actor", "nobody").err


def test_the_log_is_verified_and_its_head_told(operator, busy):
    ran = operator("audit", "verify")
    assert (0, True) == (ran.code, ran.out.startswith("the log holds: 3 entries, head 3:"))
    assert "keep the head elsewhere" in ran.err
    head = ran.out.split()[-1]
    assert "" == operator("audit", "verify", "--head", head).err
    ran = operator("audit", "verify", "--head", "9:" + "ab" * 32)
    assert (1, True) == (ran.code, "entry 9 was there: its end is cut off" in ran.err)
    assert "write it as N:HEX" in operator("audit", "verify", "--head", "x").err


def test_without_a_daemon_it_is_read_from_the_database_or_any_copy(operator, busy):
    busy.stop()
    assert "the log holds: 3 entries" in operator("audit", "verify").out
    assert 4 == len(operator("audit", "list").lines())
    copy = operator.directory / "copy.sqlite"
    copy.write_bytes(database(operator).read_bytes())
    assert "the log holds: 3 entries" in operator("audit", "verify", copy).out
    assert "there is no database" in operator("audit", "verify", operator.directory / "none").err


def test_what_was_changed_behind_the_triggers_is_named(operator, busy):
    busy.stop()
    with sqlite3.connect(database(operator)) as connection:
        connection.execute("DROP TRIGGER audit_is_not_changed")
        connection.execute("UPDATE audit SET actor = 'eve' WHERE n = 2")
    connection.close()
    ran = operator("audit", "verify")
    assert (1, "") == (ran.code, ran.out)
    assert "error: the log does not hold: entry 2 is not what was written" in ran.err
    found = operator("audit", "verify", "--json")
    assert (1, False, 2) == (found.code, found.json["holds"], found.json["wrong"])


def test_a_backup_keeps_the_log_and_who_may_what(operator, busy):
    operator("user", "add", "vic", "--role", "viewer")
    operator("token", "new", "vic", "desk")
    head = operator("audit", "verify").out.split()[-1]
    assert 0 == operator("backup", operator.directory / "b.tar").code
    busy.stop()
    operator.directory.joinpath("ota-data").rename(operator.directory / "lost")
    assert 0 == operator("restore", operator.directory / "b.tar").code
    assert f"the log holds: 5 entries, head {head}\n" == operator("audit", "verify", "--head", head).out
    assert ["vic"] == [one["name"] for one in operator("user", "list", "--json").json["users"]]
    assert ["desk"] == [one["name"] for one in operator("token", "list", "--json").json["tokens"]]
