"""The embedded broker with real clients: what amqtt gets wrong by itself, and that our subclass still reaches it."""

import asyncio
import contextlib
import importlib.metadata
import logging
import socket

import pytest
import uvloop
from brokers import HOST, client, eventually, free_port, received_until, running

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt import embedded_amqtt
from ota_bridge.mqtt.control import ControlLink, Incoming
from ota_bridge.mqtt.embedded import EmbeddedBroker
from ota_bridge.wire import BrokerAddress, MqttMessage, Subscription


@contextlib.asynccontextmanager
async def embedded_on(port: int = 0, **options):
    broker = EmbeddedBroker(**options)
    await broker.start(HOST, port)
    try:
        yield broker
    finally:
        await broker.stop()


def address(broker: EmbeddedBroker) -> BrokerAddress:
    return BrokerAddress(host=HOST, port=broker.port)


def connect_packet(client_id: bytes, *, keepalive_s: int = 60, clean: bool = True) -> bytes:
    body = b"\x00\x04MQTT\x04" + bytes([2 * clean]) + keepalive_s.to_bytes(2, "big")
    body += len(client_id).to_bytes(2, "big") + client_id
    return bytes([0x10, len(body)]) + body


def subscribe_packet(topic_filter: bytes, qos: int) -> bytes:
    body = b"\x00\x01" + len(topic_filter).to_bytes(2, "big") + topic_filter + bytes([qos])
    return bytes([0x82, len(body)]) + body


async def raw_client(broker: EmbeddedBroker, packet: bytes, answer: bytes | None = b"\x20\x02\x00\x00"):
    reader, writer = await asyncio.open_connection(HOST, broker.port)
    writer.write(packet)
    if answer is not None:
        assert await reader.readexactly(len(answer)) == answer
    return reader, writer


def make_link(broker: EmbeddedBroker, on_message, *, client_id: str = "bridge-control") -> ControlLink:
    return ControlLink(
        address(broker),
        client_id=client_id,
        subscriptions=[Subscription(topic_filter="$ota/report/+/+", qos=1)],
        will=MqttMessage(topic="$ota/state/bridge", payload=b"down", qos=1, retain=True),
        on_message=on_message,
        on_state=lambda up: None,
        backoff_max_s=0.1,
    )


def test_amqtt_is_the_version_whose_internals_the_subclass_knows():
    assert importlib.metadata.version("amqtt") == "0.12.1"


# --- messages ---


@pytest.mark.parametrize("published", [0, 1])
@pytest.mark.parametrize("granted", [0, 1])
async def test_topics_below_the_root_travel_with_the_lower_of_the_two_qualities(published, granted):
    async with embedded_on() as broker, client(address(broker)) as device, client(address(broker)) as bridge:
        await bridge.subscribe("$ota/report/+/+", granted)
        await device.publish("$ota/report/p/d", b"report", published)
        message = await anext(aiter(bridge.messages))
        assert (message.topic.value, message.payload, message.qos) == (
            "$ota/report/p/d",
            b"report",
            min(published, granted),
        )
        assert message.retain is False


@pytest.mark.parametrize(
    ("topic_filter", "wanted"),
    [
        ("$ota/report/p/d", True),
        ("$ota/report/+/+", True),
        ("$ota/#", True),
        ("$ota/report/p/d/#", True),
        ("$ota/+/p/d", True),
        ("$ota/report/+", False),
        ("$ota/report/p/d/+", False),
        ("+/report/p/d", False),
        ("#", False),
    ],
)
async def test_filters_match_as_the_standard_says(topic_filter, wanted):
    async with embedded_on() as broker, client(address(broker)) as one:
        await one.subscribe([(topic_filter, 0), ("marker", 0)])
        await one.publish("$ota/report/p/d", b"report", 0)
        await one.publish("marker", b"last", 0)
        expected = [("$ota/report/p/d", b"report")] if wanted else []
        assert await received_until(one, b"last") == [*expected, ("marker", b"last")]


async def test_other_topics_that_begin_with_a_dollar_are_dropped_and_the_client_stays():
    async with embedded_on() as broker, client(address(broker)) as one:
        await one.subscribe([("$SYS/#", 0), ("$otaku/#", 0), ("$ota/#", 0)])
        for topic in ("$SYS/broker/load", "$otaku/x", "$other"):
            await one.publish(topic, b"refused", 1)
        await one.publish("$ota/x", b"last", 1)
        assert await received_until(one, b"last") == [("$ota/x", b"last")]
        assert broker.counters.refused == 3


async def test_another_root_can_be_chosen():
    async with embedded_on(root="$fleet") as broker, client(address(broker)) as one:
        await one.subscribe([("$fleet/#", 0), ("$ota/#", 0)])
        await one.publish("$ota/x", b"refused", 1)
        await one.publish("$fleet/x", b"last", 1)
        assert await received_until(one, b"last") == [("$fleet/x", b"last")]


