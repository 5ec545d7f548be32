"""The block link against a scripted broker on loopback, over asyncio and uvloop."""

import asyncio
import contextlib
import gc
import inspect
import logging
import random
import socket
from contextlib import asynccontextmanager

import pytest
import uvloop

from ota_bridge.core.errors import ConfigError
from ota_bridge.mqtt import blocks, codec
from ota_bridge.mqtt.blocks import BlockLink
from ota_bridge.wire import BrokerAddress, TlsFiles

WITHIN_S = 5.0
CONNACK = b"\x20\x02\x00\x00"
SUBACK = b"\x90\x03\x00\x01\x00"
PINGRESP = b"\xd0\x00"


class Peer:
    """One accepted connection: reads the client's packets with a reader of the test's own."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def packet(self):
        """(first byte, body), or None at the end of the stream."""
        try:
            first = (await self.reader.readexactly(1))[0]
            length, shift = 0, 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return first, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def message(self):
        """The next PUBLISH as (topic, payload); pings are answered on the way."""
        while True:
            packet = await self.packet()
            assert packet is not None, "the link closed the connection"
            first, body = packet
            if first == 0xC0:
                self.writer.write(PINGRESP)
                continue
            assert first == 0x30
            end = 2 + int.from_bytes(body[:2], "big")
            return body[2:end], body[end:]

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def accept(self, *, connack=CONNACK, suback=SUBACK):
        first, _ = await self.packet()
        assert first == 0x10
        await self.send(connack)
        first, body = await self.packet()
        assert (first, body) == (0x82, b"\x00\x01\x00\x05get/#\x00")
        await self.send(suback)

    async def closed(self):
        """Wait until the link closes; True if it said DISCONNECT first."""
        last = None
        while (packet := await self.packet()) is not None:
            last = packet
        return last == (0xE0, b"")

    def cut(self):
        self.writer.transport.abort()


class Broker:
    """Listens; each connection is handed to the test by `peer()`."""

    def __init__(self):
        self._peers = asyncio.Queue()
        self._all = []

    async def start(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader, writer):
        peer = Peer(reader, writer)
        self._all.append(peer)
        self._peers.put_nowait(peer)

    async def peer(self):
        return await self._peers.get()

    async def stop(self):
        self._server.close()
        for peer in self._all:
            peer.cut()
            with contextlib.suppress(OSError):
                await peer.writer.wait_closed()
        await self._server.wait_closed()


@asynccontextmanager
async def serving_broker():
    broker = Broker()
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


def on_both_loops(test):
    """Run an async test on asyncio and on uvloop, for their flow control differs; `broker` is made in the loop."""
    parameters = inspect.signature(test).parameters

    def runs(loop_factory, **given):
        async def body():
            async with asyncio.timeout(4 * WITHIN_S):
                if "broker" not in parameters:
                    return await test(**given)
                async with serving_broker() as broker:
                    return await test(broker=broker, **given)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(body())

    runs.__name__, runs.__doc__ = test.__name__, test.__doc__
    kept = [parameter for name, parameter in parameters.items() if name != "broker"]
    kept.append(inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD))
    runs.__signature__ = inspect.Signature(kept)
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return pytest.mark.parametrize("loop_factory", loops.values(), ids=loops.keys())(runs)


def echo(topic, payload, now_s):
    return [(topic.replace(b"get", b"block", 1), [payload])]


def packets_of(handler):
    """A handler that appends packets, from one that says (topic, pieces)."""

    def handle(topic, payload, now_s, out):
        size = 0
        for where, pieces in handler(topic, payload, now_s):
            size += sum(map(len, pieces))
            out += (codec.publish_head(where, sum(map(len, pieces))), *pieces)
        return size

    return handle


def link_to(broker, handler=echo, **options):
    address = options.pop("address", None) or BrokerAddress(host="127.0.0.1", port=broker.port)
    settings = {"client_id": "blocks", "topic_filter": "get/#", "backoff_max_s": 0.01, "rng": random.Random(1)}
    watch_s = options.pop("watch_s", None)
    link = BlockLink(address, handler=packets_of(handler), **{**settings, **options})
    if watch_s is not None:
        link.keepalive_s = watch_s  # CONNECT speaks whole seconds; the link's own watch need not
    return link


@asynccontextmanager
async def running(link):
    task = asyncio.create_task(link.run(), name="block link under test")
    try:
        yield task
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def publish(topic, payload, *, first=0x30):
    head = codec.publish_head(topic, len(payload))
    return bytes([first]) + head[1:] + payload


async def up(broker, link):
    peer = await broker.peer()
    await peer.accept()
    await link.wait_subscribed()
    return peer


# -- the good case --


@on_both_loops
async def test_connects_with_who_it_is_subscribes_and_answers_in_order(broker):
    address = BrokerAddress(host="127.0.0.1", port=broker.port, username="bridge-blocks", password="pw")
    link = link_to(broker, address=address, keepalive_s=30)
    async with running(link):
        peer = await broker.peer()
        expected = b"\x00\x04MQTT\x04\xc2\x00\x1e\x00\x06blocks\x00\x0dbridge-blocks\x00\x02pw"
        assert (0x10, expected) == await peer.packet()
        await peer.send(CONNACK)
        assert await peer.packet() == (0x82, b"\x00\x01\x00\x05get/#\x00")
        await peer.send(SUBACK)
        await link.wait_subscribed()
        requests = [(b"get/p/%d" % number, b"%d" % number) for number in range(100)]
        await peer.send(b"".join(publish(*request) for request in requests))
        answers = [await peer.message() for _ in requests]
    assert [(topic.replace(b"get", b"block"), payload) for topic, payload in requests] == answers
    counters = link.counters
    assert (100, 1) == (counters.received, counters.connects)


@pytest.mark.parametrize(("requests", "rests"), [(100, True), (1, False)])
@on_both_loops
async def test_where_requests_come_fast_it_rests_after_it_has_answered_and_loses_none(
    broker, monkeypatch, requests, rests
):
    answered_when_rested, answers = [], []
    monkeypatch.setattr(blocks.time, "sleep", lambda seconds: answered_when_rested.append((seconds, link.answered)))
    monkeypatch.setattr(blocks, "RESTS_FROM_PER_S", 2)  # fifty at once are more than two a second, one after 1 s is not
    link = link_to(broker, rest_s=0.25)
    link.answered = 0
    handle = link.handler

    def counted(*request):
        link.answered += 1
        return handle(*request)

    link.handler = counted
    async with running(link):
        peer = await broker.peer()
        await peer.accept()
        await link.wait_subscribed()
        await asyncio.sleep(0)
        answered_when_rested.clear()  # a handshake is fast, too
        link._connection._rested_s = blocks.time.monotonic() - 1.0
        await peer.send(b"".join(publish(b"get/p/1", b"%d" % number) for number in range(requests)))
        answers = [await peer.message() for _ in range(requests)]
    assert [b"%d" % number for number in range(requests)] == [payload for _, payload in answers]
    assert bool(answered_when_rested) is rests
    assert all(seconds == 0.25 and answered > 0 for seconds, answered in answered_when_rested)


@on_both_loops
async def test_requests_in_single_bytes_are_answered_alike(broker):
    link = link_to(broker)
    async with running(link):
        peer = await broker.peer()
        await peer.packet()
        for byte in CONNACK:
            await peer.send(bytes([byte]))
        await peer.packet()
        for byte in SUBACK + publish(b"get/a", b"x" * 200) + publish(b"get/b", b""):
            await peer.send(bytes([byte]))
        assert await peer.message() == (b"block/a", b"x" * 200)
        assert await peer.message() == (b"block/b", b"")


@on_both_loops
async def test_a_request_before_the_suback_is_answered(broker):
    link = link_to(broker)
    async with running(link):
        peer = await broker.peer()
        await peer.packet()
        await peer.send(CONNACK + publish(b"get/a", b"1") + SUBACK + publish(b"get/a", b"2"))
        await peer.packet()
        assert [await peer.message(), await peer.message()] == [(b"block/a", b"1"), (b"block/a", b"2")]


@on_both_loops
async def test_pieces_of_every_kind_become_one_payload_and_one_request_many_answers(broker):
    image = memoryview(bytes(range(256)))

    def handler(topic, payload, now_s):
        for start in range(0, 256, 64):
            yield b"block/a", (b"head", image[start : start + 64], b"")

    async with running(link := link_to(broker, handler)):
        peer = await up(broker, link)
        await peer.send(publish(b"get/a", b"?"))
        answers = [await peer.message() for _ in range(4)]
    assert [(b"block/a", b"head" + bytes(image[at : at + 64])) for at in range(0, 256, 64)] == answers


@on_both_loops
async def test_a_request_may_have_no_answer(broker):
    async with running(link := link_to(broker, lambda *_: [] if _[1] == b"silent" else echo(*_))):
        peer = await up(broker, link)
        await peer.send(publish(b"get/a", b"silent") + publish(b"get/a", b"loud"))
        assert await peer.message() == (b"block/a", b"loud")
    assert link.counters.received == 2


@on_both_loops
async def test_the_handler_is_told_one_monotonic_time_per_read(broker):
    seen = []
    async with running(link := link_to(broker, lambda *given: seen.append(given[2]) or echo(*given))):
        peer = await up(broker, link)
        await peer.send(publish(b"get/a", b"1") * 3)
        for _ in range(3):
            await peer.message()
    assert len(set(seen)) == 1
    assert isinstance(seen[0], float)


@on_both_loops
async def test_retained_requests_are_dropped_and_counted(broker):
    async with running(link := link_to(broker)):
        peer = await up(broker, link)
        await peer.send(publish(b"get/a", b"old", first=0x31) + publish(b"get/a", b"new"))
        assert await peer.message() == (b"block/a", b"new")
    assert (link.counters.received, link.counters.retained_dropped) == (1, 1)


@on_both_loops
async def test_nagle_is_off(broker):
    async with running(link := link_to(broker)):
        await up(broker, link)
        connections = [item for item in gc.get_objects() if isinstance(item, blocks._Connection)]
        (transport,) = [one._transport for one in connections if one._link is link]
        tcp = transport.get_extra_info("socket")
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@on_both_loops
async def test_cancelling_says_disconnect(broker):
    async with running(link := link_to(broker)):
        peer = await up(broker, link)
    assert await peer.closed()


@on_both_loops
async def test_cancelling_while_connecting_ends_at_once(broker):
    async with running(link_to(broker)):
        await broker.peer()


# -- a handler that fails --


@on_both_loops
async def test_a_failing_handler_is_counted_logged_once_and_does_not_stop_the_link(broker, caplog):
    def handler(topic, payload, now_s):
        yield b"block/a", [b"first"]
        if payload == b"bad":
            raise LookupError("a bug")
        yield b"block/a", [b"second"]

    async with running(link := link_to(broker, handler)):
        peer = await up(broker, link)
        await peer.send(publish(b"get/a", b"bad") * 3 + publish(b"get/a", b"good"))
        payloads = [(await peer.message())[1] for _ in range(2)]
    assert payloads == [b"first", b"second"]
    assert link.counters.handler_errors == 3
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in logged] == ["the block handler failed (1 times so far)"]


@pytest.mark.parametrize(
    "answer", [(b"", [b"x"]), (b"a/#", [b"x"]), (b"block/a", 7), (b"block/a", [None]), (b"block/a",), 5]
)
@on_both_loops
async def test_an_answer_that_cannot_be_published_is_an_error_of_the_handler(broker, answer):
    async with running(link := link_to(broker, lambda *given: [answer] if given[1] == b"bad" else echo(*given))):
        peer = await up(broker, link)
        await peer.send(publish(b"get/a", b"bad") + publish(b"get/a", b"good"))
        assert await peer.message() == (b"block/a", b"good")
    assert link.counters.handler_errors == 1


# -- a broker that misbehaves: close, say why, connect again --


@asynccontextmanager
async def recovering(broker, link, caplog, says):
    """The link closes this connection without a DISCONNECT, warns, and is up again on the next."""
    async with running(link):
        peer = await broker.peer()
        yield peer
        assert not await peer.closed()
        again = await up(broker, link)
        await again.send(publish(b"get/a", b"alive"))
        assert await again.message() == (b"block/a", b"alive")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, warnings
    assert says in warnings[0]
    assert f"mqtt://127.0.0.1:{broker.port}" in warnings[0]


SERVING_FAULTS = [
    pytest.param(b"\xff\xff\xff\xff\xff", "reserved type 15", id="garbage"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n", "malformed", id="another protocol"),
    pytest.param(publish(b"get/a", b"")[:-1] + b"+", "wildcard", id="wildcard topic"),
    pytest.param(b"\x30\xff\xff\xff\x7f", "over the limit of 65536", id="oversize"),
    pytest.param(b"\x32\x07\x00\x03g/a\x00\x01", "PUBLISH at QoS 1 while serving", id="QoS 1"),
    pytest.param(CONNACK, "CONNACK while serving", id="second CONNACK"),
    pytest.param(SUBACK, "SUBACK while serving", id="second SUBACK"),
    pytest.param(b"\x40\x02\x00\x01", "PUBACK while serving", id="PUBACK for what was sent at QoS 0"),
]


@pytest.mark.parametrize(("fault", "says"), SERVING_FAULTS)
@on_both_loops
async def test_a_fault_while_serving_closes_and_reconnects(broker, caplog, fault, says):
    link = link_to(broker)
    async with recovering(broker, link, caplog, says) as peer:
        await peer.accept()
        await link.wait_subscribed()
        await peer.send(fault)
    assert (link.counters.malformed, link.counters.connects) == (1, 2)


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (SUBACK, "SUBACK before CONNACK"),
        (PINGRESP, "PINGRESP before CONNACK"),
        (publish(b"get/a", b""), "PUBLISH at QoS 0 before CONNACK"),
        (b"\x00", "malformed input from the broker before CONNACK"),
        (b"\x20\x02\x00\x01", "unacceptable protocol version"),
        (b"\x20\x02\x00\x02", "identifier rejected"),
        (b"\x20\x02\x00\x03", "server unavailable"),
        (b"\x20\x02\x00\x04", "bad user name or password"),
        (b"\x20\x02\x00\x05", "not authorized"),
        (b"\x20\x02\x00\x06", "reserved return code 6"),
    ],
)
@on_both_loops
async def test_anything_but_a_welcome_closes_and_reconnects(broker, caplog, first, says):
    link = link_to(broker)
    async with recovering(broker, link, caplog, says) as peer:
        await peer.packet()
        await peer.send(first)
    assert link.counters.connects == 1


@pytest.mark.parametrize(
    ("suback", "says"),
    [
        (b"\x90\x03\x00\x01\x80", "refuses the subscription to get/#"),
        (b"\x90\x03\x00\x01\x01", "refuses the subscription to get/#"),
        (b"\x90\x04\x00\x01\x00\x00", "refuses the subscription to get/#"),
        (b"\x90\x03\x00\x02\x00", "SUBACK before SUBACK"),
    ],
)
@on_both_loops
async def test_a_subscription_not_granted_as_asked_closes_and_reconnects(broker, caplog, suback, says):
    async with recovering(broker, link_to(broker), caplog, says) as peer:
        await peer.accept(suback=suback)


@on_both_loops
async def test_a_broker_that_never_welcomes_is_left(broker, caplog):
    async with recovering(broker, link_to(broker, answer_timeout_s=0.2), caplog, "no CONNACK within 0.2 s"):
        pass


@on_both_loops
async def test_a_broker_that_never_subscribes_is_left(broker, caplog):
    link = link_to(broker, answer_timeout_s=0.2)
    async with recovering(broker, link, caplog, "no SUBACK within 0.2 s") as peer:
        await peer.packet()
        await peer.send(CONNACK)


@pytest.mark.parametrize("phase", ["before CONNACK", "before SUBACK", "while serving"])
@on_both_loops
async def test_a_broker_that_closes_is_named_with_the_phase(broker, caplog, phase):
    async with recovering(broker, link_to(broker), caplog, f"the broker closed the connection {phase}") as peer:
        await peer.packet()
        if phase != "before CONNACK":
            await peer.send(CONNACK)
            await peer.packet()
        if phase == "while serving":
            await peer.send(SUBACK)
        peer.writer.write_eof()


@on_both_loops
async def test_a_silent_broker_is_pinged_and_left_after_one_and_a_half_keepalives(broker, caplog):
    async with recovering(broker, link_to(broker, watch_s=0.4), caplog, "has been silent for") as peer:
        await peer.accept()
        since_s = asyncio.get_running_loop().time()
        assert await peer.packet() == (0xC0, b"")
        assert await peer.packet() is None
        assert 0.59 <= asyncio.get_running_loop().time() - since_s <= 1.6


@on_both_loops
async def test_an_idle_link_lives_by_its_pings(broker):
    async with running(link := link_to(broker, watch_s=0.5)):
        peer = await up(broker, link)
        for _ in range(4):
            assert await peer.packet() == (0xC0, b"")
            await peer.send(PINGRESP)
        await peer.send(publish(b"get/a", b"still here"))
        assert await peer.message() == (b"block/a", b"still here")
    assert link.counters.connects == 1


@on_both_loops
async def test_state_is_told_once_per_change(broker):
    states = []
    async with running(link := link_to(broker, on_state=states.append)):
        peer = await up(broker, link)
        assert states == [True]
        peer.cut()
        peer = await up(broker, link)
        assert states == [True, False, True]
    assert states == [True, False, True, False]


@on_both_loops
async def test_no_broker_is_a_warning_and_another_attempt(caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = BrokerAddress(host="127.0.0.1", port=listener.getsockname()[1])
    enough = asyncio.Event()

    class Counting(random.Random):
        calls = 0

        def uniform(self, a, b):
            self.calls += 1
            if self.calls == 3:
                enough.set()
            return 0.0

    async with asyncio.timeout(WITHIN_S), running(link_to(None, address=address, rng=Counting())):
        await enough.wait()
    assert all("cannot connect" in record.getMessage() for record in caplog.records)
    assert len(caplog.records) >= 2


@on_both_loops
async def test_the_delay_has_full_jitter_under_a_doubling_ceiling_that_ends():
    ceilings = []
    done = asyncio.Event()

    class Recording(random.Random):
        def uniform(self, a, b):
            ceilings.append((a, b))
            if len(ceilings) == 9:
                done.set()
            return 0.0

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = BrokerAddress(host="127.0.0.1", port=listener.getsockname()[1])
    link = link_to(None, address=address, rng=Recording(), backoff_max_s=30)
    async with asyncio.timeout(WITHIN_S), running(link):
        await done.wait()
    assert [(0, min(30, 0.5 * 2**attempt)) for attempt in range(9)] == ceilings[:9]


# -- a broker that stops reading --

BLOCK = 16 * 1024
REQUESTS = 4_000


def numbered_blocks(topic, payload, now_s):
    return [(b"block/a", [payload, b"\0" * BLOCK])]


@on_both_loops
async def test_a_broker_that_stops_reading_pauses_reading_and_loses_nothing_when_it_goes_on(broker):
    link = link_to(broker, numbered_blocks)
    async with running(link):
        peer = await up(broker, link)
        requests = b"".join(publish(b"get/a", number.to_bytes(4, "big")) for number in range(REQUESTS))
        # Under one read's worth: the requests are all there, and only some may be looked at.
        await peer.send(requests)
        connection = connection_of(link)
        await until(lambda: connection._paused)
        await settled(lambda: link.counters.received)
        held = connection._transport.get_write_buffer_size()
        assert held <= blocks.WRITE_HIGH_BYTES + blocks.BATCH_BYTES + 2 * BLOCK
        assert link.counters.received < REQUESTS
        for number in range(REQUESTS):
            topic, payload = await peer.message()
            assert (b"block/a", number, BLOCK + 4) == (topic, int.from_bytes(payload[:4], "big"), len(payload))
    assert (link.counters.received, link.counters.connects) == (REQUESTS, 1)


@on_both_loops
async def test_a_broker_that_stops_reading_feels_it_over_tcp(broker):
    link = link_to(broker, numbered_blocks)
    async with running(link):
        peer = await up(broker, link)
        request = publish(b"get/a", bytes(30_000))
        writer, sent = peer.writer, 0
        writer.transport.set_write_buffer_limits(high=0)

        async def flood():
            nonlocal sent
            while True:
                writer.write(request)
                await writer.drain()
                sent += 1

        flooding = asyncio.create_task(flood(), name="flood")
        connection = connection_of(link)
        await until(lambda: connection._paused)
        await settled(lambda: sent)  # the flood stands still: its drain no longer returns
        assert not flooding.done()
        assert connection._transport.get_write_buffer_size() <= blocks.WRITE_HIGH_BYTES + blocks.BATCH_BYTES + 2 * BLOCK
        assert len(connection._backlog) * len(request) <= 512 * 1024  # one read and its cut-off tail
        before = sent
        for _ in range(before):
            await peer.message()
        assert sent > 0
        flooding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flooding


@on_both_loops
async def test_a_link_that_ends_while_the_broker_reads_slowly_ends_without_an_error(broker):
    link = link_to(broker, numbered_blocks)
    async with running(link):
        peer = await up(broker, link)
        await peer.send(b"".join(publish(b"get/a", bytes(4)) for _ in range(REQUESTS)))
        connection = connection_of(link)
        await until(lambda: connection._paused)
        reading = asyncio.create_task(peer.closed(), name="reads on")
        await connection.close()  # what was buffered goes out in between
        assert await reading  # DISCONNECT was the last
        await connection.close()


@on_both_loops
async def test_a_broker_that_takes_nothing_for_long_is_left(broker, caplog):
    link = link_to(broker, numbered_blocks, watch_s=0.2)
    async with running(link):
        peer = await up(broker, link)
        await peer.send(b"".join(publish(b"get/a", bytes(4)) for _ in range(REQUESTS)))
        await up(broker, link)
    assert "the broker has taken nothing for" in caplog.text
    assert link.counters.connects == 2


@on_both_loops
async def test_cancelling_while_the_broker_takes_nothing_ends_in_time(broker):
    link = link_to(broker, numbered_blocks)
    loop = asyncio.get_running_loop()
    async with running(link):
        peer = await up(broker, link)
        await peer.send(b"".join(publish(b"get/a", bytes(4)) for _ in range(REQUESTS)))
        connection = connection_of(link)
        await until(lambda: connection._paused)
        since_s = loop.time()
    assert loop.time() - since_s < 2


def connection_of(link):
    found = [item for item in gc.get_objects() if isinstance(item, blocks._Connection) and item._link is link]
    return found[-1]


async def until(holds):
    """Wait for a fact that no event announces."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.005)


