"""Configuration: precedence, provenance, and a clear sentence for everything that cannot be used."""

from pathlib import Path

import pytest

from ota_bridge.config import SETTINGS, Config, TopicIdentity
from ota_bridge.core.errors import ConfigError
from ota_bridge.core.fleet import Enrol
from ota_bridge.wire import parse_broker_url


def load(tmp_path, *, flags=None, env=None, toml=None, file=None):
    if toml is not None:
        (tmp_path / "ota-bridge.toml").write_text(toml)
    return Config.load(flags or {}, env or {}, tmp_path, file=file)


def refusal(tmp_path, **given):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **given)
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_system_file(monkeypatch, tmp_path):
    monkeypatch.setattr("ota_bridge.config.SYSTEM_FILE", tmp_path / "etc" / "ota-bridge.toml")


TOML = '[embedded]\nhost = "from-file"\n'
ENV = {"OTA_BRIDGE_EMBEDDED_HOST": "from-env"}
FLAG = {"embedded.host": "from-flag"}


@pytest.mark.parametrize(
    ("given", "value", "origin"),
    [
        ({}, "127.0.0.1", "default"),
        ({"toml": TOML}, "from-file", "file {dir}/ota-bridge.toml"),
        ({"toml": TOML, "env": ENV}, "from-env", "environment OTA_BRIDGE_EMBEDDED_HOST"),
        ({"toml": TOML, "env": ENV, "flags": FLAG}, "from-flag", "flag"),
        ({"toml": TOML, "flags": FLAG}, "from-flag", "flag"),
        ({"env": ENV}, "from-env", "environment OTA_BRIDGE_EMBEDDED_HOST"),
    ],
)
def test_flag_beats_environment_beats_file_beats_default(tmp_path, given, value, origin):
    config = load(tmp_path, **given)
    assert config.embedded.host == value
    assert config.provenance["embedded.host"] == origin.format(dir=tmp_path)


def test_every_setting_has_a_value_a_provenance_and_a_doc_line(tmp_path):
    config = load(tmp_path)
    assert set(config.provenance) == {setting.name for setting in SETTINGS}
    for setting in SETTINGS:
        assert config.value(setting.name) == setting.default
        assert setting.doc
        assert setting.allowed


def test_environment_names_are_unique():
    assert len({setting.env_name for setting in SETTINGS}) == len(SETTINGS)


def test_every_number_that_is_a_time_names_its_unit():
    for setting in SETTINGS:
        if setting.name.endswith("_s") and not setting.name.endswith("per_s"):
            assert "second" in setting.doc, setting.name


def test_the_file_named_on_the_command_line_beats_the_environment_beats_the_working_directory(tmp_path):
    for name in ("flag", "env"):
        (tmp_path / f"{name}.toml").write_text(f'topics.root = "{name}"')
    (tmp_path / "ota-bridge.toml").write_text('topics.root = "cwd"')
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ota-bridge.toml").write_text('topics.root = "etc"')
    env = {"OTA_BRIDGE_CONFIG": "env.toml"}
    assert load(tmp_path, env=env, file=Path("flag.toml")).topics.root == "flag"
    assert load(tmp_path, env=env).topics.root == "env"
    assert load(tmp_path).topics.root == "cwd"
    (tmp_path / "ota-bridge.toml").unlink()
    assert load(tmp_path).topics.root == "etc"


