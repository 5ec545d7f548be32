"""A small HTTP server of one file for tests: ranges as devices of vendors need them, and whatever is wrong on purpose."""

import asyncio
import contextlib
import re
from dataclasses import dataclass, field

RANGE = re.compile(rb"Range: bytes=(\d+)-(\d*)")


@dataclass
class WebServer:
    """`requests` holds every request as it came. `status` and `body` stand in for the right ones."""

    content: bytes
    status: str = ""
    body: bytes | None = None
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    _server: asyncio.Server | None = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error):
        self._server.close()

    async def _handle(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self._answer(self.requests[-1]))
            await writer.drain()
            await reader.read()  # the device hangs up
        writer.close()

    def _answer(self, request):
        content = self.content if self.body is None else self.body
        start, size = 0, len(content)
        if found := RANGE.search(request):
            start, end = int(found[1]), int(found[2] or size)
            content = content[start : end + 1]
        status = self.status or "206 Partial Content"
        if self.status:
            content = b""
        elif start >= size:
            status, content = "416 Range Not Satisfiable", b""
        head = f"HTTP/1.1 {status}\r\nContent-Range: bytes {start}-{start + len(content) - 1}/{size}\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
