"""A file server in the test's own loop: a block server with devices, a listener on loopback, and raw sockets to ask it."""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_world import MemorySource, facts_of

from ota_bridge.core.blocks import BlockServer, Cold
from ota_bridge.core.messages import BlockRequest, Grant, GrantsChanged, GrantState
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId
from ota_bridge.files.connection import FileOptions, Serving
from ota_bridge.files.links import make_code
from ota_bridge.files.server import FileServer, listening
from ota_bridge.files.used import UsedLinks

SECRET = bytes(range(32))
ROLLOUT = RolloutId("r-000001")
HOST = "127.0.0.1"
TENCENT = (
    "GET {path} HTTP/1.1\r\nHost: ota.test\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    "\r\nAccept-Encoding: gzip, deflate\r\nRange: bytes={start}-{size}\r\n\r\n"
)
"""What its SDK sends, byte for byte."""


def image_of(size_bytes: int) -> bytes:
    """Bytes of which no part is like another."""
    return random.Random(size_bytes).randbytes(size_bytes)


@dataclass
class Reply:
    """What came back."""

    status: int
    head: str
    fields: dict[str, str]
    body: bytes


@dataclass
class Line:
    """One connection to it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def head(self, *, within_s: float = 10) -> Reply:
        async with asyncio.timeout(within_s):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        text = raw.decode()
        first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return Reply(int(first.split()[1]), text, fields, b"")

    async def reply(self, *, within_s: float = 10, body: bool = True) -> Reply:
        """A whole answer, its body as long as `Content-Length: ` says."""
        async with asyncio.timeout(within_s):
            found = await self.head()
            if body:
                found.body = await self.reader.readexactly(int(found.fields["Content-Length"]))
        return found

    async def ask(self, text: str, *, within_s: float = 10, body: bool = True) -> Reply:
        await self.send(text)
        return await self.reply(within_s=within_s, body=body)

    async def end(self, *, within_s: float = 10) -> bytes:
        """What comes until the other side hangs up."""
        found = b""
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65_536):
                    found += data
        return found


@dataclass
class FileSite:
    """See the module."""

    options: FileOptions = field(default_factory=FileOptions)
    devices: int = 1
    image: bytes = field(default_factory=lambda: image_of(300_000))
    server_options: dict[str, Any] = field(default_factory=dict)
    used: UsedLinks | None = None
    tls: ssl.SSLContext | None = None
    wall: float = 0.0
    """How far its wall clock is ahead."""

    def __post_init__(self) -> None:
        self.source = MemorySource()
        self.source.put(self.image)
        self.facts = facts_of(image=self.image)
        self.server = BlockServer(
            self.source, **({"block_max": 16_384, "window_max": 16, "refusals_per_s": 2} | self.server_options)
        )
        self.names = [DeviceId("prod", f"d{number + 1}") for number in range(self.devices)]
        for number in range(self.devices):
            self.grant(number)
        self.server.is_loaded = True
        self.fetched: list[Cold] = []
        self.port = 0
        self.serving = Serving(
            server=self.server,
            secret=SECRET,
            options=self.options,
            fetch=self._fetch,
            used=self.used,
            wall=lambda: time.time() + self.wall,
        )

    async def _fetch(self, cold: Cold) -> None:
        self.fetched.append(cold)
        self.source.damaged = False

    def grant(self, number: int = 0, **changes: Any) -> None:
        plain: dict[str, Any] = {
            "deployment": self.deployment(number),
            "rollout": ROLLOUT,
            "state": GrantState.OPEN,
            "manifest": self.facts,
        }
        self.server.apply(GrantsChanged(device=self.names[number], grants=(Grant(**(plain | changes)),)))

    def withdraw(self, number: int = 0) -> None:
        """Nothing is open for the device any more."""
        self.server.apply(GrantsChanged(device=self.names[number], grants=()))

    def deployment(self, number: int = 0) -> DeploymentId:
        return DeploymentId(f"{number + 1:012x}")

    def path(self, number: int = 0, *, valid_s: float = 3600, secret: bytes = SECRET) -> str:
        until_s = int(time.time() + self.wall + valid_s)
        return "/f/" + make_code(secret, self.deployment(number), self.facts.sha256, until_s)

    def get(self, number: int = 0, *, method: str = "GET", path: str = "", **fields: str) -> str:
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in fields.items())
        return f"{method} {path or self.path(number)} HTTP/1.1\r\nHost: h\r\n{lines}\r\n"

    def blocks(self, number: int, count: int = 4) -> Any:
        """One request of the same device over MQTT."""
        request = BlockRequest(artifact=self.facts.sha256[:8], offset=0, size=4096, count=count)
        return self.server.answer(self.server.client(self.names[number]), request, mono=time.monotonic())

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["FileSite"]:
        listener = listening(HOST, 0)
        self.port = listener.getsockname()[1]
        self.files = FileServer(self.serving, listener, tls=self.tls)
        task = asyncio.create_task(self.files.run())
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if self.used is not None:
                self.used.close()

    @contextlib.asynccontextmanager
    async def line(self, *, tls: ssl.SSLContext | None = None, limit: int = 1 << 20) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection(HOST, self.port, ssl=tls, limit=limit)
        try:
            yield Line(reader, writer)
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def files(**changes: Any) -> AsyncIterator[FileSite]:
    """A site that runs for the length of a `with`; what is an option of the file server goes there."""
    known = FileOptions.__dataclass_fields__
    options = FileOptions(**{name: changes.pop(name) for name in tuple(changes) if name in known})
    async with FileSite(options=options, **changes).run() as site:
        yield site


def used_in(directory: Path) -> UsedLinks:
    return UsedLinks(directory / "links-used", time.time())
