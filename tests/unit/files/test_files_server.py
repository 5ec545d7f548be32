"""The file server as a whole: who gets in, who makes room, TLS, and its end."""

import asyncio
import socket
import ssl
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from files_site import HOST, FileSite, files, image_of

from ota_bridge.core.errors import ConfigError
from ota_bridge.files.certificate import Certificate
from ota_bridge.files.server import DEVICE_BODIES_MAX, listening

LARGE = image_of(8_000_000)


async def until(check):
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_where_all_connections_are_taken_the_one_that_was_idle_longest_makes_room():
    async with (
        files(connections_max=3) as site,
        site.line() as oldest,
        site.line() as second,
        site.line() as third,
    ):
        assert 200 == (await oldest.ask(site.get())).status  # idle since later than the second
        await until(lambda: len(site.files._connections) == 3)
        async with site.line() as late:
            assert 200 == (await late.ask(site.get())).status
            assert b"" == await second.end()
            assert [200, 200] == [(await line.ask(site.get())).status for line in (oldest, third)]
        assert 1 == site.files.counters.turned_away


async def test_a_download_never_makes_room():
    async with (
        files(connections_max=2, image=LARGE, devices=2) as site,
        site.line(limit=1000) as first,
        site.line(limit=1000) as second,
    ):
        for number, line in enumerate((first, second)):
            await line.send(site.get(number))
            assert 200 == (await line.head()).status
        async with site.line() as late:
            await late.send(site.get())
            assert b"" == await late.end()
        assert [LARGE[:-1]] * 2 == [await line.reader.readexactly(len(LARGE) - 1) for line in (first, second)]


async def test_one_device_has_a_few_downloads_at_a_time_and_one_more_ends_its_oldest():
    async with files(image=LARGE, devices=2) as site, AsyncExitStack() as stack:
        lines = []
        for number in [1] + [0] * (DEVICE_BODIES_MAX + 1):
            line = await stack.enter_async_context(site.line(limit=1000))
            await line.send(site.get(number))
            assert 200 == (await line.head()).status
            lines.append(line)
        rest = await lines[1].end()
        assert len(rest) < len(LARGE)
        for line in (lines[0], *lines[2:]):
            assert len(LARGE) == len(await line.reader.readexactly(len(LARGE)))


async def test_many_devices_download_at_once_and_all_get_every_byte():
    async with files(devices=60, image=image_of(200_000)) as site:

        async def one(number):
            async with site.line() as line:
                return (await line.ask(site.get(number), within_s=30)).body == site.image

        assert [True] * 60 == await asyncio.gather(*(one(number) for number in range(60)))
        assert (60, 0) == (site.files.counters.whole, site.files.counters.cut)


async def test_at_its_end_it_hangs_up_on_everybody_at_once():
    site = FileSite(image=LARGE)
    async with AsyncExitStack() as stack:
        async with site.run():
            line = await stack.enter_async_context(site.line(limit=1000))
            await line.send(site.get())
            await line.head()
            idle = await stack.enter_async_context(site.line())
            began = time.monotonic()
        assert time.monotonic() - began < 1
        assert b"" == await idle.end()
        assert len(await line.end()) < len(LARGE)
        with pytest.raises(OSError):
            await stack.enter_async_context(site.line())


# --- TLS -----------------------------------------------------------------------------------------------------


def certify(directory, name):
    """A self-signed certificate for loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=subject, subject_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return directory / "cert.pem", directory / "key.pem"


def common_name(line):
    der = line.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


async def test_over_tls_everything_is_the_same_and_a_new_certificate_is_used_without_a_restart(tmp_path):
    certificate = Certificate(*certify(tmp_path, "first"))
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    async with (
        files(tls=certificate.context, devices=2, image=image_of(1_000_000)) as site,
        site.line(tls=trusted) as line,
    ):
        assert site.image == (await line.ask(site.get())).body
        part = await line.ask(site.get(Range="bytes=-10"))
        assert (206, site.image[-10:], "CN=first") == (part.status, part.body, common_name(line))
        certify(tmp_path, "second")
        certificate.look()
        async with site.line(tls=ssl.create_default_context(cafile=tmp_path / "cert.pem")) as other:
            assert "CN=second" == common_name(other)
            assert site.image == (await other.ask(site.get(1))).body
        assert 200 == (await line.ask(site.get())).status


async def test_who_speaks_no_tls_gets_nothing_and_disturbs_nobody(tmp_path):
    certificate = Certificate(*certify(tmp_path, "first"))
    async with files(tls=certificate.context) as site:
        async with site.line() as line:
            await line.send(site.get())
            assert b"HTTP" not in await line.end()
        async with site.line(tls=ssl.create_default_context(cafile=tmp_path / "cert.pem")) as line:
            assert 200 == (await line.ask(site.get())).status


# --- what cannot be used -------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"files.host {HOST}, files.port {port}: Address already in use"):
            listening(HOST, port)


def test_a_host_that_is_none_is_said():
    with pytest.raises(ConfigError, match="files.host no such host, files.port 1"):
        listening("no such host", 1)
