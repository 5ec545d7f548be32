"""`tail` and `events`: payloads as text, topic filters, and whom to connect to."""

import itertools
import json
import threading
import time

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.cli.session import Session
from ota_bridge.cli.tail import as_text, broker_of, escaped, readable, topic_filters, wanted
from ota_bridge.core.errors import InvalidInput, NotFound


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "(empty)"),
        (b'{"type":"x","n":1.5}', '{"type": "x", "n": 1.5}'),
        ('{"a":"ä"}'.encode(), '{"a": "ä"}'),
        (b"21.5", "21.5"),
        (msgpack.packb({"type": "report_ack", "seqs": [4]}), '{"type": "report_ack", "seqs": [4]}'),
        (msgpack.packb([b"\x01\x02", 0, b"\xaa" * 1024]), """["h'0102'", 0, "h'aaaaaaaaaaaaaaaa…' (1024 bytes)"]"""),
        (msgpack.packb({1: {"nonce": bytes(16)}}), """{"1": {"nonce": "h'00000000000000000000000000000000'"}}"""),
        (b"\x01", "h'01'"),
        (b"\xc1\xff", "h'c1ff'"),
        (bytes(range(200, 240)), "h'c8c9cacbcccdcecf…' (40 bytes)"),
        (b"plain words", "h'706c61696e20776f726473'"),
    ],
)
def test_a_payload_is_one_line_of_text(payload, text):
    assert as_text(payload) == text


@pytest.mark.parametrize("char", ["\x1b", "\x7f", "\x9b", "\n", "\u2028", "\u202e", "\U000e0041"])
def test_what_a_terminal_would_obey_is_escaped_and_means_the_same(char):
    for text, ascii_only, before in itertools.product((f"a{char}b", {"reason": char}), (True, False), ("", " ")):
        line = as_text((before + json.dumps(text, ensure_ascii=ascii_only)).encode())
        assert line.isprintable()
        assert text == json.loads(line)
    assert f'"{char}"'.isprintable() is False
    assert escaped(f'"{char}"').isprintable()


@given(st.binary(max_size=300))
def test_any_payload_can_be_shown(payload):
    assert "\n" not in as_text(payload)
    json.dumps(readable(payload))


def test_topic_filters():
    assert topic_filters("$ota", None) == ["$ota/#"]
    assert topic_filters("$ota", None, blocks=False) == [
        "$ota/report/#", "$ota/update/#", "$ota/event/#", "$ota/state/#"
    ]  # fmt: skip
    assert topic_filters("o", "demo/d1", blocks=False) == ["o/report/demo/d1", "o/update/demo/d1", "o/event/demo/d1"]
    assert topic_filters("o", "d1", blocks=False) == ["o/report/+/d1", "o/update/+/d1", "o/event/+/d1"]


@pytest.mark.parametrize("device", ["#", "+/d1", "demo/+", "a/b/c", "", "demo/"])
def test_no_wildcard_gets_into_a_filter(device):
    with pytest.raises(InvalidInput):
        topic_filters("$ota", device)


def test_the_broker_is_the_configured_one_else_the_daemons_else_the_embedded_default(operator, daemon):
    assert broker_of(Session(flags={"broker.url": "mqtt://h:5"})).port == 5
    assert broker_of(Session()).port == 1
    daemon.stop()
    assert broker_of(Session(flags={"embedded.port": "7", "embedded.host": "0.0.0.0"})).host == "127.0.0.1"
    assert broker_of(Session(flags={"embedded.port": "7"})).port == 7


def test_a_device_is_named_as_everywhere_else(operator, daemon):
    operator("device", "add", "demo/d1")
    operator("device", "rename", "d1", "kitchen")
    session = Session()
    assert [wanted(session, name) for name in (None, "d1", "kitchen", "demo/d1")] == [None, *["demo/d1"] * 3]
    with pytest.raises(NotFound, match="no device 'gone'"):
        wanted(session, "gone")


def test_a_device_that_is_not_known_yet_is_waited_for_under_its_whole_name(operator, daemon, capfd):
    assert wanted(Session(), "demo/later") == "demo/later"
    assert "demo/later is not known yet" in capfd.readouterr().err
    for name in ("demo/+", "a/b/c", "demo/"):
        with pytest.raises(InvalidInput):
            wanted(Session(), name)


def test_without_a_daemon_and_a_database_a_device_is_who_is_named(operator):
    assert wanted(Session(), "d1") == "d1"


@pytest.mark.parametrize("words", [("tail", "gone"), ("events", "gone"), ("events", "--json", "gone")])
def test_nobody_of_that_name_is_said_so(operator, daemon, words):
    ran = operator(*words)
    assert (ran.code, ran.err) == (1, "error: no device 'gone'; see: device list\n")


def test_events_without_a_daemon_say_so(operator):
    ran = operator("events")
    assert (ran.code, "start it with `ota-bridge serve`" in ran.err) == (3, True)


def test_events_are_json_lines_until_the_daemon_ends(operator, daemon):
    def act():
        for number in range(50):
            daemon.report(f"demo/d{number}")
            time.sleep(0.01)
        daemon.stop()

    thread = threading.Thread(target=act)
    thread.start()
    ran = operator("events")
    thread.join()
    lines = [json.loads(line) for line in ran.out.splitlines() if not line.startswith('{"error')]
    assert {line["event"] for line in lines} >= {"enrolled", "report"}
    assert (ran.code, "hung up" in ran.err) == (1, True)
