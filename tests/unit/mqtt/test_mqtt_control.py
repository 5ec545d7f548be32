"""ControlLink against a scripted broker: what real brokers rarely do, byte for byte."""

import asyncio
import contextlib
import logging
import random
import socket
import time

import pytest
from brokers import HOST, eventually, free_port, running

from ota_bridge.mqtt import control_connection
from ota_bridge.mqtt.control import AckToken, ControlLink, Incoming
from ota_bridge.wire import BrokerAddress, MqttMessage, Subscription, TlsFiles

CONNACK = b"\x20\x02\x00\x00"
REPORTS = Subscription(topic_filter="$ota/report/+/+", qos=1)


def publish(topic: bytes, payload: bytes, *, mid: int = 0, qos: int = 0) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if qos else b"") + payload
    assert len(body) < 128
    return bytes([0x30 | qos << 1, len(body)]) + body


class ScriptedBroker:
    """Answers CONNECT and SUBSCRIBE as told, and keeps every packet it is sent."""

    def __init__(self, *, connack: bytes = CONNACK, suback: bytes | None = b"\x01", puback: bool = True) -> None:
        self.connack, self.suback, self.puback = connack, suback, puback
        self.packets: list[tuple[int, bytes]] = []
        self.connections: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self.connections:
            writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress(host=HOST, port=self.port)

    def of_type(self, kind: int) -> list[bytes]:
        return [body for first, body in self.packets if first >> 4 == kind]

    def send(self, packet: bytes) -> None:
        self.connections[-1].write(packet)

    async def _serve(self, reader, writer):
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, length = await reader.readexactly(2)
                if length & 0x80:
                    length = (length & 0x7F) + ((await reader.readexactly(1))[0] << 7)
                body = await reader.readexactly(length)
                self.packets.append((first, body))
                writer.write(self._answer(first, body))
        writer.close()

    def _answer(self, first: int, body: bytes) -> bytes:
        match first >> 4:
            case 1:
                return self.connack
            case 8 if self.suback is not None:
                return bytes([0x90, 2 + len(self.suback)]) + body[:2] + self.suback
            case 3 if first & 2 and self.puback:
                size = int.from_bytes(body[:2], "big")
                return b"\x40\x02" + body[2 + size : 4 + size]
            case 12:
                return b"\xd0\x00"
        return b""


class Recorder:
    """A link with everything that it tells its owner."""

    def __init__(self, address: BrokerAddress, **options) -> None:
        self.incoming: list[Incoming] = []
        self.states: list[bool] = []
        self.raises: Exception | None = None
        arguments = {"client_id": "bridge-control", "subscriptions": [REPORTS], "will": None, "backoff_max_s": 0.05}
        self.link = ControlLink(
            address,
            on_message=self._on_message,
            on_state=self.states.append,
            rng=random.Random(1),
            **(arguments | options),
        )

    def _on_message(self, incoming: Incoming) -> None:
        self.incoming.append(incoming)
        if self.raises is not None:
            raise self.raises


@contextlib.asynccontextmanager
async def connected(broker: ScriptedBroker, **options):
    recorder = Recorder(broker.address, **options)
    async with running(recorder.link.run()):
        async with asyncio.timeout(5):
            await recorder.link.wait_connected()
        yield recorder


async def test_it_asks_for_a_kept_session_with_its_will_and_subscriptions():
    will = MqttMessage(topic="$ota/state/bridge", payload=b"down", qos=1, retain=True)
    async with ScriptedBroker() as broker, connected(broker, will=will, keepalive_s=30):
        connect = broker.of_type(1)[0]
        assert connect[:10] == b"\x00\x04MQTT\x04\x2c\x00\x1e"  # will retained at QoS 1; the clean flag is not set
        assert broker.of_type(8)[0][2:] == b"\x00\x0f$ota/report/+/+\x01"


async def test_it_is_connected_only_when_the_subscription_is_granted():
    async with ScriptedBroker(suback=None) as broker:
        recorder = Recorder(broker.address)
        async with running(recorder.link.run()):
            await eventually(lambda: broker.of_type(8))
            assert (recorder.link.connected, recorder.states) == (False, [])
            mid = broker.of_type(8)[0][:2]
            broker.send(b"\x90\x03" + mid + b"\x01")
            await asyncio.wait_for(recorder.link.wait_connected(), 5)
        assert recorder.states == [True, False]


