"""The edge of the command line: exit codes, one sentence per error, never a traceback."""

import re
import subprocess
import sys

import pytest

from ota_bridge.cli.app import COMMANDS, GROUPS

WRITES = [
    ("release", "withdraw", "demo/1.0.0"),
    ("device", "add", "demo/d1"),
    ("device", "approve", "demo/d1"),
    ("device", "tag", "demo/d1", "--add", "x"),
    ("device", "rename", "demo/d1", "kitchen"),
    ("device", "retire", "demo/d1"),
    ("device", "replace", "demo/d1", "--hw", "r2"),
    ("rollout", "start", "demo/1.0.0", "--to", "all"),
    ("rollout", "percent", "r-1", "50"),
    ("rollout", "pause", "r-1"),
    ("rollout", "resume", "r-1"),
    ("rollout", "cancel", "r-1"),
]
READS = [
    ("release", "list"),
    ("release", "show", "demo/1.0.0"),
    ("device", "list"),
    ("device", "show", "demo/d1"),
    ("rollout", "status"),
    ("rollout", "status", "r-1"),
    ("why", "demo/d1"),
]


@pytest.mark.parametrize("words", [*WRITES, *READS], ids=" ".join)
def test_without_a_daemon_and_a_database_a_command_says_so_and_exits_3(operator, words):
    ran = operator(*words)
    assert ran.code == 3
    assert ran.out == ""
    assert "no daemon is running" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("words", [*WRITES, *READS], ids=" ".join)
def test_with_json_the_error_is_an_object_on_stdout_too(operator, words):
    ran = operator(*words, "--json")
    assert ran.code == 3
    assert ran.json["error"]["code"] == "daemon_not_running"
    assert ran.json["error"]["message"] in ran.err


NONSENSE = pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("device", "show"),
        ("device", "list", "--nonsense"),
        ("rollout", "start", "demo/1.0.0"),
        ("rollout", "start", "demo/1.0.0", "--percent", "101"),
        ("rollout", "start", "demo/1.0.0", "--percent", "10", "--to", "all"),
        ("rollout", "start", "demo/1.0.0", "--to", "all", "d1"),
        ("device", "replace", "demo/d1"),
        ("device", "tag", "demo/d1"),
        ("release", "add", "fw.bin"),
        ("release", "sign", "fw.bin", "--product", "p", "--version", "1", "--hw", "r1"),
        ("keys", "new", "--alg", "rsa"),
        ("--set", "broker.url", "config", "show"),
        ("doctor", "--device-cert", "x"),
    ],
    ids=" ".join,
)


@NONSENSE
def test_a_command_line_that_makes_no_sense_is_one_sentence_and_exits_2(operator, words):
    ran = operator(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert re.search(r"; see: ota-bridge [a-z ]*--help\n$", ran.err)
    assert ran.err.count("\n") == 1


@NONSENSE
def test_with_json_a_command_line_that_makes_no_sense_is_an_object_on_stdout_too(operator, words):
    ran = operator(*words, "--json")
    assert ran.code == 2
    assert ran.json["error"]["code"] == "usage"
    assert ran.json["error"]["message"] in ran.err


def test_no_words_at_all_show_the_help(operator):
    for words in ((), ("device",)):
        ran = operator(*words)
        assert ran.code == 2
        assert "Usage: ota-bridge" in ran.out
        assert ran.err == ""


def test_help_shows_the_defaults_that_are_not_values(operator):
    assert "security.online_key" in operator("keys", "new", "--help").out
    assert "ota-author.pem" in operator("release", "sign", "--help").out
    assert "FILE.manifest" in operator("release", "sign", "--help").out
    assert "ota-bridge.toml" in operator("--help").out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--set", "broker.ulr=x", "config", "show"), "did you mean 'broker.url'?"),
        (("--config", "gone.toml", "device", "list"), "there is no file"),
        (("--set", "embedded.port=x", "serve"), "embedded.port = 'x' cannot be used"),
        (("serve", "--broker", "http://x"), "the scheme must be mqtt:// or mqtts://"),
        (("serve", "--set", "topics.root=#"), "no wildcards"),
    ],
)
def test_a_configuration_that_cannot_be_used_exits_2_with_one_sentence(operator, words, sentence):
    ran = operator(*words)
    assert ran.code == 2
    assert sentence in ran.err


@pytest.mark.parametrize("setting", ["broker.ca", "broker.blocks_certificate"])
def test_a_certificate_file_that_cannot_be_used_ends_the_start_with_one_sentence(operator, setting, monkeypatch):
    monkeypatch.setattr("ota_bridge.cli.serve.set_up_logging", lambda *_, **__: None)  # it would outlive the test
    files = ["--set", f"{setting}=gone.pem", *(["--set", "broker.blocks_key=k.pem"] if "blocks" in setting else [])]
    ran = operator("serve", "--broker", "mqtts://127.0.0.1:1", *files)
    assert ran.code == 2
    assert re.fullmatch(r"error: TLS: cannot use the (CA file|certificate) .*gone.pem.*\n", ran.err)


def test_an_unexpected_error_is_one_sentence_and_exits_1(operator, monkeypatch):
    monkeypatch.setattr("ota_bridge.cli.session.Config.load", lambda *_, **__: 1 / 0)
    ran = operator("device", "list")
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.err
    assert "--traceback" in ran.err


def test_an_error_of_the_system_is_one_sentence(operator, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/root/x")

    monkeypatch.setattr("ota_bridge.cli.session.Config.load", refuse)
    ran = operator("device", "list")
    assert (ran.code, ran.err) == (1, "error: Permission denied: /root/x\n")


def test_every_command_has_help(operator):
    for words in [(name,) for name in (*GROUPS, *COMMANDS)]:
        ran = operator(*words, "--help")
        assert ran.code == 0
        assert "Usage: ota-bridge" in ran.out
    assert "Exit codes" in operator("--help").out


def test_version(operator):
    assert operator("--version").out.startswith("ota-bridge ")


def test_the_command_line_is_there_without_what_only_a_daemon_needs():
    heavy = {"ota_bridge.daemon", "amqtt", "sqlite_utils", "uvloop"}
    program = f"import sys; from ota_bridge.cli.app import build; build(); print(*({heavy!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"
