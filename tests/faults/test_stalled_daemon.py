"""The daemon stands still while 10,000 devices report, and goes on: what the broker dropped, the devices say again.

The devices are topics: a handful of raw connections speak for a thousand devices each, and each hears what the bridge
acknowledged to them. mosquitto keeps 1,000 messages for the daemon, its own default, so most reports of the first round are lost,
though the broker acknowledged them.
"""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import msgpack
import pytest
from brokers import HOST, OPEN_CONF, Mosquitto, mosquitto_on
from harness import site, until

from ota_bridge.mqtt.codec import Decoder, Puback, Publish, encode_connect, encode_subscribe, publish_head

pytestmark = pytest.mark.mosquitto
LINES, EACH = 10, 1_000
RETRY_S = 2.0
BOUND_S = 60.0
BY_DEFAULT = OPEN_CONF.replace("max_queued_messages 20000", "max_queued_messages 1000")


class Line:
    """One connection for a thousand devices, each of which repeats its report until the bridge has acknowledged it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.owed = {f"l{number}d{at:04}" for at in range(EACH)}
        self.taken_by_broker = 0

    async def open(self, broker: Mosquitto) -> None:
        self.reader, self.writer = await asyncio.open_connection(HOST, broker.port)
        self.writer.write(encode_connect(client_id=f"line-{self.number}", keepalive_s=600))
        self.writer.write(encode_subscribe(1, f"$ota/update/line{self.number}/+", 0))
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        decoder = Decoder(max_packet_bytes=65_536)
        while data := await self.reader.read(1 << 16):
            for packet in decoder.feed(data):
                if isinstance(packet, Puback):
                    self.taken_by_broker += 1
                elif isinstance(packet, Publish) or type(packet) is tuple:
                    message = msgpack.unpackb(packet[1])
                    if message["type"] == "report_ack" and 1 in message["seqs"]:
                        self.owed.discard(packet[0].decode().rpartition("/")[2])

    def say(self) -> None:
        """Everybody who was not acknowledged reports."""
        body = {"type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": 7, "seq": 1}
        payload = msgpack.packb({**body, "nonce": bytes(16), "parts": {"firmware": ["1.0.0", 1, b"", 0]}})
        for number, name in enumerate(sorted(self.owed), start=1):
            head = publish_head(f"$ota/report/line{self.number}/{name}".encode(), len(payload) + 2)
            self.writer.write(b"\x32" + head[1:] + number.to_bytes(2, "big") + payload)

    async def close(self) -> None:
        self.listening.cancel()
        self.writer.transport.abort()


@pytest.fixture
def broker(tmp_path) -> Iterator[Mosquitto]:
    with mosquitto_on(tmp_path, BY_DEFAULT) as running:
        yield running


async def test_ten_thousand_reports_to_a_daemon_that_stands_still_are_all_taken_in_the_end(tmp_path, broker: Mosquitto):
    lines = [Line(number) for number in range(LINES)]
    with site(tmp_path, broker_url=broker.url, **{"enrol.per_s": 10_000, "enrol.burst": 20_000}) as here:
        for line in lines:
            await line.open(broker)
        await until(lambda: here.call("bridge.status")["control"] == "up")
        here.process.send_signal(signal.SIGSTOP)
        try:
            for line in lines:
                line.say()
            await until(lambda: sum(line.taken_by_broker for line in lines) >= LINES * EACH, within_s=BOUND_S)
            assert LINES * EACH == sum(len(line.owed) for line in lines)
        finally:
            here.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(BOUND_S):
            while any(line.owed for line in lines):
                with contextlib.suppress(TimeoutError):
                    await until(lambda: not any(line.owed for line in lines), within_s=RETRY_S)
                for line in lines:
                    line.say()
        for line in lines:
            await line.close()
        assert [(LINES * EACH,)] == here.rows("SELECT count(*) FROM reports WHERE boot = 7 AND seq = 1")
        assert [(LINES * EACH,)] == here.rows("SELECT count(*) FROM devices")
        assert here.process.poll() is None
        assert "Traceback" not in here.log
