"""One connection of the file server: requests in, heads and bodies out, each with its time.

1. A request has at most HEAD_MAX_BYTES, and comes whole within `head_s` of its first byte. That is waited for as long,
   and for `idle_s` after another request; what was sent ahead stays in the socket until its turn.
2. Who has to wait for a slot or its share waits here, silently, up to `wait_s`, and is then hung up on: see `answers`,
   rule 3. So does one whose body has begun.
3. Head and first piece go out in one write, since there are devices that read a head with a single call.
4. At most WRITE_BYTES wait to be sent, and UNSENT_BYTES more in the kernel: progress tells what a device has about had.
   A device that takes nothing for REST_S gives its lane back, after `stall_s` it is hung up on.
5. No exception leaves `serve` but the end of its task.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import h11

from ota_bridge.core.blocks import BlockServer, Client, Cold, Pass
from ota_bridge.core.bodies import ASK_AGAIN_S, NOTE_S, Bodies, Body, Later, Over
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.files import answers
from ota_bridge.files.answers import Answer, Asked
from ota_bridge.files.links import Link, LinkFault, read_code
from ota_bridge.files.used import UsedLinks

HEAD_MAX_BYTES: Final = 8_192
WRITE_BYTES: Final = 16_384
UNSENT_BYTES: Final = 16_384
REST_S: Final = 1.0
_READ_BYTES: Final = 4_096
_COLD_MAX: Final = 3
"""So often a piece is read from disk; if it was dropped again each time, the device waits."""
_PASSING: Final = frozenset({BlockRefusal.BUSY, BlockRefusal.PAUSED})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How long things may take, in seconds, and how many there may be."""

    base_path: str = ""
    connections_max: int = 1000
    wait_s: float = 20.0
    head_s: float = 10.0
    idle_s: float = 30.0
    stall_s: float = 60.0


@dataclass(slots=True)
class FileCounters:
    """Since the start of the process."""

    connections: int = 0
    turned_away: int = 0
    """Connections for which there was no room, and those that had to make room."""
    requests: int = 0
    whole: int = 0
    """Bodies that were sent to their end."""
    cut: int = 0
    """Bodies that were not."""
    waited_in_vain: int = 0
    stalled: int = 0
    forbidden: int = 0
    not_found: int = 0
    bad: int = 0


@dataclass(kw_only=True)
class Serving:
    """What all connections have in common."""

    server: BlockServer
    secret: bytes
    options: FileOptions
    fetch: Callable[[Cold], Awaitable[None]]
    used: UsedLinks | None = None
    mono: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    counters: FileCounters = field(default_factory=FileCounters)
    on_body: Callable[["Connection", Client], None] = lambda _connection, _client: None
    """Called before a body is sent."""

    def __post_init__(self) -> None:
        self.bodies = Bodies(self.server)


def asked_of(request: h11.Request) -> Asked:
    """What a request asks for. A field that is given twice is one list, as RFC 9110 has it."""
    fields: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return Asked(method=request.method.decode("latin-1"), target=request.target.decode("latin-1"), fields=fields)


