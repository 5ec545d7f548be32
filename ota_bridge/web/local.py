"""The operators' local socket: a unix stream socket that only this user, root and, if one is named, a group can open.

One request at a time per connection, each a JSON object on one line:

    {"op": "rollout.start", "args": {…}}                        a call
    {"op": "release.add", "args": {…}, "upload_bytes": N}       the same, then N raw bytes
    {"op": "events", "args": {…}, "stream": true}               a subscription
    {"op": …, "args": {…}, "token": "ota_…"}                    each of them by the user of a token

and answered by one line, for a stream after any number of others:

    {"ok": true, "result": …}
    {"ok": false, "error": {"code": "not_found", "message": "…"}}
    {"stream": {…}}

1. Who acts is the peer's user, told by the kernel (SO_PEERCRED), or whose token the request shows; a name in a
   request is never looked at. Whether he may is not decided here.
2. Lines, uploads, connections and waiting are bounded. A request that does not parse is answered and ends
   the connection, because where the next one starts is not known.
3. No exception leaves: refusals are answered with their code, anything unexpected is logged and is `internal`.
"""

import asyncio
import contextlib
import functools
import grp
import json
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ota_bridge.accept import Acceptor
from ota_bridge.core.errors import (
    ConfigError,
    InvalidInput,
    KeysetRefused,
    Malformed,
    ManifestRefused,
    OperatorError,
    OtaBridgeError,
)
from ota_bridge.core.people import Caller
from ota_bridge.decode import Fields, read_json

LINE_MAX_BYTES: Final = 1 << 20
UPLOAD_MAX_BYTES: Final = 1 << 30
CONNECTIONS_MAX: Final = 64

_TOKEN_MAX_BYTES: Final = 128
_ITEMS_MAX: Final = 200_000
_UPLOAD_CHUNK_BYTES: Final = 1 << 18
_STOP_GRACE_S: Final = 0.5
_PATH_MAX_BYTES: Final = 107
_ANSWER_BUFFER_BYTES: Final = 1 << 20

_log = logging.getLogger(__name__)

Call = Callable[[Caller, str, dict[str, Any], AsyncIterator[bytes] | None], Awaitable[Any]]
"""`call(caller, op, args, upload)`: carries out an operation and returns plain JSON values."""