async def test_a_message_is_acknowledged_by_ack_and_not_before():
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        broker.send(publish(b"$ota/report/p/d", b"1", mid=7, qos=1))
        broker.send(publish(b"$ota/report/p/d", b"2", mid=8, qos=1))
        await eventually(lambda: len(recorder.incoming) == 2)
        recorder.link.ack(recorder.incoming[1].token)
        await eventually(lambda: broker.of_type(4))
        assert broker.of_type(4) == [b"\x00\x08"]
        assert recorder.incoming[0].message == MqttMessage(topic="$ota/report/p/d", payload=b"1", qos=1)


async def test_a_qos_0_message_needs_no_ack():
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        broker.send(publish(b"$ota/report/p/d", b"1"))
        await eventually(lambda: recorder.incoming)
        recorder.link.ack(recorder.incoming[0].token)
        assert (recorder.link.counters.acked, recorder.link.counters.stale_acks) == (0, 0)


async def test_an_ack_of_an_earlier_connection_is_dropped_though_its_packet_id_is_in_use_again():
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        broker.send(publish(b"$ota/report/p/d", b"old", mid=1, qos=1))
        await eventually(lambda: recorder.incoming)
        broker.connections[-1].transport.abort()
        await eventually(lambda: recorder.states == [True, False, True])
        broker.send(publish(b"$ota/report/p/e", b"new", mid=1, qos=1))
        await eventually(lambda: len(recorder.incoming) == 2)
        old, new = (each.token for each in recorder.incoming)
        assert (old.mid, new.mid) == (1, 1)
        recorder.link.ack(old)
        assert recorder.link.publish(MqttMessage(topic="$ota/event/p/d", payload=b"marker"))
        await eventually(lambda: broker.of_type(3))
        assert broker.of_type(4) == []
        assert recorder.link.counters.stale_acks == 1
        recorder.link.ack(new)
        await eventually(lambda: broker.of_type(4) == [b"\x00\x01"])


async def test_an_ack_while_the_link_is_down_is_dropped_and_counted():
    link = Recorder(BrokerAddress(host=HOST, port=1)).link
    link.ack(AckToken(generation=0, mid=1, qos=1))
    assert link.counters.stale_acks == 1


async def test_a_topic_that_is_not_utf_8_is_dropped_acknowledged_and_does_not_end_the_link(caplog):
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        broker.send(publish(b"$ota/report/\xff/d", b"x", mid=3, qos=1))
        broker.send(publish(b"$ota/report/p/d", b"y", mid=4, qos=1))
        await eventually(lambda: recorder.incoming)
        await eventually(lambda: broker.of_type(4))
        assert [each.message.payload for each in recorder.incoming] == [b"y"]
        assert (broker.of_type(4), recorder.link.counters.bad_topics) == ([b"\x00\x03"], 1)
        assert recorder.link.counters.failures == 0