def test_paths_of_a_file_are_relative_to_it_and_others_to_the_working_directory(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.toml").write_text('data_dir = "d"\nsecurity.trust = "/abs/t.json"')
    config = load(tmp_path, file=Path("conf/a.toml"), env={"OTA_BRIDGE_SECURITY_ONLINE_KEY": "k.pem"})
    assert config.data_dir == tmp_path / "conf" / "d"
    assert config.security.trust == Path("/abs/t.json")
    assert config.security.online_key == tmp_path / "k.pem"
    assert config.socket_path == tmp_path / "conf" / "d" / "ota-bridge.sock"


def test_values_become_their_types(tmp_path):
    env = {
        "OTA_BRIDGE_EMBEDDED_PORT": "0",
        "OTA_BRIDGE_LOG_JSON": "Yes",
        "OTA_BRIDGE_ENROL_PER_S": "2.5",
        "OTA_BRIDGE_ENROL_POLICY": "approve",
        "OTA_BRIDGE_BROKER_CA": "",
    }
    config = load(tmp_path, env=env, toml="[topics]\nidentity = 'device'\n[timeouts]\ntrial_s = 60")
    assert (config.embedded.port, config.log.json, config.enrol.per_s) == (0, True, 2.5)
    assert config.enrol.policy is Enrol.APPROVE
    assert config.topics.identity is TopicIdentity.DEVICE
    assert config.timeouts.trial_s == 60.0
    assert config.broker.ca is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"toml": "[embedded]\nprot = 1"}, "'embedded.prot' is not a setting; did you mean 'embedded.port'?"),
        ({"toml": "[embeded]\nport = 1"}, "[embeded] is not a section; did you mean 'embedded'?"),
        ({"toml": "embedded = 1"}, "embedded is a section; write [embedded] and its keys below"),
        (
            {"toml": "[embedded]\nport = '1883'"},
            "embedded.port = '1883' cannot be used; allowed is an integer 0..65535",
        ),
        ({"toml": "[embedded]\nport = 70000"}, "embedded.port = 70000 cannot be used; allowed is an integer 0..65535"),
        ({"toml": "[embedded]\nport = true"}, "embedded.port = True cannot be used; allowed is an integer 0..65535"),
        ({"toml": "[embedded]\nhost = 5"}, "embedded.host = 5 cannot be used; allowed is text"),
        ({"toml": "[log]\njson = 1"}, "log.json = 1 cannot be used; allowed is true or false"),
        ({"toml": "[log]\nlevel = 'loud'"}, "allowed is one of debug, info, warning, error"),
        ({"toml": "[enrol]\nper_s = nan"}, "enrol.per_s = nan cannot be used; allowed is a number 0.001..1000000"),
        ({"toml": "[timeouts]\ntrial_s = 0"}, "allowed is a number of at least 0.01"),
        ({"toml": "data_dir = ''"}, "data_dir = '' cannot be used; allowed is a path"),
        ({"toml": "data_dir = [1"}, "not valid TOML"),
        ({"toml": "data_dir = " + "[" * 5000}, "not valid TOML: nested too deep"),
        ({"toml": "[blocks]\nblock_max = " + "9" * 400}, "allowed is an integer 16..65536"),
        ({"toml": "[blocks]\nblock_max = " + "9" * 5000}, "not valid TOML"),
        ({"toml": "[timeouts]\ntrial_s = " + "9" * 400}, "allowed is a number of at least 0.01"),
        ({"env": {"OTA_BRIDGE_BLOCKS_BLOCK_MAX": "9" * 400}}, "allowed is an integer 16..65536"),
        ({"env": {"OTA_BRIDGE_" + "X" * 100_000: "1"}}, "is not a setting"),
        ({"toml": "provenance = 1"}, "'provenance' is not a setting"),
        ({"env": {"OTA_BRIDGE_EMBEDDED_PORT": "1_0"}}, "environment OTA_BRIDGE_EMBEDDED_PORT: embedded.port = '1_0'"),
        ({"env": {"OTA_BRIDGE_EMBEDED_PORT": "1"}}, "did you mean 'OTA_BRIDGE_EMBEDDED_PORT'?"),
        ({"env": {"OTA_BRIDGE_CONFIG": "gone.toml"}}, "OTA_BRIDGE_CONFIG: there is no file"),
        ({"file": Path("gone.toml")}, "--config: there is no file"),
        ({"flags": {"topics.rot": "x"}}, "did you mean 'topics.root'?"),
        ({"flags": {"topics.root": "a/#"}}, "flag: topics.root 'a/#': no wildcards"),
        ({"flags": {"topics.root": "+"}}, "no wildcards"),
        ({"flags": {"topics.root": "/ota"}}, "no slash at either end"),
        ({"flags": {"topics.root": "ota/"}}, "no slash at either end"),
        ({"flags": {"topics.root": "a//b"}}, "no slash at either end"),
        ({"flags": {"topics.root": ""}}, "one or more topic levels"),
        ({"flags": {"broker.url": "http://x"}}, "flag: broker.url cannot be used"),
        ({"flags": {"broker.certificate": "c.pem"}}, "broker.certificate and broker.key go together"),
        ({"flags": {"broker.blocks_key": "k.pem"}}, "broker.blocks_certificate and broker.blocks_key go together"),
        (
            {"flags": {"broker.url": "mqtt://h", "broker.ca": "ca"}},
            "flag: broker.ca needs a broker.url that begins with",
        ),
        (
            {"flags": {"broker.certificate": "c", "broker.key": "k"}},
            "broker.certificate needs a broker.url that begins",
        ),
        ({"flags": {"broker.password": "a", "broker.password_file": "b"}}, "are both given; keep one"),
        ({"flags": {"broker.blocks_password": "a"}}, "needs broker.blocks_username"),
        ({"flags": {"offers.public_url": "https://x/"}}, "must hold {sha256}"),
        ({"flags": {"files.host": "0.0.0.0"}}, "flag: files.host needs files.url, too"),
        ({"flags": {"files.url": "http://h"}}, "flag: files.url needs files.host, too"),
        ({"flags": {"files.host": "h", "files.url": "ftp://h"}}, "flag: files.url cannot be used: URL 'ftp://h'"),
        ({"flags": {"files.host": "h", "files.url": "http:///x"}}, "write http:// or https://, a host"),
        ({"flags": {"files.host": "h", "files.url": "http://h:0"}}, "a port where there is one"),
        ({"flags": {"files.host": "h", "files.url": "http://h:70000"}}, "the port is 1..65535"),
        ({"flags": {"files.host": "h", "files.url": "http://me:secret@h"}}, "letters, digits and"),
        ({"flags": {"files.host": "h", "files.url": "http://h/?a=b"}}, "letters, digits and"),
        ({"flags": {"files.host": "h", "files.url": "http://" + "h" * 144}}, "at most 150"),
        ({"flags": {"files.certificate": "c.pem"}}, "files.certificate needs the other of the two"),
        ({"flags": {"files.key": "k.pem"}}, "files.key needs the other of the two"),
        ({"flags": {"data_dir": "d" * 100}}, "socket path"),
        ({"flags": {"data_dir": "a\0b"}}, "allowed is a path"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(tmp_path, given, sentence):
    message = refusal(tmp_path, **given)
    assert sentence in message
    assert "\n" not in message


def test_names_that_kubernetes_sets_beside_a_service_are_ignored(tmp_path):
    env = {"OTA_BRIDGE_SERVICE_HOST": "10.0.0.1", "OTA_BRIDGE_PORT_1883_TCP": "tcp://10.0.0.1:1883"}
    assert load(tmp_path, env=env).embedded.port == 1883


def test_secrets_are_never_shown_not_even_when_refused(tmp_path):
    config = load(tmp_path, flags={"broker.url": "mqtt://me:hunter2@host", "broker.password": "hunter2"})
    assert config.shown("broker.password") == "***"
    assert config.shown("broker.url") == "mqtt://me@host:1883"
    assert "hunter2" not in refusal(tmp_path, toml="[broker]\npassword = ['hunter2']")


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://me:hunter2@host/path",
        "http://me:hunter2@host",
        "mqtt:me:hunter2@host",
        "me:hunter2@host",
        "mqtt me:hunter2@//me:hunter2@host",
        "mqtt://me:hunter2@host:x",
        "mqtt://me:hunter2@[host",
        "mqtt://me:hunter2℀@host",
        "mqtt://me:hunter2@" + "h" * 200 + "/x",
        "mqtt://me:hunter2" + "h" * 200 + "@host:0",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(tmp_path, url):
    sentence = refusal(tmp_path, flags={"broker.url": url})
    assert "hunter2" not in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize(
    "url", ["mqtt://h:0", "mqtt://h:65536", "mqtt://h:-1", "mqtt://\x80", "mqtt://[::1", "mqtt://u@"]
)
def test_a_url_without_a_host_or_with_a_port_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="broker URL"):
        parse_broker_url(url)


