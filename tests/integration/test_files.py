"""Images over HTTP from the daemon as it is run: both places of the block plane, kills, altered files, shared caps."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

import aiomqtt
import pytest
from brokers import HOST, free_port, mosquitto_on
from files_site import TENCENT
from harness import Fleet, Site, site, until, worker_of

pytestmark = pytest.mark.mosquitto
SIZE = 3_000_000


@pytest.fixture(params=["own", "shared"])
def here(request, tmp_path) -> Iterator[Site]:
    port = free_port()
    settings = {
        "blocks.process": request.param,
        "files.host": HOST,
        "files.port": port,
        "files.url": f"http://{HOST}:{port}",
        "files.wait_s": 30 if "slot" in request.node.name else 2,
        "offers.min_interval_s": 0,
        "retries.backoff_s": 0,
    }
    with mosquitto_on(tmp_path) as broker, site(tmp_path, broker_url=broker.url, **settings) as found:
        yield found
    while Download.made:
        Download.made.pop().sock.close()


@dataclass
class PublicDevice:
    """A device that speaks the public message shapes and downloads by URL."""

    here: Site
    client: aiomqtt.Client
    name: str = "dev-url"
    version: str = "1.0.0"
    messages: AsyncIterator[Any] = field(init=False)

    def __post_init__(self):
        self.messages = aiter(self.client.messages)

    async def report(self) -> None:
        report = {"type": "report_version", "report": {"version": self.version}}
        await self.client.publish(f"$ota/report/demo/{self.name}", json.dumps(report), qos=1)

    async def notice(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                said = dict(json.loads((await anext(self.messages)).payload))
                if said["type"] == "update_firmware":
                    return said

    def deployment(self) -> tuple[Any, ...]:
        sql = "SELECT state, high_water_bytes, bytes_sent FROM deployments WHERE name = ? ORDER BY created_wall DESC"
        return self.here.rows(sql, self.name)[0]

    def why(self) -> str:
        return str(self.here.call("why", device=f"demo/{self.name}")["sentence"])


@contextlib.asynccontextmanager
async def public_device(here: Site, name: str = "dev-url") -> AsyncIterator[PublicDevice]:
    address = urlsplit(here.broker_url)
    async with aiomqtt.Client(address.hostname, address.port, identifier=name) as client:
        await client.subscribe(f"$ota/update/demo/{name}", qos=1)
        yield PublicDevice(here, client, name)


class Download:
    """One connection to the file server, read as slowly as the test likes."""

    made: ClassVar[list["Download"]] = []

    def __init__(self, url: str, *, start: int = 0, size: int = SIZE):
        parts = urlsplit(url)
        self.sock = socket.socket()
        self.made.append(self)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.sock.settimeout(30)
        self.sock.connect((parts.hostname, parts.port))
        self.sock.sendall(TENCENT.format(path=parts.path, start=start, size=size).encode())
        self.raw = b""

    def read(self, count: int | None = None) -> bytes:
        """That much of the body, or all that comes; empty where there was no answer."""
        with contextlib.suppress(ConnectionError):
            while count is None or len(self.body) < count:
                data = self.sock.recv(65_536 if count is None else 8_192)
                if not data or (self.raw + data).startswith(b"HTTP/1.1 4"):
                    self.raw += data
                    break
                self.raw += data
                if count is None and len(self.body) == self.length:
                    break
        return self.body

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode()

    @property
    def status(self) -> int:
        return int(self.head.split()[1]) if self.head else 0

    @property
    def length(self) -> int:
        return int(self.head.partition("Content-Length: ")[2].partition("\r\n")[0] or -1)

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]


def counted(here: Site) -> dict[str, int]:
    return dict(here.call("bridge.status")["counters"]["files"])


async def read(download: Download, count: int | None = None) -> bytes:
    return await asyncio.to_thread(download.read, count)


async def test_a_device_updates_by_url_from_its_notice_to_its_confirmation(here: Site):
    image = here.image(SIZE)
    async with public_device(here) as device:
        await device.report()
        here.call("rollout.start", release=here.release(image))
        notice = await device.notice()
        assert (SIZE, "1.1.0") == (notice["file_size"], notice["version"])
        assert len(notice["url"]) <= 200
        download = Download(notice["url"])
        await read(download, 500_000)
        await until(lambda: device.deployment()[0] == "DOWNLOADING")
        assert 400_000 <= device.deployment()[1] <= 900_000  # progress is about what it has taken
        assert "it is downloading firmware demo/1.1.0" in device.why()
        assert image.read_bytes() == await read(download)
        assert 206 == download.status
        await until(lambda: device.deployment()[1:] == (SIZE, SIZE))
        again = Download(notice["url"], start=SIZE)
        await read(again)
        assert (416, 0) == (again.status, again.length)
        device.version = "1.1.0"
        await device.report()
        await until(lambda: device.deployment()[0] == "CONFIRMED")
        over = Download(notice["url"])
        await read(over)
        assert 404 == over.status
        await until(lambda: counted(here)["not_found"] == 1)
        assert (1, 0) == (counted(here)["whole"], counted(here)["cut"])


@pytest.mark.parametrize(
    ("here", "killed"),
    [("own", "the daemon"), ("shared", "the daemon"), ("own", "the block plane's process")],
    indirect=["here"],
)
async def test_a_download_is_resumed_with_the_same_link_after_a_kill(here: Site, killed: str):
    image = here.image(SIZE)
    async with public_device(here) as device:
        await device.report()
        here.call("rollout.start", release=here.release(image))
        url = (await device.notice())["url"]
        download = Download(url)
        await read(download, 1_000_000)
        if killed == "the daemon":
            here.kill()
        else:
            os.kill(worker_of(here), signal.SIGKILL)
        had = await read(download)
        assert 1_000_000 <= len(had) < SIZE
        assert image.read_bytes().startswith(had)
        if killed == "the daemon":
            await asyncio.to_thread(here.start)
        resumed = Download(url, start=len(had))  # while the process is away the socket still takes it in
        assert image.read_bytes() == had + await read(resumed)
        await until(lambda: device.deployment()[1] == SIZE)


async def test_a_slot_that_a_device_of_blocks_holds_is_waited_for_and_why_says_so(here: Site):
    image = here.image(200_000)
    async with public_device(here) as device:
        await device.report()
        release = here.release(image)
        async with Fleet(here.fleet(count=1, block_bytes=1024, pace_bps=20_000)) as running:
            await until(lambda: len(here.call("device.list")) == 2)
            here.call("rollout.start", release=release)
            url = (await device.notice())["url"]
            await asyncio.to_thread(here.call, "limits.set", downloads=1)
            await until(lambda: here.call("limits.show")["in_use"]["slots_held"] == 1)
            download = Download(url, size=200_000)
            await until(lambda: here.call("limits.show")["in_use"]["waiting_for_slot"] == 1, within_s=15)
            await until(lambda: "waits for one of 1 download slots" in device.why())
            await running.until(lambda lines: any(line.get("result") == "confirmed" for line in lines))
            assert image.read_bytes() == await read(download)
    await until(lambda: counted(here)["whole"] == 1)


async def test_an_image_that_was_altered_on_disk_fails_closed_in_the_middle_and_at_the_start(here: Site):
    image = here.image(SIZE)
    async with public_device(here) as device:
        await device.report()
        here.call("rollout.start", release=here.release(image))
        url = (await device.notice())["url"]
        download = Download(url)
        await read(download, 200_000)
        (blob,) = (path for path in (here.data / "blobs").rglob("*") if path.is_file())
        blob.chmod(0o600)
        with blob.open("r+b") as file:
            file.seek(2_500_000)
            file.write(b"altered")
        await until(lambda: "changed on disk" in here.log)
        got = await read(download)
        assert len(got) < SIZE
        assert image.read_bytes().startswith(got)
        blob.write_bytes(b"x" * SIZE)
        nothing = Download(url)
        assert b"" == await read(nothing)
        assert 0 == nothing.status


async def test_a_pause_stops_a_body_and_a_resume_lets_it_be_fetched_again(here: Site):
    image = here.image(SIZE)
    async with public_device(here) as device:
        await device.report()
        rollout = here.call("rollout.start", release=here.release(image))["id"]
        url = (await device.notice())["url"]
        download = Download(url)
        await read(download, 200_000)
        here.call("rollout.pause", rollout=rollout)
        got = await read(download)
        assert len(got) < SIZE
        here.call("rollout.resume", rollout=rollout)
        resumed = Download(url, start=len(got))
        assert image.read_bytes() == got + await read(resumed)


async def test_the_daemon_ends_in_time_with_downloads_under_way(here: Site):
    image = here.image(SIZE)
    async with public_device(here) as device:
        await device.report()
        here.call("rollout.start", release=here.release(image))
        download = Download((await device.notice())["url"])
        await read(download, 200_000)
        took_s = await asyncio.to_thread(here.stop)
        assert took_s < 3
        assert len(await read(download)) < SIZE


def test_what_keeps_files_from_being_served_ends_the_start_with_a_sentence(tmp_path):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        url = f"http://{HOST}:{port}"
        here = Site(directory=tmp_path, settings={"files.host": HOST, "files.port": port, "files.url": url})
        here.start(wait=False)
        assert here.process is not None
        assert 0 != here.process.wait(20)
    assert f"files.host {HOST}, files.port {port}: Address already in use" in here.log


def test_without_the_setting_nothing_is_served_and_no_secret_is_made(tmp_path):
    with site(tmp_path) as here:
        assert "files" not in here.call("bridge.status")["counters"]
        assert not (here.data / "link-secret").exists()
