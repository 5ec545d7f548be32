"""The operators' side of the local socket: blocking, standard library only, one connection per request.

Every refusal of the daemon is raised as the OperatorError that it was there; no daemon is DaemonNotRunning.
"""

import json
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from ota_bridge.core.errors import Conflict, Forbidden, InvalidInput, NotFound, OperatorError

_ANSWER_MAX_BYTES: Final = 1 << 28
_SEND_BYTES: Final = 1 << 16
_READ_BYTES: Final = 1 << 16
_CONNECT_S: Final = 5.0

_BY_CODE: Final[Mapping[str, type[OperatorError]]] = {
    kind.code: kind for kind in (NotFound, Conflict, InvalidInput, Forbidden)
}


class DaemonNotRunning(OperatorError):
    """Nobody listens on the local socket."""

    code = "daemon_not_running"


class RefusedByDaemon(OperatorError):
    """A refusal that has no class of its own on this side; `code` is the daemon's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LocalClient:
    """Talks to the daemon whose socket is at `path`, showing `token` if there is one; waits `answer_s` seconds."""

    def __init__(self, path: Path, *, answer_s: float = 60.0, token: str | None = None) -> None:
        self._path = path
        self._shown: dict[str, str] = {} if token is None else {"token": token}
        self._answer_s = answer_s

    def call(
        self,
        op: str,
        args: Mapping[str, Any],
        *,
        upload: tuple[BinaryIO, int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Carry out `op`; `upload` is an open file and its size, `progress` hears how many bytes went."""
        request: dict[str, Any] = {"op": op, "args": dict(args), **self._shown}
        if upload is not None:
            request["upload_bytes"] = upload[1]
        with self._connected() as connection:
            lines = _Lines(connection)
            try:
                connection.sendall(_line(request))
                if upload is not None:
                    _send(connection, upload[0], upload[1], progress)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the daemon hung up: its answer, if any, is still there to be read
            return _result(lines.next())

    def stream(self, op: str, args: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Subscribe to `op`; waits without limit between items and ends when the daemon ends it."""
        with self._connected() as connection:
            connection.sendall(_line({"op": op, "args": dict(args), "stream": True, **self._shown}))
            connection.settimeout(None)
            lines = _Lines(connection)
            while "stream" in (answer := lines.next()):
                yield answer["stream"]
            _result(answer)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(str(self._path))
        except PermissionError as error:
            connection.close()
            raise OperatorError(
                f"not allowed to open {self._path}: use sudo -u, or have local.group name one of your groups"
            ) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            connection.close()
            raise DaemonNotRunning(f"no daemon is running (nothing listens on {self._path})") from error
        connection.settimeout(self._answer_s)
        return connection


class _Lines:
    """The answers on a connection, each one JSON object."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def next(self) -> dict[str, Any]:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _ANSWER_MAX_BYTES:
                raise OperatorError("the daemon's answer is too long; ask for less")
            try:
                chunk = self._connection.recv(_READ_BYTES)
            except TimeoutError:
                raise OperatorError("the daemon does not answer; its log may say why") from None
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise OperatorError("the daemon hung up without an answer; it may be shutting down")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OperatorError("the daemon's answer is not JSON; is it another version?")
        return answer


def _send(connection: socket.socket, source: BinaryIO, size: int, progress: Callable[[int], None] | None) -> None:
    """Send exactly `size` bytes, but stop as soon as an answer comes: it can only be a refusal."""
    sent = 0
    while sent < size:
        if select.select([connection], [], [], 0)[0]:
            return
        chunk = source.read(min(_SEND_BYTES, size - sent))
        if not chunk:
            raise InvalidInput(f"the file became shorter while it was sent: {sent} of {size} bytes")
        connection.sendall(chunk)
        sent += len(chunk)
        if progress is not None:
            progress(sent)


def _result(answer: dict[str, Any]) -> Any:
    if answer.get("ok") is True:
        return answer.get("result")
    error = answer.get("error")
    if not isinstance(error, dict):
        raise OperatorError("the daemon's answer is not understood; is it another version?")
    code, message = str(error.get("code")), str(error.get("message"))
    kind = _BY_CODE.get(code)
    raise kind(message) if kind is not None else RefusedByDaemon(code, message)


def _line(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