def test_the_broker_address_takes_user_and_password_from_settings_before_the_url(tmp_path):
    (tmp_path / "secret").write_text("from-file\nsecond line\n")
    flags = {"broker.url": "mqtts://a:b@h", "broker.username": "u", "broker.password_file": "secret"}
    address = load(tmp_path, flags=flags).broker_address()
    assert (address.host, address.port, address.username, address.password) == ("h", 8883, "u", "from-file")
    url_only = load(tmp_path, flags={"broker.url": "mqtt://a:b@h"}).broker_address()
    assert (url_only.username, url_only.password, url_only.tls) == ("a", "b", None)
    assert load(tmp_path).broker_address() is None


def test_the_block_link_may_have_a_user_of_its_own(tmp_path):
    flags = {"broker.url": "mqtt://a:b@h"}
    assert load(tmp_path, flags=flags).blocks_address().username == "a"
    own = load(tmp_path, flags=flags | {"broker.blocks_username": "x", "broker.blocks_password": "y"})
    assert (own.blocks_address().username, own.blocks_address().password) == ("x", "y")


def test_the_block_link_may_have_a_certificate_of_its_own(tmp_path):
    flags = {"broker.url": "mqtts://h", "broker.ca": "ca", "broker.certificate": "c", "broker.key": "k"}
    assert load(tmp_path, flags=flags).blocks_address().tls.certificate == tmp_path / "c"
    own = load(tmp_path, flags=flags | {"broker.blocks_certificate": "b", "broker.blocks_key": "l"}).blocks_address()
    assert (own.tls.ca, own.tls.certificate, own.tls.key) == (tmp_path / "ca", tmp_path / "b", tmp_path / "l")


def test_a_password_file_that_cannot_be_read_is_named(tmp_path):
    config = load(tmp_path, flags={"broker.url": "mqtt://h", "broker.password_file": "gone"})
    with pytest.raises(ConfigError, match=r"broker\.password_file .*gone"):
        config.broker_address()


def test_the_tables_of_dialects_are_kept_for_those_who_can_check_them(tmp_path):
    (tmp_path / "ota-bridge.toml").write_text('[dialects.toy]\ngreeting = "hello"\n[dialects.other]\n')
    config = Config.load({}, {}, tmp_path)
    assert {"toy": {"greeting": "hello"}, "other": {}} == config.dialects


def test_a_dialect_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "ota-bridge.toml").write_text("[dialects]\ntoy = true\n")
    with pytest.raises(ConfigError, match=r"dialects.toy: write \[dialects.toy\]"):
        Config.load({}, {}, tmp_path)