async def settled(count):
    """Wait until a number has stood still for ten looks."""
    last, same = count(), 0
    async with asyncio.timeout(WITHIN_S):
        while same < 10:
            await asyncio.sleep(0.01)
            same = same + 1 if count() == last else 0
            last = count()


# -- configuration --


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keepalive_s": 0}, "at least 1 s"),
        ({"keepalive_s": 70_000}, "keep-alive of 70000 s"),
        ({"topic_filter": "get/#/x"}, "topic filter"),
        ({"client_id": "a\0"}, "NUL"),
        ({"address": BrokerAddress(host="h", port=1, password="pw")}, "without a user name"),
    ],
)
@on_both_loops
async def test_what_mqtt_cannot_say_is_refused_when_the_link_is_made(options, says):
    with pytest.raises(ConfigError, match=says):
        link_to(None, **{"address": BrokerAddress(host="h", port=1), **options})


@on_both_loops
async def test_tls_files_that_cannot_be_used_are_an_error_and_another_attempt(broker, caplog, tmp_path):
    files = TlsFiles(ca=tmp_path / "missing.pem")
    link = link_to(broker, address=BrokerAddress(host="127.0.0.1", port=broker.port, tls=files))
    async with running(link):
        await until(lambda: len(caplog.records) >= 2)
    assert {logging.ERROR} == {record.levelno for record in caplog.records}
    assert "missing.pem" in caplog.text