async def test_a_retained_message_meets_later_subscribers_until_it_is_cleared():
    async with embedded_on() as broker, client(address(broker)) as bridge:
        await bridge.publish("$ota/state/bridge", b"up", 1, retain=True)
        async with client(address(broker)) as operator:
            await operator.subscribe("$ota/state/#", 1)
            message = await anext(aiter(operator.messages))
            assert (message.payload, message.retain) == (b"up", True)
        await bridge.publish("$ota/state/bridge", b"", 1, retain=True)
        async with client(address(broker)) as operator:
            await operator.subscribe("$ota/state/#", 1)
            await bridge.publish("$ota/state/x", b"last", 1)
            assert await received_until(operator, b"last") == [("$ota/state/x", b"last")]


@pytest.mark.parametrize("qos", [0, 1])
async def test_two_thousand_messages_arrive_in_order(qos):
    got: list[bytes] = []
    async with embedded_on() as broker:
        link = make_link(broker, lambda incoming: (got.append(incoming.message.payload), link.ack(incoming.token)))
        async with running(link.run()):
            await link.wait_connected()
            sent = [b"%d" % number for number in range(2_000)]
            for payload in sent:
                assert link.publish(MqttMessage(topic="$ota/report/p/d", payload=payload, qos=qos))
            await eventually(lambda: len(got) == len(sent))
            assert got == sent
    assert broker.counters.dropped == 0


async def test_a_message_of_100_kb_arrives_whole():
    payload = bytes(range(256)) * 400
    async with embedded_on() as broker, client(address(broker)) as one:
        await one.subscribe("$ota/block/p/d", 0)
        await one.publish("$ota/block/p/d", payload, 0)
        assert await received_until(one, payload) == [("$ota/block/p/d", payload)]


async def test_subscriptions_during_a_storm_lose_no_message():
    async with embedded_on() as broker, client(address(broker)) as source, client(address(broker)) as reader:
        await reader.subscribe("$ota/event/+/+", 0)

        async def storm() -> None:
            for number in range(1_500):
                await source.publish("$ota/event/p/d", b"%d" % number, number % 2)

        async def come_and_go() -> None:
            for number in range(30):
                async with client(address(broker)) as visitor:
                    await visitor.subscribe([(f"$ota/event/p/{number}", 0), (f"$ota/+/p/{number}", 1)])
                    await visitor.unsubscribe(f"$ota/+/p/{number}")

        async with asyncio.TaskGroup() as group:
            group.create_task(storm())
            group.create_task(come_and_go())
            found = await received_until(reader, b"1499", within_s=20)
        assert [payload for _, payload in found] == [b"%d" % number for number in range(1_500)]


async def test_a_subscriber_that_vanishes_does_not_disturb_the_publisher(caplog):
    async with embedded_on() as broker, client(address(broker)) as source, client(address(broker)) as reader:
        await reader.subscribe("$ota/event/+/+", 1)
        for number in range(20):
            _, writer = await raw_client(
                broker, connect_packet(b"v%d" % number) + subscribe_packet(b"$ota/event/#", number % 2)
            )
            await source.publish("$ota/event/p/d", b"x", 1)
            writer.transport.abort()
            await source.publish("$ota/event/p/d", b"y", 1)
        await source.publish("$ota/event/p/d", b"last", 1)
        assert len(await received_until(reader, b"last")) == 41
    assert [each for each in caplog.records if each.levelno > logging.WARNING] == []


async def test_what_a_client_does_not_read_is_bounded_and_the_others_get_theirs():
    async with (
        embedded_on(max_buffered_bytes=200_000) as broker,
        client(address(broker)) as source,
        client(address(broker)) as reader,
    ):
        _, stuck = await raw_client(broker, connect_packet(b"stuck") + subscribe_packet(b"$ota/block/#", 0))
        stuck.transport.pause_reading()
        await reader.subscribe("$ota/block/p/d", 0)
        block = bytes(16_384)
        for number in range(1_000):
            await source.publish("$ota/block/p/d", block + b"%d" % number, 0)
            await received_until(reader, block + b"%d" % number)
        assert broker.counters.dropped > 0
        stuck.transport.abort()


# --- connections ---


