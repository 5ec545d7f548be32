"""What ThingsBoard devices say: every legal shape, and what is no shape at all."""

import json

import pytest

from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Rejected, Said
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.thingsboard import ThingsBoard
from ota_bridge.dialects.thingsboard_messages import AttributesAsked, Begun, FwState, LimitsAsked, Telemetry
from ota_bridge.wire import MqttMessage

DIALECT = ThingsBoard({"prefix": "site/tb", "product": "prod", "products": {"pump-*": "pump"}})
DEVICE = DeviceId("prod", "d1")
TELEMETRY = "v1/devices/me/telemetry"


def read(tail, payload, *, before="site/tb/d1/"):
    message = MqttMessage(
        topic=before + tail, payload=payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    )
    return DIALECT.read(message)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"current_fw_title": "demo", "current_fw_version": "1.0"}, Telemetry(title="demo", version="1.0")),
        ({"fw_state": "FAILED", "fw_error": "no"}, Telemetry(state=FwState.FAILED, error="no")),
        ({"fw_state": "IDLE", "fw_error": None, "mood": 2.5}, Telemetry(state=FwState.IDLE)),
        ([{"fw_state": "UPDATING"}], Telemetry(state=FwState.UPDATING)),
        ({"ts": 5, "values": {"fw_state": "IDLE"}}, Telemetry(state=FwState.IDLE)),
        (
            [{"ts": 5, "values": {"fw_state": "IDLE"}}, {"current_fw_version": "2"}],
            Telemetry(version="2", state=FwState.IDLE),
        ),
        (
            [{"ts": 7, "values": {"fw_state": "UPDATED"}}, {"ts": 5, "values": {"fw_state": "IDLE"}}],
            Telemetry(state=FwState.UPDATED),
        ),
        ([{"fw_state": "UPDATED"}, {"ts": 5, "values": {"fw_state": "IDLE"}}], Telemetry(state=FwState.UPDATED)),
        ({"ts": 5, "fw_state": "IDLE"}, Telemetry(state=FwState.IDLE)),
    ],
)
def test_telemetry_is_read_in_all_its_shapes_and_the_newest_counts(payload, expected):
    said = read(TELEMETRY, payload)
    assert Said(device=DEVICE, dialect="thingsboard", said=expected, body=said.body) == said


@pytest.mark.parametrize("payload", [{"temperature": 21.5}, [], [{"ts": 1, "values": {}}], {}])
def test_telemetry_without_firmware_is_nobodys(payload):
    assert read(TELEMETRY, payload) is None


@pytest.mark.parametrize(
    ("tail", "payload"),
    [
        (TELEMETRY, b""),
        (TELEMETRY, b"{"),
        (TELEMETRY, b"7"),
        (TELEMETRY, b"[[]]"),
        (TELEMETRY, b'{"fw_state":"SLEEPING"}'),
        (TELEMETRY, b'{"fw_state":7}'),
        (TELEMETRY, b'{"current_fw_version":{}}'),
        (TELEMETRY, b'{"ts":1,"values":[1]}'),
        (TELEMETRY, b"[" * 5000 + b"]" * 5000),
        (TELEMETRY, b'{"fw_state":"' + b"x" * 65_536 + b'"}'),
        ("v1/devices/me/attributes/request/1", b"[]"),
        ("v1/devices/me/attributes/request/1", b'{"sharedKeys":7}'),
        ("v1/devices/me/attributes/request/x", b"{}"),
        ("v1/devices/me/attributes/request/", b"{}"),
        ("v1/devices/me/attributes/request/12345678901", b"{}"),
        ("v1/devices/me/rpc/request/1", b"{}"),
        ("v1/devices/me/rpc/request/-1", b'{"method":"getSessionLimits"}'),
        ("v2/sw/request/1/chunk/0", b"4096"),
        ("", b""),
    ],
)
def test_a_bad_message_on_a_devices_own_topic_is_rejected(tail, payload):
    assert Rejected(device=DEVICE, reason=read(tail, payload).reason) == read(tail, payload)


@pytest.mark.parametrize(
    ("tail", "payload", "expected"),
    [
        (
            "v1/devices/me/attributes/request/3",
            {"sharedKeys": "fw_checksum,fw_size,"},
            AttributesAsked(request="3", is_for_firmware=True),
        ),
        (
            "v1/devices/me/attributes/request/3",
            {"clientKeys": "fw_x"},
            AttributesAsked(request="3", is_for_firmware=False),
        ),
        ("v1/devices/me/attributes/request/3", b"", AttributesAsked(request="3", is_for_firmware=False)),
        (
            "v1/devices/me/rpc/request/1",
            {"method": "getSessionLimits", "params": {"timeout": 5000}},
            LimitsAsked(request="1"),
        ),
        ("v2/fw/request/1/chunk/0", b"4096", Begun()),
        ("v2/fw/request/1/chunk/0", b"", Begun()),
    ],
)
def test_what_else_is_asked(tail, payload, expected):
    assert expected == read(tail, payload).said


def test_calls_of_other_methods_are_nobodys():
    assert read("v1/devices/me/rpc/request/1", {"method": "getTime"}) is None


@pytest.mark.parametrize(
    "topic",
    ["", "site/tb", "site/tb/", "site/tb/d1", "tb/d1/v1/devices/me/telemetry", "site/tb/a b/v1/devices/me/telemetry",
     "site/tb//v1/devices/me/telemetry", "site/tb/" + "x" * 129 + "/v1/devices/me/telemetry", "site/tbd1/v1/x"],
)  # fmt: skip
def test_a_topic_that_names_no_device_is_malformed(topic):
    with pytest.raises(Malformed):
        read("", b"{}", before=topic)


def test_the_product_follows_from_the_name():
    assert DeviceId("pump", "pump-7") == read(TELEMETRY, {"fw_state": "IDLE"}, before="site/tb/pump-7/").device


@pytest.mark.parametrize(
    ("tail", "payload", "expected"),
    [
        (TELEMETRY, b'{"temperature":1}', True),
        (TELEMETRY, b'{"fw_state":"IDLE"}', False),
        (TELEMETRY, b"", False),
        ("v2/fw/request/1/chunk/0", b"4096", False),
        ("v1/devices/me/attributes/request/1", b"{}", False),
    ],
)
def test_telemetry_that_has_nothing_to_do_with_firmware_uses_nothing_up(tail, payload, expected):
    assert expected is DIALECT.is_for_blocks(MqttMessage(topic=f"site/tb/d1/{tail}", payload=payload))


def test_it_listens_to_its_own_topics_and_to_the_first_chunk_of_each_download():
    assert [
        "site/tb/+/v1/devices/me/telemetry",
        "site/tb/+/v1/devices/me/attributes/request/+",
        "site/tb/+/v1/devices/me/rpc/request/+",
        "site/tb/+/v2/fw/request/+/chunk/0",
    ] == [one.topic_filter for one in DIALECT.subscriptions()]
