"""The front that tests put before a broker: every packet of both versions byte by byte, and a real broker behind it."""

import asyncio

import aiomqtt
import pytest
from brokers import HOST, client, mosquitto  # noqa: F401
from mqtt_front import Delivery, Front, Mapping, Rewriter

from ota_bridge.wire import BrokerAddress

WIDER = Mapping(prefix=lambda seen: f"tb/{seen.username}/", filters={"v2/fw/response/+": "v2/fw/response/+/chunk/+"})


def text(value):
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def packet(first, body):
    assert len(body) < 128
    return bytes([first, len(body)]) + body


def connect(level, *, will=None):
    properties = b"\x05\x11\x00\x00\x00\x0a" if level == 5 else b""
    flags = 0x82 | (0x04 if will else 0)
    body = text("MQTT") + bytes([level, flags]) + b"\x00\x3c" + properties + text("id")
    if will:
        body += (b"\x00" if level == 5 else b"") + text(will) + text("gone")
    return packet(0x10, body + text("dev"))


def connected(level, mapping=WIDER):
    rewriter = Rewriter(mapping)
    rewriter.from_device(connect(level))
    return rewriter


@pytest.mark.parametrize("level", [4, 5])
def test_a_will_gets_the_prefix_and_the_rest_of_connect_stays(level):
    assert connect(level) == Rewriter(WIDER).from_device(connect(level))
    rewriter = Rewriter(WIDER)
    assert connect(level, will="tb/dev/a") == rewriter.from_device(connect(level, will="a"))
    assert ("dev", "id", level) == (rewriter.seen.username, rewriter.seen.client_id, rewriter.seen.level)


@pytest.mark.parametrize(
    ("level", "first", "head"),
    [(4, 0x30, b""), (4, 0x32, b"\x00\x07"), (5, 0x30, b"\x00"), (5, 0x3B, b"\x00\x07\x02\x01\x01")],
)
def test_what_is_published_gets_the_prefix_and_what_is_delivered_loses_it(level, first, head):
    rewriter = connected(level)
    plain, prefixed = (packet(first, text(topic) + head + b"payload") for topic in ("a/b", "tb/dev/a/b"))
    assert prefixed == rewriter.from_device(plain)
    assert (plain, b"") == rewriter.from_broker(prefixed)


def test_a_topic_that_an_alias_stands_for_is_left_alone():
    published = packet(0x30, text("") + b"\x03\x23\x00\x01" + b"payload")
    assert published == connected(5).from_device(published)


@pytest.mark.parametrize(("level", "properties"), [(4, b""), (5, b"\x00")])
def test_filters_are_widened_and_get_the_prefix(level, properties):
    rewriter = connected(level)
    head = b"\x00\x01" + properties
    asked = packet(0x82, head + text("v2/fw/response/+") + b"\x01" + text("x") + b"\x00")
    sent = packet(0x82, head + text("tb/dev/v2/fw/response/+/chunk/+") + b"\x01" + text("tb/dev/x") + b"\x00")
    assert sent == rewriter.from_device(asked)
    asked = packet(0xA2, head + text("v2/fw/response/+") + text("x"))
    sent = packet(0xA2, head + text("tb/dev/v2/fw/response/+/chunk/+") + text("tb/dev/x"))
    assert sent == rewriter.from_device(asked)


@pytest.mark.parametrize(("level", "properties"), [(4, b""), (5, b"\x00")])
def test_subscriptions_are_added_after_the_welcome_and_their_answer_is_kept(level, properties):
    rewriter = connected(level, Mapping(prefix=lambda seen: "p/", added=[("a/+", 0), ("b", 1)]))
    welcome = packet(0x20, b"\x00\x00" + properties)
    added = packet(0x82, b"\xff\xff" + properties + text("p/a/+") + b"\x00" + text("p/b") + b"\x01")
    assert (welcome, added) == rewriter.from_broker(welcome)
    kept, passed = (packet(0x90, number + properties + b"\x00") for number in (b"\xff\xff", b"\x00\x01"))
    assert (passed, b"") == rewriter.from_broker(kept + passed)
    refused = packet(0x20, b"\x00\x05" + properties)
    assert (refused, b"") == rewriter.from_broker(refused)


def test_packets_may_come_in_any_pieces():
    rewriter = Rewriter(WIDER)
    long = b"x" * 300
    body = text("t") + long
    sent = connect(4) + b"\x30" + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body
    got = b"".join(rewriter.from_device(sent[i : i + 1]) for i in range(len(sent)))
    assert got.startswith(connect(4))
    assert got.endswith(text("tb/dev/t") + long)


def test_meddling_loses_doubles_and_changes_what_is_delivered():
    answers = {b"lose": [], b"double": [b"double"] * 2, b"change": [b"other"]}
    seen = []

    def meddle(delivery):
        seen.append(delivery)
        return answers[delivery.payload]

    rewriter = Rewriter(WIDER, meddle)
    rewriter.from_device(connect(4))
    sent = b"".join(packet(0x30, text("tb/dev/t") + payload) for payload in answers)
    expected = b"".join(packet(0x30, text("t") + payload) for payload in (b"double", b"double", b"other"))
    assert (expected, b"") == rewriter.from_broker(sent)
    assert Delivery(topic="t", payload=b"lose", to_device=True, seen=rewriter.seen) == seen[0]


@pytest.mark.mosquitto
@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_a_client_behind_it_meets_one_before_the_broker(mosquitto, version):  # noqa: F811
    mapping = Mapping(prefix=WIDER.prefix, added=[("down/#", 0)])
    async with (
        Front(mosquitto.port, mapping) as front,
        client(mosquitto.address) as server,
        aiomqtt.Client(HOST, front.port, username="dev", protocol=version, timeout=10) as device,
        asyncio.timeout(10),
    ):
        await server.subscribe("tb/+/up/#")
        await device.publish("up/1", b"hello", qos=1)
        message = await anext(server.messages)
        assert ("tb/dev/up/1", b"hello") == (message.topic.value, message.payload)
        await server.publish("tb/other/down/1", b"not for you")
        await server.publish("tb/dev/down/1", b"for you")
        message = await anext(device.messages)
        assert ("down/1", b"for you") == (message.topic.value, message.payload)
        assert (1, 1) == (front.published["up/1"], front.delivered["down/1"])


@pytest.mark.mosquitto
async def test_a_cut_is_seen_by_the_device(mosquitto):  # noqa: F811
    async with Front(mosquitto.port, WIDER) as front, asyncio.timeout(10):
        address = BrokerAddress(host=HOST, port=front.port)
        with pytest.raises(aiomqtt.MqttError):
            async with client(address) as device:
                front.cut()
                await anext(device.messages)
        assert 1 == front.connects
