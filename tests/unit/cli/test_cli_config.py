"""`config show` and the table for the documentation."""

from ota_bridge.cli.config_cmd import settings_markdown
from ota_bridge.config import SETTINGS


def test_show_says_value_and_origin_of_every_setting(operator, monkeypatch):
    monkeypatch.setenv("OTA_BRIDGE_LOG_LEVEL", "debug")
    (operator.directory / "ota-bridge.toml").write_text("[embedded]\nport = 1884\n")
    ran = operator("--set", "topics.root=ota", "config", "show")
    rows = {line[0]: [cell.strip() for cell in line[1:]] for line in ran.lines()}
    assert set(rows) == {"SETTING", *(setting.name for setting in SETTINGS)}
    assert rows["log.level"] == ["debug", "environment OTA_BRIDGE_LOG_LEVEL"]
    assert rows["embedded.port"] == ["1884", f"file {operator.directory}/ota-bridge.toml"]
    assert rows["topics.root"] == ["ota", "flag"]
    assert rows["enrol.policy"] == ["open", "default"]


def test_show_as_json_holds_the_documentation_too(operator):
    shown = operator("config", "show", "--json").json
    assert shown["file"] is None
    assert shown["settings"]["broker.keepalive_s"] == {
        "value": "30",
        "from": "default",
        "environment": "OTA_BRIDGE_BROKER_KEEPALIVE_S",
        "allowed": "an integer 5..600",
        "meaning": "MQTT keep-alive of both links, in seconds",
    }
    assert "MQTT keep-alive" in operator("config", "show", "--docs").out


def test_a_secret_is_never_shown(operator):
    for more in ((), ("--json",), ("--docs",)):
        ran = operator("--set", "broker.password=hunter2", "config", "show", *more)
        assert "hunter2" not in ran.out + ran.err
        assert "***" in ran.out


def test_data_dir_and_config_are_flags_before_the_command(operator):
    (operator.directory / "other.toml").write_text("log.json = true")
    shown = operator("--config", "other.toml", "--data-dir", "d", "config", "show", "--json").json["settings"]
    assert (shown["log.json"]["value"], shown["data_dir"]["value"]) == ("true", str(operator.directory / "d"))


def test_the_table_for_the_documentation_has_a_row_per_setting(operator):
    table = settings_markdown()
    assert table.count("\n") == len(SETTINGS) + 2
    assert operator("config", "table").out == table