async def test_what_on_message_raises_is_logged_counted_and_not_acknowledged(caplog):
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        recorder.raises = RuntimeError("the store is closed")
        broker.send(publish(b"$ota/report/p/d", b"x", mid=3, qos=1))
        broker.send(publish(b"$ota/report/p/d", b"y", mid=4, qos=1))
        await eventually(lambda: len(recorder.incoming) == 2)
        assert (recorder.link.counters.handler_errors, recorder.link.connected) == (2, True)
        recorder.raises = None
        broker.send(publish(b"$ota/report/p/d", b"z", mid=5, qos=1))
        await eventually(lambda: len(recorder.incoming) == 3)
        recorder.link.ack(recorder.incoming[-1].token)
        await eventually(lambda: broker.of_type(4))
        assert broker.of_type(4) == [b"\x00\x05"]
    assert "stays unacknowledged" in caplog.text


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x30\x03\xff\xff\x00",  # a topic longer than its packet
        b"\x30\xff\xff\xff\xff\xff",  # a length of five bytes
        b"\x32\x04\x00\x01a\x00",  # half a packet id
        b"\x30\x02\x00\x00",  # an empty topic
        b"\xf0\x00",  # a reserved packet type
    ],
)
async def test_bytes_that_are_not_mqtt_end_the_connection_and_another_is_made(nonsense, caplog):
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        broker.send(nonsense)
        await eventually(lambda: recorder.states == [True, False, True])
        assert recorder.link.counters.failures == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"connack": b"\x20\x02\x00\x05"}, "refused the connection: not authorized"),
        ({"connack": b"\x20\x02\x00\x04"}, "refused the connection: bad user name or password"),
        ({"connack": b"HTTP/1.1 400 Bad Request\r\n" + b"-" * 99}, "next attempt in"),
        ({"suback": b"\x80"}, "refused the subscription to $ota/report/+/+"),
    ],
)
async def test_a_refusal_is_one_warning_sentence_and_tried_again(options, sentence, caplog):
    async with ScriptedBroker(**options) as broker:
        recorder = Recorder(broker.address)
        async with running(recorder.link.run()):
            await eventually(lambda: recorder.link.counters.failures >= 2)
        assert (recorder.states, recorder.link.connected) == ([], False)
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert sentence in warnings[0].getMessage()
    assert str(broker.port) in warnings[0].getMessage()
    assert {each.name for each in warnings} == {"ota_bridge.mqtt.control"}
    assert not any(each.exc_info for each in warnings)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (BrokerAddress(host=HOST, port=1), "Connection refused"),
        (BrokerAddress(host="no-such-host.invalid", port=1883), "cannot connect to mqtt://no-such-host.invalid:1883"),
        (BrokerAddress(host="\u0130" * 70, port=1883), "cannot connect to"),
    ],
)
async def test_a_broker_out_of_reach_is_one_warning_sentence(address, sentence, caplog):
    recorder = Recorder(address)
    async with running(recorder.link.run()):
        await eventually(lambda: recorder.link.counters.failures >= 1)
    assert sentence in caplog.text


async def test_a_missing_ca_file_is_one_warning_sentence(tmp_path, caplog):
    files = TlsFiles(ca=tmp_path / "absent.crt")
    recorder = Recorder(BrokerAddress(host=HOST, port=free_port(), tls=files))
    async with running(recorder.link.run()):
        await eventually(lambda: recorder.link.counters.failures >= 1)
    assert "No such file or directory" in caplog.text


async def test_cancelling_while_the_broker_says_nothing_ends_at_once():
    with socket.create_server((HOST, 0)) as silent:
        recorder = Recorder(BrokerAddress(host=HOST, port=silent.getsockname()[1]))
        task = asyncio.create_task(recorder.link.run())
        peer, _ = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
        with peer:
            task.cancel()
            async with asyncio.timeout(1):
                await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_cancelling_sends_what_is_queued_and_disconnects_cleanly():
    broker = ScriptedBroker()
    async with broker:
        async with connected(broker) as recorder:
            for number in range(500):
                assert recorder.link.publish(
                    MqttMessage(topic="$ota/event/p/d", payload=b"%d" % number, qos=number % 2)
                )
        await eventually(lambda: broker.of_type(14))
        assert len(broker.of_type(3)) == 500
        assert (recorder.states, recorder.link.counters.unconfirmed) == ([True, False], 0)


async def test_cancelling_does_not_wait_longer_than_half_a_second_for_a_broker_that_does_not_confirm():
    async with ScriptedBroker(puback=False) as broker:
        async with connected(broker) as recorder:
            recorder.link.publish(MqttMessage(topic="$ota/update/p/d", payload=b"offer", qos=1))
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 1.0
        assert recorder.link.counters.unconfirmed == 1


async def test_the_outgoing_queue_is_bounded_and_what_is_refused_is_counted():
    async with ScriptedBroker(puback=False) as broker, connected(broker, max_queued=300) as recorder:
        offer = MqttMessage(topic="$ota/update/p/d", payload=b"offer", qos=1)
        assert [recorder.link.publish(offer) for _ in range(302)] == [True] * 300 + [False] * 2
        assert recorder.link.counters.dropped_full == 2


async def test_a_message_is_refused_while_the_link_is_down():
    link = Recorder(BrokerAddress(host=HOST, port=1)).link
    assert link.publish(MqttMessage(topic="$ota/event/p/d", payload=b"")) is False
    assert link.counters.dropped_down == 1


