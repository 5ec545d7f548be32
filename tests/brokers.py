"""Real brokers for the integration tests: mosquitto as a child process on a free loopback port, and certificates.

`Mosquitto` is started with a configuration text, killed and started again on the same port; `mosquitto_on(...)`
is the usual way in. Only processes started here are ever signalled. `issue_certificates` makes a throw-away CA.
"""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ota_bridge.wire import BrokerAddress, TlsFiles

HOST = "127.0.0.1"
_START_S = 10.0

SHIPPED_CONF = Path(__file__).parents[1] / "mosquitto.conf"

# Open to all on loopback, session and queues in memory: what most tests want.
OPEN_CONF = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 200
max_queued_messages 20000
persistence false
"""


def mosquitto_binary() -> str:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/local/sbin"
    found = shutil.which("mosquitto", path=path)
    if found is None:
        pytest.fail("mosquitto is missing: run `make mosquitto`")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on, below those that the system gives to connections: these come and go."""
    while True:
        port = random.SystemRandom().randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


class Mosquitto:
    """One mosquitto on fixed ports: start, kill (SIGKILL), stop (SIGTERM), start again."""

    def __init__(
        self, conf: str, directory: Path, *, ports: tuple[int, ...] | None = None, logs_all: bool = True
    ) -> None:
        """`conf` may hold `{port}`, which becomes a free port; or name the ports it listens on in `ports`."""
        self._flags = ["-v"] if logs_all else []
        self.port = free_port() if ports is None else ports[0]
        self._ports = (self.port,) if ports is None else ports
        self._directory = directory
        self._conf = directory / f"mosquitto-{self.port}.conf"
        text = conf.replace("{port}", str(self.port))
        if os.geteuid() == 0:
            text += "\nuser root\n"  # else it becomes the user mosquitto, who may not read a test's directory
        self._conf.write_text(text)
        self._log = directory / f"mosquitto-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress(host=HOST, port=self.port)

    @property
    def url(self) -> str:
        return f"mqtt://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start and return when every port accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [mosquitto_binary(), "-c", str(self._conf), *self._flags], stdout=log, stderr=log, cwd=self._directory
            )
        deadline = time.monotonic() + _START_S
        for port in self._ports:
            while not _accepts(port):
                if self._process.poll() is not None:
                    pytest.fail(f"mosquitto ended with {self._process.returncode}:\n{self.log}")
                if time.monotonic() > deadline:
                    self.kill()
                    pytest.fail(f"mosquitto does not accept on port {port}:\n{self.log}")
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: nothing is saved, no connection is closed properly."""
        self._end(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Any other."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM: what is to persist is saved."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def mosquitto_on(directory: Path, conf: str = OPEN_CONF, *, logs_all: bool = True) -> Iterator[Mosquitto]:
    """A running mosquitto for the length of a `with`."""
    broker = Mosquitto(conf, directory, logs_all=logs_all)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """Import this name in a test module to get an open mosquitto on loopback."""
    with mosquitto_on(tmp_path) as broker:
        yield broker


# --- certificates ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A throw-away CA in a directory."""

    directory: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.crt"

    def issue(self, common_name: str, *, server: bool = False) -> TlsFiles:
        """A certificate for this name; one for a server also holds 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(subject, self.certificate.subject, key)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        if server:
            names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        stem = common_name.replace("/", "_")
        certificate_file, key_file = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        certificate_file.write_bytes(_pem(builder.sign(self.key, hashes.SHA256())))
        key_file.write_bytes(_key_pem(key))
        return TlsFiles(ca=self.ca_file, certificate=certificate_file, key=key_file)


_CA_USAGE = x509.KeyUsage(  # Python 3.13 refuses a CA without it
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def issue_certificates(directory: Path, name: str = "Test CA") -> Authority:
    """A new CA, its certificate in `directory`/ca.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_CA_USAGE, critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(directory=directory, certificate=certificate, key=key)
    authority.ca_file.write_bytes(_pem(certificate))
    return authority


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- the shipped configuration ---


def lines_marked(mark: str) -> str:
    """What `sed -n 's/^#mark //p'` prints."""
    lines = SHIPPED_CONF.read_text().splitlines()
    return "".join(f"{line.removeprefix(f'#{mark} ')}\n" for line in lines if line.startswith(f"#{mark} "))


def as_shipped(port: int) -> str:
    return SHIPPED_CONF.read_text().replace("listener 1883 127.0.0.1", f"listener {port} {HOST}")


def with_tls(directory: Path, plain_port: int, tls_port: int) -> str:
    """What `sed 's/^#tls //'` prints, on other ports and with its files in `directory`."""
    text = re.sub(r"(?m)^#tls ", "", as_shipped(plain_port))
    text = text.replace("listener 8883", f"listener {tls_port} {HOST}")
    (directory / "acl").write_text(lines_marked("acl"))
    return text.replace("/etc/mosquitto/ota", str(directory))


class RuledBroker:
    """The shipped configuration as in production: access rules, TLS, certificates of a throw-away CA."""

    def __init__(self, directory: Path) -> None:
        self.authority: Authority = issue_certificates(directory)
        server = self.authority.issue("server", server=True)
        assert server.certificate is not None
        assert server.key is not None
        self.plain_port, self.tls_port = free_port(), free_port()
        conf = with_tls(directory, self.plain_port, self.tls_port)
        self.broker = Mosquitto(conf, directory, ports=(self.plain_port, self.tls_port))

    def device(self, name: str) -> BrokerAddress:
        return self.on_tls(self.authority.issue(name))

    def on_tls(self, files: TlsFiles) -> BrokerAddress:
        return BrokerAddress(host="localhost", port=self.tls_port, tls=files)

    def local(self, user: str | None) -> BrokerAddress:
        return BrokerAddress(host=HOST, port=self.plain_port, username=user)


# --- clients ---


@contextlib.asynccontextmanager
async def client(address: BrokerAddress, client_id: str | None = None) -> AsyncIterator[aiomqtt.Client]:
    """An independent MQTT 3.1.1 client (aiomqtt) connected as `address` says."""
    context = None
    if address.tls is not None:
        context = ssl.create_default_context(cafile=address.tls.ca)
        if address.tls.certificate is not None:
            context.load_cert_chain(address.tls.certificate, address.tls.key)
    async with aiomqtt.Client(
        address.host,
        address.port,
        identifier=client_id,
        username=address.username,
        password=address.password,
        tls_context=context,
        protocol=aiomqtt.ProtocolVersion.V311,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        timeout=10,
    ) as connected:
        yield connected


async def received_until(subscriber: aiomqtt.Client, last: bytes, *, within_s: float = 10.0) -> list[tuple[str, bytes]]:
    """(topic, payload) of everything up to the message whose payload is `last`."""
    found: list[tuple[str, bytes]] = []
    async with asyncio.timeout(within_s):
        async for message in subscriber.messages:
            found.append((message.topic.value, bytes(message.payload)))
            if message.payload == last:
                break
    return found


# --- waiting ---


async def eventually(condition, *, within_s: float = 10.0, what: str = "") -> None:
    """Wait until `condition()` is true; fail with `what` otherwise. For state that offers no event to wait for."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s: {what or condition}")
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(coroutine, name: str = "under-test") -> AsyncIterator[asyncio.Task]:
    """A task for the length of an `async with`; cancelled and awaited at the end, its error raised."""
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