Subscribe = Callable[[Caller, str, dict[str, Any]], AsyncIterator[dict[str, Any]]]
"""`subscribe(caller, what, args)`: plain JSON objects until the subscriber goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    op: str
    args: dict[str, Any]
    upload_bytes: int | None
    is_stream: bool
    token: str | None = field(default=None, repr=False)


class LocalSocket:
    """Serves operators until stopped. The caller holds the data directory's lock, so a socket file is stale."""

    def __init__(
        self,
        path: Path,
        *,
        call: Call,
        subscribe: Subscribe,
        group: str = "",
        idle_s: float = 60.0,
        connections_max: int = CONNECTIONS_MAX,
        upload_max_bytes: int = UPLOAD_MAX_BYTES,
    ) -> None:
        self._path = path
        self._call = call
        self._subscribe = subscribe
        self._group = group
        self._idle_s = idle_s
        self._connections_max = connections_max
        self._upload_max_bytes = upload_max_bytes
        self._acceptor: Acceptor | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def start(self) -> None:
        """Listen; raises ConfigError where the path cannot be used."""
        listener = _bound(self._path, self._group)
        self._acceptor = Acceptor(listener, self._serve, name="local socket", limit=LINE_MAX_BYTES)

    async def stop(self) -> None:
        """Take no more requests, let running calls end for a moment, hang up."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        self._acceptor = None
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_GRACE_S):
                await self._quiet.wait()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writer.transport.set_write_buffer_limits(high=_ANSWER_BUFFER_BYTES)
        try:
            if len(self._connections) > self._connections_max:
                await self._send(writer, _error("busy", f"{self._connections_max} operators are connected already"))
                return
            peer = _caller(_peer_uid(writer))
            task.set_name(f"local-socket {peer.user}")
            while await self._one_request(peer, reader, writer):
                pass
        except asyncio.CancelledError:
            pass  # by stop(); asyncio before 3.12 logs a cancelled connection as an error
        except (ConnectionError, TimeoutError, EOFError):
            writer.transport.abort()  # the operator went away, or does not read
        except Exception:  # noqa: BLE001 - rule 3, the edge
            _log.exception("local socket: connection ended by an unexpected error")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _one_request(self, peer: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False where the connection has to end."""
        try:
            async with asyncio.timeout(self._idle_s):
                line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            await self._send(writer, _error("malformed", f"the request is longer than {LINE_MAX_BYTES} bytes"))
            return False
        except asyncio.IncompleteReadError:
            return False
        try:
            request = _read_request(line, self._upload_max_bytes)
        except OtaBridgeError as error:
            await self._send(writer, _refusal(error))
            return False
        caller = replace(peer, token=request.token)
        if request.is_stream:
            await self._stream(caller, request, reader, writer)
            return False
        upload = None if request.upload_bytes is None else Upload(reader, request.upload_bytes, self._idle_s)
        self._busy += 1
        self._quiet.clear()
        try:
            await self._send(writer, await self._answer(caller, request, upload))
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()
        if upload is not None:
            await upload.discard()
        return True

    async def _answer(self, caller: Caller, request: _Request, upload: "Upload | None") -> bytes:
        try:
            result = await self._call(caller, request.op, request.args, upload)
            return _line({"ok": True, "result": result})
        except OtaBridgeError as error:
            return _refusal(error)
        except Exception:  # noqa: BLE001 - rule 3, the edge
            _log.exception("local socket: %s failed", request.op, extra={"actor": caller.user})
            return _error("internal", f"{request.op} failed unexpectedly; the daemon's log says why")

    async def _stream(
        self, caller: Caller, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send until the source ends or the operator hangs up (which only reading tells)."""
        pump = asyncio.create_task(self._pump(caller, request, writer), name=f"local-socket stream {request.op}")
        hang_up = asyncio.create_task(reader.read(1), name=f"local-socket hang-up {request.op}")
        try:
            await asyncio.wait({pump, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pump, hang_up):
                task.cancel()
            await asyncio.gather(pump, hang_up, return_exceptions=True)

    async def _pump(self, caller: Caller, request: _Request, writer: asyncio.StreamWriter) -> None:
        try:
            source = self._subscribe(caller, request.op, request.args)
            try:
                async for item in source:
                    await self._send(writer, _line({"stream": item}))
            finally:
                if isinstance(source, AsyncGenerator):
                    await source.aclose()
            await self._send(writer, _line({"ok": True, "result": None}))
        except OtaBridgeError as error:
            await self._send(writer, _refusal(error))
        except (ConnectionError, TimeoutError):
            return
        except Exception:  # noqa: BLE001 - rule 3, the edge
            _log.exception("local socket: stream %s failed", request.op)
            await self._send(writer, _error("internal", f"{request.op} failed unexpectedly; the daemon's log says why"))

    async def _send(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(line)
        async with asyncio.timeout(self._idle_s):  # an operator who does not read does not hold us
            await writer.drain()


class Upload:
    """The raw bytes that follow a request: an async iterator that yields exactly `size` bytes or raises."""

    def __init__(self, reader: asyncio.StreamReader, size: int, idle_s: float) -> None:
        self.size = size
        self._left = size
        self._reader = reader
        self._idle_s = idle_s

    def __aiter__(self) -> "Upload":
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._idle_s):
                chunk = await self._reader.read(min(self._left, _UPLOAD_CHUNK_BYTES))
        except TimeoutError:
            raise InvalidInput(f"the upload stopped after {self.size - self._left} of {self.size} bytes") from None
        if not chunk:
            raise InvalidInput(f"the upload ended after {self.size - self._left} of {self.size} bytes")
        self._left -= len(chunk)
        return chunk

    async def discard(self) -> None:
        """Read what a refused operation left, so that the answer can still be read on the other side."""
        try:
            async for _ in self:
                pass
        except InvalidInput:
            raise EOFError from None


def _read_request(line: bytes, upload_max_bytes: int) -> _Request:
    document = read_json(line, max_bytes=LINE_MAX_BYTES + 1, max_items=_ITEMS_MAX, floats=True)
    fields = Fields(document, name="request")
    fields.only("op", "args", "upload_bytes", "stream", "token")
    args = document.get("args", {})
    if not isinstance(args, dict):
        raise Malformed("request.args must be a map")
    request = _Request(
        op=fields.text("op", min_bytes=1, max_bytes=64),
        args=args,
        upload_bytes=fields.optional(fields.uint, "upload_bytes", maximum=2**63 - 1),
        is_stream=fields.flag("stream") if "stream" in fields else False,
        token=fields.optional(fields.text, "token", max_bytes=_TOKEN_MAX_BYTES),
    )
    if request.upload_bytes is not None and request.upload_bytes > upload_max_bytes:
        raise InvalidInput(f"{request.upload_bytes} bytes are too many: at most {upload_max_bytes} can be uploaded")
    return request


def _refusal(error: OtaBridgeError) -> bytes:
    if isinstance(error, OperatorError):
        return _error(error.code, str(error))
    if isinstance(error, ManifestRefused | KeysetRefused):
        return _error("refused", str(error))
    if isinstance(error, Malformed):
        return _error("malformed", str(error))
    return _error("failed", str(error))


def _error(code: str, message: str) -> bytes:
    return _line({"ok": False, "error": {"code": code, "message": message}})


def _line(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _bound(path: Path, group: str) -> socket.socket:
    """A listening socket with mode 0600 from its first moment; then with 0660, where it is a group's."""
    if len(os.fsencode(path)) > _PATH_MAX_BYTES:
        raise ConfigError(f"local socket {path}: the path is longer than {_PATH_MAX_BYTES} bytes; set local.socket")
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        else:
            raise ConfigError(f"local socket {path}: something else is there; remove it or set local.socket")
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # not chmod after bind: there would be a moment in between
    try:
        listener.bind(os.fspath(path))
        if group:
            os.chown(path, -1, _group_id(group))
            path.chmod(0o660)
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise ConfigError(f"local socket {path}: {error.strerror}") from error
    except ConfigError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"local.group = {name[:60]!r}: there is no such group on this machine") from None


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    descriptor = writer.get_extra_info("socket").fileno()
    with socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", packed)[1]
    return uid


@functools.cache
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _caller(uid: int) -> Caller:
    return Caller(user=_user_name(uid), is_owner=uid in {0, os.geteuid()})