@pytest.mark.parametrize(
    "message",
    [
        MqttMessage(topic="$ota/event/p/d", payload=b"", qos=2),
        MqttMessage(topic="", payload=b""),
        MqttMessage(topic="$ota/update/+/d", payload=b""),
        MqttMessage(topic="$ota/#", payload=b""),
    ],
)
async def test_a_message_that_mqtt_cannot_carry_is_the_callers_mistake(message):
    link = Recorder(BrokerAddress(host=HOST, port=1)).link
    with pytest.raises(ValueError, match=r"QoS 2|not a topic"):
        link.publish(message)


async def test_messages_keep_their_order_beyond_the_window_of_what_is_in_flight():
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        sent = [b"%04d" % number for number in range(1_000)]
        for payload in sent:
            assert recorder.link.publish(MqttMessage(topic="t", payload=payload, qos=1))
        await eventually(lambda: len(broker.of_type(3)) == 1_000)
        assert [body[-4:] for body in broker.of_type(3)] == sent


async def test_no_packet_id_is_used_again_before_its_puback(monkeypatch):
    monkeypatch.setattr(control_connection, "_IDS", 3)
    async with ScriptedBroker(puback=False) as broker, connected(broker) as recorder:
        for payload in (b"1", b"2", b"3"):
            assert recorder.link.publish(MqttMessage(topic="t", payload=payload, qos=1))
        broker.send(b"\x40\x02\x00\x02")
        await eventually(lambda: recorder.link.queued == 2)
        assert recorder.link.publish(MqttMessage(topic="t", payload=b"4", qos=1))
        await eventually(lambda: len(broker.of_type(3)) == 4)
        assert [body[3:] for body in broker.of_type(3)] == [b"\0\x011", b"\0\x022", b"\0\x033", b"\0\x024"]


async def test_what_a_kept_session_delivers_before_the_suback_can_be_answered():
    async with ScriptedBroker(connack=CONNACK + publish(b"$ota/report/p/d", b"x", mid=9, qos=1)) as broker:
        recorder = Recorder(broker.address)

        def answer(incoming: Incoming) -> None:
            recorder.link.ack(incoming.token)
            assert recorder.link.publish(MqttMessage(topic="$ota/update/p/d", payload=b"ack", qos=1))

        recorder.link._on_message = answer
        async with running(recorder.link.run()):
            await eventually(lambda: broker.of_type(4) and broker.of_type(3))
        assert (broker.of_type(4), recorder.link.counters.handler_errors) == ([b"\x00\x09"], 0)


async def test_the_pause_between_attempts_grows_to_its_limit_with_full_jitter():
    link = Recorder(BrokerAddress(host=HOST, port=1), backoff_max_s=30).link
    for attempt, ceiling_s in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30, 30]):
        pauses = [link._pause_s(attempt) for _ in range(300)]
        assert 0.05 <= min(pauses) < 0.25 * ceiling_s
        assert 0.75 * ceiling_s < max(pauses) <= ceiling_s


async def test_nagle_is_off_on_its_socket():
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        sock = recorder.link._connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_a_handler_of_the_state_that_raises_does_not_end_the_link(caplog):
    async with ScriptedBroker() as broker:
        recorder = Recorder(broker.address)

        def fail(up: bool) -> None:
            raise RuntimeError("no")

        recorder.link._on_state = fail
        async with running(recorder.link.run()):
            await asyncio.wait_for(recorder.link.wait_connected(), 5)
        assert recorder.link.counters.handler_errors == 2


async def test_what_a_broker_does_not_take_waits_bounded_and_goes_out_in_order():
    async with ScriptedBroker(puback=False) as broker, connected(broker, max_queued=50) as recorder:
        broker.connections[-1].transport.pause_reading()
        accepted = 0
        while recorder.link.publish(MqttMessage(topic="t", payload=b"%08d" % accepted + bytes(10_000))):
            accepted += 1
            await asyncio.sleep(0)
            assert accepted < 5_000
        assert recorder.link.queued == 50
        broker.connections[-1].transport.resume_reading()
        await eventually(lambda: len(broker.of_type(3)) == accepted)
        assert [b"%08d" % number for number in range(accepted)] == [body[3:11] for body in broker.of_type(3)]


