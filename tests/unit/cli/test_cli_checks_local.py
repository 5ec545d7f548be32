"""What `doctor` says of this machine, one finding at a time."""

import os

import pytest

from ota_bridge.cli import checks_local
from ota_bridge.cli.checks_local import (
    Level,
    clock_finding,
    config_file_finding,
    daemon_finding,
    disk_finding,
    online_key_finding,
    sqlite_finding,
    trust_finding,
)
from ota_bridge.cli.session import Session
from ota_bridge.config import Config
from ota_bridge.store.sqlite import open_readonly

NOW = 1_780_000_000.0


def config(operator, **flags):
    return Config.load({name.replace("__", "."): value for name, value in flags.items()}, {}, operator.directory)


@pytest.mark.parametrize(
    ("version", "level"),
    [("3.40.1", "warning"), ("3.51.2", "warning"), ("3.51.3", "ok"), ("3.52.0", "ok"), ("4.0.0", "ok")],
)
def test_sqlite_before_the_fix_of_the_wal_reset_bug_is_a_warning(version, level):
    finding = sqlite_finding(version)
    assert finding.level == level
    assert bool(finding.remedy) == (level != "ok")


def test_the_daemon(operator, daemon):
    assert daemon_finding(Session()).level is Level.OK
    daemon.stop()
    finding = daemon_finding(Session())
    assert (finding.level, finding.text) == (Level.WARNING, "no daemon is running")


def test_a_directory_that_can_be_written(operator):
    finding = disk_finding(operator.directory / "not" / "yet" / "there")
    assert (finding.level, str(operator.directory) in finding.text) == (Level.OK, True)
    assert list(operator.directory.iterdir()) == []


def test_a_directory_that_cannot_be_written(operator):
    (operator.directory / "file").touch()
    finding = disk_finding(operator.directory / "file")
    assert finding.level is Level.FAILURE
    assert finding.remedy


@pytest.mark.parametrize(("free", "level"), [(1 << 40, "ok"), (100 << 20, "warning"), (1 << 20, "failure")])
def test_room_on_the_disk(operator, monkeypatch, free, level):
    monkeypatch.setattr(checks_local.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert disk_finding(operator.directory).level == level


@pytest.mark.parametrize(("now", "level"), [(NOW, "ok"), (0.0, "failure"), (1_700_000_000.0, "failure")])
def test_a_clock_before_this_program_is_wrong(operator, now, level):
    assert clock_finding(operator.directory, now).level == level


def test_a_clock_before_what_was_written_last_is_wrong(operator, daemon, publish):
    publish("1.1.0")
    daemon.stop()
    database = operator.directory / "ota-data" / "ota-bridge.sqlite"
    os.utime(database, (NOW, NOW))
    committed = open_readonly(database).last_commit_wall()
    assert clock_finding(database.parent, committed + 1).level is Level.OK
    finding = clock_finding(database.parent, committed - 3600)
    assert finding.level is Level.FAILURE
    assert "NTP" in finding.remedy


def test_the_trust_document(operator):
    assert trust_finding(config(operator)).level is Level.FAILURE
    operator("keys", "new")
    assert trust_finding(config(operator)).text == "keyset 1: 1 author(s) of example.com, 1 must sign"
    text = (operator.directory / "ota-trust.json").read_text()
    (operator.directory / "ota-trust.json").write_text(text.replace('"alg"', '"test": true, "alg"'))
    assert trust_finding(config(operator)).level is Level.FAILURE
    assert trust_finding(config(operator, security__allow_test_keys="true")).level is Level.OK
    (operator.directory / "ota-trust.json").write_text("{}")
    assert trust_finding(config(operator)).level is Level.FAILURE


def test_the_online_key(operator):
    assert online_key_finding(config(operator)).level is Level.WARNING
    operator("keys", "new")
    assert online_key_finding(config(operator)).level is Level.OK
    (operator.directory / "ota-online.pem").chmod(0o644)
    assert "chmod 600" in online_key_finding(config(operator)).remedy
    operator("keys", "new", "--out", "o.pem", "--online", "stranger.pem", "--trust", "other.json")
    finding = online_key_finding(config(operator, security__online_key="stranger.pem"))
    assert finding.level is Level.FAILURE
    assert "devices refuse its tickets" in finding.text


def test_a_file_with_a_password_that_others_can_read(operator):
    file = operator.directory / "ota-bridge.toml"
    file.write_text('[broker]\nurl = "mqtt://h"\npassword = "x"\n')
    file.chmod(0o644)
    assert config_file_finding(config(operator)).level is Level.WARNING
    file.chmod(0o600)
    assert config_file_finding(config(operator)).level is Level.OK
    file.write_text("[log]\njson = true\n")
    file.chmod(0o644)
    assert config_file_finding(config(operator)).level is Level.OK