class Connection:
    """See the module."""

    def __init__(self, serving: Serving, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_idle = True
        """Nothing has been asked yet, or all was answered."""
        self.device: Client | None = None
        """Who downloads over it now."""
        self._serving = serving
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        writer.transport.set_write_buffer_limits(high=WRITE_BYTES, low=WRITE_BYTES // 4)
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def hang_up(self) -> None:
        """End it now, whatever is still to be sent."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Answer requests until one side ends the connection."""
        try:
            wait_s = self._serving.options.head_s
            while (asked := await self._request(wait_s)) is not None:
                self._serving.counters.requests += 1
                self.is_idle = False
                await self._answer(asked)
                self.is_idle = True
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
                wait_s = self._serving.options.idle_s
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            _log.debug("a connection of the file server ended: %r", error)
        except Exception:  # noqa: BLE001 - one connection must not end the others
            _log.exception("a connection of the file server failed")
            self.hang_up()
        finally:
            self.device = None
            self._writer.close()

    # --- requests ----------------------------------------------------------------------------------------

    async def _request(self, wait_s: float) -> Asked | None:
        """The next request; None where none comes, or none that could be answered."""
        try:
            async with asyncio.timeout(wait_s) as limit:
                has_begun = False
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(_READ_BYTES))
                    if not has_begun:
                        has_begun = True
                        limit.reschedule(asyncio.get_running_loop().time() + self._serving.options.head_s)
        except TimeoutError:
            return None
        except h11.RemoteProtocolError as error:
            self._serving.counters.bad += 1
            self._refuse(answers.TOO_LARGE if error.error_status_hint == answers.TOO_LARGE.status else answers.BAD)
            return None
        return asked_of(event) if isinstance(event, h11.Request) else None

    def _has_body(self) -> bool:
        """Whether the request goes on after its head: none that can be answered does."""
        try:
            return not isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return True

    # --- answers -----------------------------------------------------------------------------------------

    async def _answer(self, asked: Asked) -> None:
        counters = self._serving.counters
        if self._has_body():
            counters.bad += 1
            self._refuse(answers.BAD)
            return
        if asked.method not in answers.METHODS:
            counters.bad += 1
            self._refuse(answers.OTHER_METHOD)
            return
        link = self._link(asked)
        if isinstance(link, Answer):
            await self._say(link)
            return
        found = await self._found(link)
        if found is None:
            counters.waited_in_vain += 1
            self.hang_up()
            return
        if isinstance(found, Answer):
            await self._say(found)
            return
        client, passed = found
        answer = answers.answer(asked, size=passed.end_bytes, digest=link.image)
        if answer.span is None:
            await self._say(answer)
            return
        self.device = client
        self._serving.on_body(self, client)
        body = self._serving.bodies.open(client, link.image, answer.span.start, answer.span.end)
        try:
            await self._send(answer, body)
        finally:
            self.device = None
            body.close(self._serving.mono())
            if body.offset < body.end:
                counters.cut += 1
        if body.offset == passed.end_bytes and self._serving.used is not None:
            self._serving.used.note(link, self._serving.wall())

    def _link(self, asked: Asked) -> Link | Answer:
        """What the request's link says, or why it is none."""
        serving = self._serving
        code = answers.code_of(asked.target, serving.options.base_path)
        link = LinkFault.MALFORMED if code is None else read_code(serving.secret, code, serving.wall())
        if link is LinkFault.MALFORMED:
            serving.counters.not_found += 1
            return answers.NOT_FOUND
        if isinstance(link, LinkFault):
            _log.debug("a link was refused: %s", link)
        elif serving.used is None or not serving.used.is_over(link, serving.wall()):
            return link
        serving.counters.forbidden += 1
        return answers.FORBIDDEN

    async def _found(self, link: Link) -> tuple[Client, Pass] | Answer | None:
        """Whose link it is and what it is for. None: it had to wait, and for too long."""
        server, mono = self._serving.server, self._serving.mono
        deadline_mono, noted_mono = mono() + self._serving.options.wait_s, 0.0
        while True:
            client = server.holder(link.deployment)
            verdict = BlockRefusal.NOT_OPEN if server.is_loaded else BlockRefusal.BUSY
            if client is not None and any(
                grant.deployment == link.deployment and grant.manifest.sha256.startswith(link.image)
                for grant in client.grants
            ):
                found = server.verdict(client, link.image)
                if isinstance(found, Pass):
                    return client, found
                verdict = found
            if verdict not in _PASSING:
                self._serving.counters.not_found += 1
                return answers.NOT_FOUND
            now = mono()
            if client is not None and now >= noted_mono + NOTE_S:
                noted_mono = now
                server.note(client, verdict, mono=now)
            if now + ASK_AGAIN_S > deadline_mono or self._is_gone():
                return None
            await asyncio.sleep(ASK_AGAIN_S)

    async def _send(self, answer: Answer, body: Body) -> None:
        """The head with the first piece, then the other pieces."""
        mono, wait_s = self._serving.mono, self._serving.options.wait_s
        deadline_mono = mono() + wait_s
        async for found in self._pieces(body):
            match found:
                case bytes():
                    await self._write(answer, body, found)
                    deadline_mono = mono() + wait_s
                case Over():
                    if self._http.our_state is h11.SEND_RESPONSE:
                        self._serving.counters.not_found += 1
                        await self._say(answers.NOT_FOUND)
                    else:
                        self.hang_up()
                    return
                case Later(after_s=after_s, code=code):
                    is_late = code is not None and mono() + after_s > deadline_mono
                    if is_late or self._writer.is_closing() or (not body.has_begun and self._is_gone()):
                        self._serving.counters.waited_in_vain += is_late
                        self.hang_up()
                        return
                    await asyncio.sleep(after_s)
        self._put(b"")
        self._writer.transport.set_write_buffer_limits(high=0)
        await self._drained(body)
        self._put(b"")
        self._writer.transport.set_write_buffer_limits(high=WRITE_BYTES, low=WRITE_BYTES // 4)
        self._http.send(h11.EndOfMessage())
        self._serving.counters.whole += 1

    async def _pieces(self, body: Body) -> AsyncIterator[bytes | Later | Over]:
        tries = 0
        while body.offset < body.end:
            found = body.next(self._serving.mono())
            if isinstance(found, Cold):
                tries += 1
                if tries > _COLD_MAX:
                    yield Later(ASK_AGAIN_S, BlockRefusal.BUSY)
                await self._serving.fetch(found)
                continue
            tries = 0
            yield found

    async def _write(self, answer: Answer, body: Body, piece: bytes) -> None:
        out = [piece]
        if self._http.our_state is h11.SEND_RESPONSE:
            out.insert(0, self._head(answer))
        self._http.send_with_data_passthrough(h11.Data(data=piece))
        self._put(b"".join(out))
        if not self._writer.transport.get_write_buffer_size():
            await asyncio.sleep(0)  # blocks have their turn between two pieces
            return
        await self._drained(body)

    async def _drained(self, body: Body) -> None:
        """Return when there is room again; raises TimeoutError where the device takes nothing for too long."""
        stall_s, transport = self._serving.options.stall_s, self._writer.transport
        left, since_mono = transport.get_write_buffer_size(), self._serving.mono()
        while True:
            try:
                async with asyncio.timeout(min(REST_S, stall_s)):
                    return await self._writer.drain()
            except TimeoutError:
                size, mono = transport.get_write_buffer_size(), self._serving.mono()
            if size < left:
                left, since_mono = size, mono
                continue
            body.rest(mono)
            if mono >= since_mono + stall_s:
                self._serving.counters.stalled += 1
                self.hang_up()
                raise TimeoutError

    async def _say(self, answer: Answer) -> None:
        """An answer without a body."""
        self._put(self._head(answer) + (self._http.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()

    def _refuse(self, answer: Answer) -> None:
        """An answer that ends the connection: what else came with the request is not read."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._put(self._head(answer, is_last=True))

    def _put(self, data: bytes) -> None:
        """Send; raises ConnectionResetError where the other side has hung up."""
        if self._writer.is_closing():  # uvloop raises a RuntimeError
            raise ConnectionResetError("the device hung up")
        self._writer.write(data)

    def _head(self, answer: Answer, *, is_last: bool = False) -> bytes:
        fields = answer.head(self._serving.wall())
        if is_last:
            fields.append((b"Connection", b"close"))
        response = h11.Response(status_code=answer.status, reason=answer.status.phrase.encode(), headers=fields)
        return self._http.send(response) or b""

    def _is_gone(self) -> bool:
        return self._writer.is_closing() or self._reader.at_eof()