async def test_a_long_read_is_handed_over_in_turns_with_the_loop(monkeypatch):
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        turns, heard = 0, recorder.incoming
        real = time.monotonic
        monkeypatch.setattr(control_connection.time, "monotonic", lambda: real() + len(heard) * 0.0005)

        def slow(incoming: Incoming) -> None:
            """By the clock of the link it takes half a millisecond."""
            heard.append(incoming)

        recorder.link._on_message = slow
        broker.send(b"".join(publish(b"t", b"%d" % number, mid=number, qos=1) for number in range(1, 201)))
        while len(heard) < 200:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 30
        assert list(range(1, 201)) == [incoming.token.mid for incoming in heard]


async def test_a_puback_that_nobody_waits_for_changes_nothing():
    async with ScriptedBroker() as broker, connected(broker) as recorder:
        broker.send(b"\x40\x02\x12\x34")
        assert recorder.link.publish(MqttMessage(topic="t", payload=b"x", qos=1))
        await eventually(lambda: recorder.link.queued == 0 and broker.of_type(3))
        assert recorder.link.counters.failures == 0


# --- bundles -----------------------------------------------------------------------------------------------------


def messages(count: int, payload: bytes = b"x") -> bytes:
    return b"".join(publish(b"t", payload, mid=number, qos=1) for number in range(1, count + 1))


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def impatient(monkeypatch):
    """A link that soon reads on though a bundle is not done with."""
    monkeypatch.setattr(control_connection, "_TICK_S", 0.01)
    monkeypatch.setattr(control_connection, "BUNDLE_WAIT_S", 0.05)


class Bundles(list):
    """Keeps what a link wants called once a bundle is done with."""

    async def done(self) -> None:
        await eventually(lambda: self)
        self.pop()()


async def test_a_bundle_is_bounded_and_the_next_waits_until_it_is_done_with():
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(450))
        for heard in (200, 400, 450):
            await eventually(lambda: bundles)
            await turns()
            assert (len(recorder.incoming), len(bundles)) == (heard, 1)
            await bundles.done()
        broker.send(messages(1))
        await eventually(lambda: len(recorder.incoming) == 451)
        await bundles.done()


async def test_who_is_done_at_once_or_says_so_twice_gets_every_message_once():
    def twice(then) -> None:
        then()
        then()

    async with ScriptedBroker() as broker, connected(broker, on_bundle=twice) as recorder:
        broker.send(messages(1_000))
        await eventually(lambda: len(recorder.incoming) == 1_000)
        assert list(range(1, 1_001)) == [incoming.token.mid for incoming in recorder.incoming]


async def test_a_puback_does_not_wait_behind_messages():
    bundles = Bundles()
    async with ScriptedBroker(puback=False) as broker, connected(broker, on_bundle=bundles.append) as recorder:
        assert recorder.link.publish(MqttMessage(topic="t", payload=b"x", qos=1))
        await eventually(lambda: broker.of_type(3))
        broker.send(messages(900))
        await eventually(lambda: bundles)
        broker.send(b"\x40\x02\x00\x01")
        for _ in range(2):
            await bundles.done()
        await eventually(lambda: recorder.link.queued == 0)
        assert len(recorder.incoming) < 900


@pytest.mark.usefixtures("impatient")
async def test_a_bundle_that_is_never_done_with_holds_reading_up_for_a_while_only():
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(201))
        await eventually(lambda: len(recorder.incoming) == 201)
        assert len(bundles) >= 1
        bundles[0]()  # late, and of another bundle
        broker.send(messages(1))
        await eventually(lambda: len(recorder.incoming) == 202)


@pytest.mark.usefixtures("impatient")
async def test_a_bundle_that_outlives_its_connection_does_no_harm():
    bundles = Bundles()  # until it reads on, it cannot see the end
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(200))
        await eventually(lambda: bundles)
        broker.connections[-1].transport.abort()
        await eventually(lambda: recorder.states == [True, False, True])
        await bundles.done()
        broker.send(messages(2))
        await eventually(lambda: len(recorder.incoming) == 202)
        await bundles.done()
        assert [2, 2] == [incoming.token.generation for incoming in recorder.incoming[-2:]]


async def test_a_handler_of_bundles_that_raises_does_not_end_the_link(caplog):
    def fail(then) -> None:
        raise RuntimeError("boom")

    async with ScriptedBroker() as broker, connected(broker, on_bundle=fail) as recorder:
        broker.send(messages(500))
        await eventually(lambda: len(recorder.incoming) == 500)
        assert recorder.link.counters.handler_errors == 3
        assert "a bundle of messages was not handled" in caplog.text