@pytest.mark.parametrize("clean", [True, False])
async def test_a_new_connection_of_a_client_ends_the_old_one_and_receives(clean):
    async with embedded_on() as broker, client(address(broker)) as source:
        packet = connect_packet(b"d1", clean=clean) + subscribe_packet(b"$ota/update/p/d1", 0)
        first, first_writer = await raw_client(broker, packet, b"\x20\x02\x00\x00\x90\x03\x00\x01\x00")
        for _ in range(3):
            second, second_writer = await raw_client(broker, packet, None)
            connack = await asyncio.wait_for(second.readexactly(9), 5)
            assert connack == bytes([0x20, 2, 0 if clean else 1, 0, 0x90, 3, 0, 1, 0])
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(first.read(), 5) == b""
            first_writer.close()
            await source.publish("$ota/update/p/d1", b"offer", 1)
            assert await asyncio.wait_for(second.readexactly(25), 5) == b"\x30\x17\x00\x10$ota/update/p/d1offer"
            first, first_writer = second, second_writer
        first_writer.close()


async def test_reports_for_a_link_that_is_away_wait_for_it():
    got: list[Incoming] = []
    async with embedded_on() as broker:
        link = make_link(broker, lambda incoming: (got.append(incoming), link.ack(incoming.token)))
        async with running(link.run()):
            await link.wait_connected()
        async with client(address(broker)) as device:
            for number in range(10):
                await device.publish("$ota/report/p/d", b"%d" % number, 1)
        # amqtt's monitor looks each second and removes what it takes for gone: this one, and not the link's
        await eventually(lambda: list(broker._broker._sessions) == ["bridge-control"])
        async with running(link.run()):
            await eventually(lambda: len(got) == 10)
        assert sorted(each.message.payload for each in got) == [b"%d" % number for number in range(10)]


async def test_a_link_that_is_cut_publishes_its_will_and_comes_back():
    async with embedded_on() as broker, client(address(broker)) as operator:
        await operator.subscribe("$ota/state/bridge", 1)
        link = make_link(broker, lambda incoming: None)
        async with running(link.run()):
            await link.wait_connected()
            link._connection._transport.abort()
            assert await received_until(operator, b"down") == [("$ota/state/bridge", b"down")]
            await eventually(lambda: link.counters.connects == 2)


async def test_a_client_that_falls_silent_is_cut_off():
    async with embedded_on() as broker:
        reader, writer = await raw_client(broker, connect_packet(b"silent", keepalive_s=1))
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_connection_without_connect_is_cut_off(monkeypatch):
    monkeypatch.setattr(embedded_amqtt, "_CONNECT_WAIT_S", 0.2)
    async with embedded_on() as broker:
        reader, writer = await raw_client(broker, connect_packet(b"half")[:7], None)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_connections_above_the_limit_are_turned_away_and_the_others_stay():
    async with (
        embedded_on(max_connections=3) as broker,
        client(address(broker)) as one,
        client(address(broker)),
        client(address(broker)),
    ):
        reader, writer = await asyncio.open_connection(HOST, broker.port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert broker.counters.turned_away == 1
        await one.subscribe("$ota/x", 0)
        await one.publish("$ota/x", b"1", 0)
        assert await received_until(one, b"1") == [("$ota/x", b"1")]


async def test_a_message_to_a_wildcard_reaches_nobody():
    async with embedded_on() as broker, client(address(broker)) as one:
        await one.subscribe("$ota/#", 0)
        _, writer = await raw_client(broker, connect_packet(b"bad") + b"\x30\x08\x00\x06$ota/+" + b"\xc0\x00", None)
        await writer.drain()
        await one.publish("$ota/x", b"1", 0)
        assert await received_until(one, b"1") == [("$ota/x", b"1")]
        writer.close()


async def test_a_packet_above_the_limit_ends_its_sender():
    async with embedded_on() as broker:
        reader, writer = await raw_client(broker, connect_packet(b"big") + b"\x30\xff\xff\xff\x7f\x00\x01x")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_probe_of_the_port_is_no_news(caplog):
    async with embedded_on() as broker:
        for _ in range(3):
            _, writer = await raw_client(broker, b"", None)
            writer.close()
            await writer.wait_closed()
        async with client(address(broker)):
            pass
    assert [each.name for each in caplog.records] == ["ota_bridge.mqtt.embedded"]


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 20, b"\x10\xff\xff\xff\xff\x7f", b"\x10\x02\xff\xff", b""]
)
async def test_garbage_hurts_nobody_else(garbage, caplog):
    async with embedded_on() as broker, client(address(broker)) as one:
        _, writer = await raw_client(broker, garbage, None)
        await writer.drain()
        writer.close()
        await one.subscribe("$ota/x", 0)
        await one.publish("$ota/x", b"1", 0)
        assert await received_until(one, b"1") == [("$ota/x", b"1")]
    assert not any(each.exc_info for each in caplog.records)


# --- start and stop ---


