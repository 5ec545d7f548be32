"""The block link on a real mosquitto: blocks arrive byte for byte, over TCP and TLS, and after the broker was killed."""

import asyncio
import datetime as dt
import getpass
import hashlib
import ipaddress
import mmap
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import asynccontextmanager

import aiomqtt
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ota_bridge.mqtt import codec
from ota_bridge.mqtt.blocks import BlockLink
from ota_bridge.wire import BrokerAddress, TlsFiles

pytestmark = pytest.mark.mosquitto

WITHIN_S = 10
NODELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


class Mosquitto:
    """A mosquitto of this test's own; `start` and `kill` as often as wanted, always on the same port."""

    def __init__(self, directory, *, listener=()):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._binary = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert self._binary, "mosquitto is missing: apt install mosquitto"
        self._config = directory / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", *listener, "allow_anonymous true", "set_tcp_nodelay true"]
        lines += [f"user {getpass.getuser()}", "log_dest stderr"]
        self._config.write_text("\n".join(lines) + "\n")
        self._log = directory / "mosquitto.log"
        self._process = None

    def start(self):
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._binary, "-c", self._config], stderr=log)
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline_s, self._log.read_text()
                time.sleep(0.01)

    def kill(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on either loop, within a time."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, WITHIN_S))


@pytest.fixture
def image(tmp_path):
    """A memory-mapped file, as the bridge serves it; its length is no multiple of any block.

    It cannot be unmapped while anything holds a piece of it: so each test also proves that the link lets go.
    """
    path = tmp_path / "image"
    path.write_bytes(random.Random(7).randbytes(100_003))
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view


def serve(image):
    """`offset size count` in text → that many blocks, each behind its offset in eight bytes."""

    def handler(topic, payload, now_s, out):
        answer_to = topic.replace(b"/get/", b"/block/", 1)
        offset, size, count = map(int, payload.split())
        for start in range(offset, min(offset + size * count, len(image)), size):
            data = image[start : start + size]
            out += (codec.publish_head(answer_to, 8 + len(data)), start.to_bytes(8, "big"), data)
        return size * count

    return handler


@asynccontextmanager
async def serving(port, image, *, tls=None):
    address = BrokerAddress(host="127.0.0.1", port=port, tls=tls)
    link = BlockLink(
        address, client_id="bridge-blocks", topic_filter="$ota/get/+/+", handler=serve(image), backoff_max_s=0.2
    )
    task = asyncio.create_task(link.run(), name="block link")
    try:
        await link.wait_subscribed()
        yield link
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def download(port, size_bytes, image_bytes, *, device="d1", count=1, window=8):
    """Pull the whole image as a device would and return it."""
    image = bytearray(image_bytes)
    offsets = iter(range(0, image_bytes, size_bytes * count))
    missing = image_bytes
    async with aiomqtt.Client("127.0.0.1", port, identifier=device, socket_options=NODELAY) as client:
        await client.subscribe(f"$ota/block/p/{device}", qos=0)

        async def ask():
            if (offset := next(offsets, None)) is not None:
                await client.publish(f"$ota/get/p/{device}", f"{offset} {size_bytes} {count}", qos=0)

        for _ in range(window):
            await ask()
        async for message in client.messages:
            start, data = int.from_bytes(message.payload[:8], "big"), message.payload[8:]
            image[start : start + len(data)] = data
            missing -= len(data)
            if missing == 0:
                return bytes(image)
            if (start // size_bytes) % count == count - 1:
                await ask()
    raise AssertionError("the broker closed the connection")


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("size_bytes", "count"), [(64, 16), (1_000, 1), (1_024, 16), (4_096, 1), (16_384, 1), (16_384, 4)]
)
def test_blocks_of_every_size_arrive_byte_for_byte(mosquitto, image, run, size_bytes, count):
    async def test():
        async with serving(mosquitto.port, image) as link:
            received = await download(mosquitto.port, size_bytes, len(image), count=count)
        assert digest(received) == digest(image)
        assert (link.counters.connects, link.counters.malformed, link.counters.handler_errors) == (1, 0, 0)

    run(test())


def test_several_devices_at_once_each_get_their_own(mosquitto, image, run):
    async def test():
        async with serving(mosquitto.port, image):
            downloads = [download(mosquitto.port, 4_096, len(image), device=f"d{n}") for n in range(5)]
            received = await asyncio.gather(*downloads)
        assert {digest(one) for one in received} == {digest(image)}

    run(test())


def test_a_killed_broker_is_found_again_and_served(mosquitto, image, run):
    async def test():
        async with serving(mosquitto.port, image) as link:
            assert digest(await download(mosquitto.port, 4_096, len(image))) == digest(image)
            for restart in range(1, 4):
                await asyncio.to_thread(mosquitto.kill)
                while link.subscribed:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(mosquitto.start)
                await link.wait_subscribed()
                assert digest(await download(mosquitto.port, 4_096, len(image))) == digest(image)
                assert link.counters.connects == restart + 1

    run(test())


def test_a_retained_request_is_dropped_and_counted(mosquitto, image, run):
    async def test():
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
            await client.publish("$ota/get/p/d1", "0 64 1", qos=1, retain=True)
        async with serving(mosquitto.port, image) as link:
            assert digest(await download(mosquitto.port, 16_384, len(image))) == digest(image)
        assert link.counters.retained_dropped == 1

    run(test())


async def test_an_idle_link_stays_up_by_its_pings(mosquitto, image):
    address = BrokerAddress(host="127.0.0.1", port=mosquitto.port)
    link = BlockLink(address, client_id="b", topic_filter="$ota/get/+/+", handler=serve(image), keepalive_s=1)
    task = asyncio.create_task(link.run(), name="block link")
    await link.wait_subscribed()
    # Unanswered, the link would leave after 1.5 s; nothing announces that it did not.
    await asyncio.wait({task}, timeout=1.8)
    assert (link.subscribed, link.counters.connects) == (True, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def certificate(directory):
    """A key and a certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(signed.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(private)
    return directory / "cert.pem", directory / "key.pem"


@pytest.fixture
def tls_mosquitto(tmp_path):
    cert, key = certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        plain_port = free.getsockname()[1]
    tls = [f"cafile {cert}", f"certfile {cert}", f"keyfile {key}", f"listener {plain_port} 127.0.0.1"]
    broker = Mosquitto(tmp_path, listener=tls)
    broker.plain_port, broker.cert = plain_port, cert
    broker.start()
    yield broker
    broker.kill()


def test_blocks_over_tls_arrive_byte_for_byte(tls_mosquitto, image, run):
    async def test():
        async with serving(tls_mosquitto.port, image, tls=TlsFiles(ca=tls_mosquitto.cert)) as link:
            received = await download(tls_mosquitto.plain_port, 16_384, len(image))
            assert digest(received) == digest(image)
        assert link.counters.connects == 1

    run(test())


def test_a_broker_of_an_unknown_authority_is_not_talked_to(tls_mosquitto, image, run, caplog):
    async def test():
        address = BrokerAddress(host="127.0.0.1", port=tls_mosquitto.port, tls=TlsFiles())
        link = BlockLink(address, client_id="b", topic_filter="a", handler=serve(image), backoff_max_s=0.01)
        task = asyncio.create_task(link.run(), name="block link")
        while len(caplog.records) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert link.counters.connects == 0
        assert all("CERTIFICATE_VERIFY_FAILED" in record.getMessage() for record in caplog.records)

    run(test())