async def test_a_broker_that_sends_more_than_is_taken_is_not_read_for_ever(monkeypatch):
    monkeypatch.setattr(control_connection, "UNHEARD_MAX_BYTES", 100_000)
    bundles, payload = Bundles(), bytes(120)
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        connection, most = recorder.link._connection, 0
        broker.send(messages(20_000, payload))
        while len(recorder.incoming) < 20_000:
            await bundles.done()
            await turns(3)
            most = max(most, connection._unheard_bytes)
        a_read = 256 * 1024 // 132 * 523  # uvloop's, of messages of this size, as they are counted
        assert 0 < most < 100_000 + 2 * a_read
        await eventually(lambda: connection._unheard_bytes == 0)


async def test_between_two_bundles_it_reads_once():
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        connection = recorder.link._connection
        broker.send(messages(450))
        await bundles.done()
        await asyncio.sleep(0)
        assert connection._transport.is_reading()
        connection.data_received(messages(1))  # a transport may call it many times in one turn, until it is told
        assert not connection._transport.is_reading()


async def test_one_bundle_is_worked_on_at_a_time():
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(450))
        await bundles.done()
        broker.send(messages(450))  # comes in the read between two bundles
        await turns()
        assert (len(recorder.incoming), len(bundles)) == (400, 1)


async def test_nothing_is_read_while_a_bundle_is_worked_on():
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(1))
        await eventually(lambda: bundles)
        assert not recorder.link._connection._transport.is_reading()


@pytest.mark.usefixtures("impatient")
async def test_a_late_end_of_another_bundle_does_not_end_this_one(monkeypatch):
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(600))
        await eventually(lambda: len(bundles) == 2)
        monkeypatch.setattr(control_connection, "BUNDLE_WAIT_S", 60.0)
        bundles[0]()
        await turns()
        assert len(recorder.incoming) == 400


async def test_what_was_read_before_the_end_is_handed_over_and_then_it_is_at_rest():
    bundles, calls = Bundles(), []
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        connection = recorder.link._connection
        broker.send(b"".join(publish(b"t", b"%d" % number) for number in range(900)))
        broker.connections[-1].close()
        while len(recorder.incoming) < 900:
            await bundles.done()
            await turns(3)
        await bundles.done()
        await eventually(lambda: recorder.states == [True, False, True])
        assert [b"%d" % number for number in range(900)] == [one.message.payload for one in recorder.incoming]
        connection._on_bundle = calls.append
        await turns()
        assert (calls, len(recorder.incoming)) == ([], 900)


async def test_a_bundle_that_is_never_done_with_does_not_keep_the_next_connection_waiting(monkeypatch):
    monkeypatch.setattr(control_connection, "HEAR_OUT_S", 0.05)
    bundles = Bundles()
    async with ScriptedBroker() as broker, connected(broker, on_bundle=bundles.append) as recorder:
        connection = recorder.link._connection
        broker.send(messages(300))
        await eventually(lambda: bundles)
        connection._fail("over")
        await eventually(lambda: recorder.states == [True, False, True])
        await bundles.done()
        await turns()
        assert len(recorder.incoming) == 200


async def test_a_puback_that_may_not_have_been_read_yet_is_not_missed(monkeypatch):
    monkeypatch.setattr(control_connection, "_TICK_S", 0.01)
    monkeypatch.setattr(control_connection, "_PUBACK_WAIT_S", 0.05)
    monkeypatch.setattr(control_connection, "UNHEARD_MAX_BYTES", 1)
    bundles = Bundles()
    async with ScriptedBroker(puback=False) as broker, connected(broker, on_bundle=bundles.append) as recorder:
        broker.send(messages(300))
        await eventually(lambda: bundles)
        connection = recorder.link._connection
        assert recorder.link.publish(MqttMessage(topic="t", payload=b"x", qos=1))
        sent_s = connection._sent_first_s()
        await eventually(lambda: connection._blind_s > sent_s + 0.1)
        assert recorder.link.counters.failures == 0
        for _ in range(2):
            await bundles.done()
        await eventually(lambda: recorder.link.counters.failures)