@pytest.mark.parametrize("stop_s", [embedded_amqtt._STOP_S, 0.0], ids=["in time", "abandoned"])
async def test_it_stops_in_bounded_time_with_fifty_clients_of_every_kind(monkeypatch, caplog, stop_s):
    monkeypatch.setattr(embedded_amqtt, "_STOP_S", stop_s)
    broker = EmbeddedBroker(max_buffered_bytes=1 << 20)
    await broker.start(HOST, 0)
    writers = []
    for number in range(48):
        _, writer = await raw_client(
            broker, connect_packet(b"d%d" % number) + subscribe_packet(b"$ota/block/#", number % 2)
        )
        writer.transport.pause_reading()
        writers.append(writer)
    writers.append((await raw_client(broker, b"\x10", None))[1])
    async with client(address(broker)) as source:
        for _ in range(200):
            await source.publish("$ota/block/p/d", bytes(16_384), 1)
    try:
        await asyncio.wait_for(broker.stop(), 30)
    finally:
        for writer in writers:
            writer.transport.abort()
    assert [] == [record for record in caplog.records if record.name == "asyncio"]
    assert [task.get_name() for task in asyncio.all_tasks() if "embedded" in task.get_name()] == []
    assert len(asyncio.all_tasks()) == 1


async def test_it_starts_again_on_the_same_port_without_old_sessions():
    port = free_port()
    for _ in range(2):
        async with embedded_on(port) as broker, client(address(broker)) as one:
            assert broker.port == port
            await one.subscribe("$ota/#", 0)
            await one.publish("$ota/state/x", b"up", 1, retain=True)
            assert await received_until(one, b"up") == [("$ota/state/x", b"up")]


async def test_a_port_in_use_is_one_sentence(caplog):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: Address already in use"):
            await EmbeddedBroker().start(HOST, port)
    assert caplog.records == []


async def test_it_warns_once_on_loopback_and_says_nothing_else(caplog):
    caplog.set_level(logging.INFO)
    async with embedded_on() as broker, client(address(broker)) as one:
        await one.subscribe("$ota/#", 1)
        await one.publish("$ota/x", b"1", 1)
        await received_until(one, b"1")
    logged = [
        (each.name, each.levelname)
        for each in caplog.records
        if each.name.startswith(("ota_bridge", "amqtt", "transitions"))
    ]
    assert logged == [("ota_bridge.mqtt.embedded", "WARNING")]


async def test_it_warns_that_anybody_may_publish_where_it_is_reachable_from_outside(caplog):
    broker = EmbeddedBroker()
    await broker.start("0.0.0.0", 0)
    await broker.stop()
    assert "anybody who reaches it" in caplog.text


async def test_stopping_twice_or_before_the_start_does_nothing():
    broker = EmbeddedBroker()
    await broker.stop()
    await broker.start(HOST, 0)
    await broker.stop()
    await broker.stop()
    assert broker.port == 0


async def test_nagle_is_off_for_its_clients():
    async with embedded_on() as broker, client(address(broker)):
        writers = list(broker._broker._open.values())
        values = [
            w._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for w in writers
        ]
        assert values == [1]


def test_it_lives_beside_the_control_link_on_uvloop():
    got: list[bytes] = []

    async def main() -> None:
        async with embedded_on() as broker, client(address(broker)) as device:
            link = make_link(broker, lambda incoming: (got.append(incoming.message.payload), link.ack(incoming.token)))
            async with running(link.run()):
                await link.wait_connected()
                await device.subscribe("$ota/update/p/d", 1)
                for number in range(200):
                    await device.publish("$ota/report/p/d", b"%d" % number, 1)
                await eventually(lambda: len(got) == 200)
                link.publish(MqttMessage(topic="$ota/update/p/d", payload=b"offer", qos=1))
                assert await received_until(device, b"offer") == [("$ota/update/p/d", b"offer")]
                for number in range(10):
                    _, writer = await raw_client(
                        broker, connect_packet(b"v%d" % number) + subscribe_packet(b"$ota/report/#", 0)
                    )
                    writer.transport.abort()
                    await device.publish("$ota/report/p/d", b"more", 1)
                await eventually(lambda: len(got) == 210)

    uvloop.run(main())
    assert got[:200] == [b"%d" % number for number in range(200)]


async def test_topics_that_begin_with_a_dollar_are_carried_below_the_roots_that_are_named_and_no_others():
    async with embedded_on(roots=["$aws"]) as broker, client(address(broker)) as one:
        await one.subscribe([("$aws/things/+/jobs", 0), ("$other/#", 0), ("marker", 0)])
        await one.publish("$aws/things/d1/jobs", b"job", 0)
        await one.publish("marker", b"last", 0)
        assert [("$aws/things/d1/jobs", b"job"), ("marker", b"last")] == await received_until(one, b"last")
        await one.publish("$other/x", b"not carried", 0)
