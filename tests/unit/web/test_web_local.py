"""The local socket: who may speak, what is understood, and that nothing hostile stops it."""

import asyncio
import getpass
import grp
import io
import json
import os
import socket
import stat
import threading
from dataclasses import replace

import pytest
import uvloop

from ota_bridge.core.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    InvalidInput,
    ManifestRefused,
    NotFound,
    OperatorError,
    RefusedReason,
    StoreError,
)
from ota_bridge.core.people import Caller
from ota_bridge.web.local import LINE_MAX_BYTES, LocalSocket, _caller
from ota_bridge.web.local_client import DaemonNotRunning, LocalClient


class FakeDaemon:
    """Answers a few operations and remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.callers = []
        self.streams_closed = asyncio.Event()
        self.hold = asyncio.Event()

    async def call(self, caller, op, args, upload):
        self.callers.append(caller)
        self.asked.append((caller.user, op, args))
        match op:
            case "echo":
                return args
            case "upload":
                return (b"".join([chunk async for chunk in upload])).decode()
            case "refuse-upload":
                raise Conflict("it exists already")
            case "hold":
                await self.hold.wait()
                return "held"
            case "raise":
                raise args["kind_"]
            case "big":
                return "x" * (3 << 20)
            case "bad-answer":
                return float("nan")
        if op in ERRORS:
            raise ERRORS[op]
        raise NotFound(f"no operation {op!r}")

    async def subscribe(self, caller, what, args):
        self.callers.append(caller)
        if what != "count":
            raise NotFound(f"no stream {what!r}")
        try:
            for number in range(args["to"]):
                yield {"number": number}
            if args.get("forever"):
                await asyncio.Event().wait()
        finally:
            self.streams_closed.set()


ERRORS = {
    "not-found": NotFound("no such device"),
    "conflict": Conflict("exists"),
    "invalid": InvalidInput("bad"),
    "manifest": ManifestRefused(RefusedReason.SIG, "nobody signed it"),
    "store": StoreError("disk full"),
    "forbidden": Forbidden("not you"),
    "bug": ZeroDivisionError("secret detail"),
}


@pytest.fixture
def daemon():
    return FakeDaemon()


@pytest.fixture
async def path(daemon, tmp_path):
    path = tmp_path / "s.sock"
    local = LocalSocket(
        path, call=daemon.call, subscribe=daemon.subscribe, idle_s=5, connections_max=8, upload_max_bytes=1 << 22
    )
    await local.start()
    yield path
    await local.stop()


async def ask(path, raw):
    """Send raw bytes; the answer lines until the daemon hangs up."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return [json.loads(line) for line in answer.splitlines()]


def request(op, args=None, **more):
    return json.dumps({"op": op, "args": args or {}, **more}).encode() + b"\n"


async def client_call(path, op, args=None, **more):
    return await asyncio.to_thread(LocalClient(path, answer_s=10).call, op, args or {}, **more)


async def test_only_the_owner_may_open_the_socket(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)


async def test_the_umask_is_as_it_was_before(path):
    before = os.umask(0)
    os.umask(before)
    assert before != 0o177


async def test_the_peers_user_is_the_actor(path, daemon):
    assert await client_call(path, "echo", {"a": 1}) == {"a": 1}
    assert daemon.asked == [(getpass.getuser(), "echo", {"a": 1})]


async def test_who_runs_as_the_daemon_does_is_its_owner_and_a_token_comes_along(path, daemon):
    await client_call(path, "echo")
    with_token = LocalClient(path, answer_s=10, token="ota_x")
    await asyncio.to_thread(with_token.call, "echo", {})
    await asyncio.to_thread(lambda: list(with_token.stream("count", {"to": 1})))
    me = Caller(user=getpass.getuser(), is_owner=True)
    assert daemon.callers == [me, replace(me, token="ota_x"), replace(me, token="ota_x")]


@pytest.mark.parametrize(("uid", "owner"), [(0, True), (os.geteuid(), True), (54_321, False)])
def test_only_root_and_the_daemons_user_own_it(uid, owner):
    assert _caller(uid).is_owner is owner


async def test_a_token_holds_for_its_request_alone(path, daemon):
    await ask(path, request("echo", token="ota_x") + request("echo"))
    assert [one.token for one in daemon.callers] == ["ota_x", None]


@pytest.mark.parametrize("token", [7, ["ota_x"], "x" * 129, True])
async def test_a_token_is_a_short_text(path, daemon, token):
    (answer,) = await ask(path, request("echo", token=token))
    assert answer["error"]["code"] == "malformed"
    assert daemon.callers == []


async def test_a_group_may_open_the_socket_where_one_is_named(daemon, tmp_path):
    group = grp.getgrgid(os.getegid()).gr_name
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe, group=group)
    await local.start()
    found = (tmp_path / "s").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getegid())
    await local.stop()


async def test_a_group_that_is_not_there_is_said_so(daemon, tmp_path):
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe, group="no-such-group")
    with pytest.raises(ConfigError, match=r"local.group = 'no-such-group': there is no such group"):
        await local.start()


def test_the_peers_user_is_known_under_uvloop_too(tmp_path):
    async def main():
        daemon = FakeDaemon()
        local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe)
        await local.start()
        assert await client_call(tmp_path / "s", "upload", upload=(io.BytesIO(b"abc"), 3)) == "abc"
        items = await asyncio.to_thread(lambda: list(LocalClient(tmp_path / "s").stream("count", {"to": 2})))
        await local.stop()
        return daemon.asked, items

    asked, items = uvloop.run(main())
    assert asked == [(getpass.getuser(), "upload", {})]
    assert items == [{"number": 0}, {"number": 1}]


async def test_several_requests_on_one_connection_are_answered_in_order(path):
    answers = await ask(path, b"".join(request("echo", {"n": n}) for n in range(5)))
    assert answers == [{"ok": True, "result": {"n": n}} for n in range(5)]


@pytest.mark.parametrize(
    ("op", "code", "message"),
    [
        ("not-found", "not_found", "no such device"),
        ("conflict", "conflict", "exists"),
        ("invalid", "invalid", "bad"),
        ("manifest", "refused", "REFUSED_SIG: nobody signed it"),
        ("store", "failed", "disk full"),
        ("bug", "internal", "bug failed unexpectedly; the daemon's log says why"),
        ("bad-answer", "internal", "bad-answer failed unexpectedly; the daemon's log says why"),
    ],
)
async def test_a_refusal_has_its_code_and_the_connection_goes_on(path, op, code, message):
    answers = await ask(path, request(op) + request("echo"))
    assert answers == [{"ok": False, "error": {"code": code, "message": message}}, {"ok": True, "result": {}}]


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"not json\n",
        b'{"op": 5}\n',
        b'{"op": ""}\n',
        b'{"op": "echo", "args": []}\n',
        b'{"op": "echo", "args": "x"}\n',
        b'{"op": "echo", "surprise": 1}\n',
        b'{"op": "echo", "op": "echo"}\n',
        b'{"op": "upload", "upload_bytes": -1}\n',
        b'{"op": "upload", "upload_bytes": "5"}\n',
        b'{"op": "upload", "upload_bytes": 1.5}\n',
        b'{"op": "upload", "upload_bytes": true}\n',
        b'{"op": "echo", "stream": 1}\n',
        b'{"op": "echo", "args": {"a": NaN}}\n',
        b"\xff\xfe\n",
        b"\0" * 100 + b"\n",
        b"[" * 5000 + b"\n",
        b'{"op": "echo", "args": {"a": ' + b"[" * 30 + b"]" * 30 + b"}}\n",
        b"x" * (LINE_MAX_BYTES + 10),
        b"x" * (LINE_MAX_BYTES + 10) + b"\n",
    ],
    ids=lambda raw: repr(raw[:30]),
)
async def test_a_hostile_line_is_answered_and_the_next_operator_is_served(path, daemon, raw):
    answers = await ask(path, raw)
    assert [answer["ok"] for answer in answers] == [False]
    assert answers[0]["error"]["code"] == "malformed"
    assert daemon.asked == []
    assert await client_call(path, "echo", {"still": "here"}) == {"still": "here"}


async def test_a_line_that_never_ends_is_no_request(path, daemon):
    assert await ask(path, b'{"op": "echo"') == []
    assert daemon.asked == []


async def test_an_upload_arrives_byte_for_byte_and_progress_is_told(path):
    content = bytes(range(97, 123)) * 50_000
    seen = []
    result = await client_call(path, "upload", upload=(io.BytesIO(content), len(content)), progress=seen.append)
    assert result == content.decode()
    assert seen[-1] == len(content)
    assert seen == sorted(seen)


async def test_an_empty_upload_is_an_upload(path):
    assert await client_call(path, "upload", upload=(io.BytesIO(b""), 0)) == ""


async def test_half_an_upload_is_refused_by_its_length(path):
    answers = await ask(path, request("upload", upload_bytes=10) + b"12345")
    assert answers == [{"ok": False, "error": {"code": "invalid", "message": "the upload ended after 5 of 10 bytes"}}]


async def test_an_upload_that_is_too_large_is_refused_before_it_is_sent(path, daemon):
    with pytest.raises(InvalidInput, match="at most 4194304 can be uploaded"):
        await client_call(path, "upload", upload=(io.BytesIO(b"x" * (1 << 23)), 1 << 23))
    assert daemon.asked == []


async def test_a_refusal_in_the_middle_of_an_upload_reaches_the_operator(path):
    with pytest.raises(Conflict, match="it exists already"):
        await client_call(path, "refuse-upload", upload=(io.BytesIO(b"x" * (1 << 22)), 1 << 22))


async def test_a_file_that_became_shorter_is_said_so(path):
    with pytest.raises(InvalidInput, match="became shorter"):
        await client_call(path, "upload", upload=(io.BytesIO(b"x" * 10), 20))


async def test_an_upload_that_stops_is_given_up(daemon, tmp_path):
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe, idle_s=0.05)
    await local.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(request("upload", upload_bytes=10) + b"123")
    async with asyncio.timeout(5):
        answer = json.loads(await reader.read())
    writer.close()
    await local.stop()
    assert answer["error"]["message"] == "the upload stopped after 3 of 10 bytes"


async def test_a_silent_operator_is_hung_up_on(daemon, tmp_path):
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe, idle_s=0.05)
    await local.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await local.stop()


async def test_more_connections_than_allowed_are_told_so_and_leave_room_for_others(path):
    held = [await asyncio.open_unix_connection(path) for _ in range(8)]
    for _, writer in held:
        writer.write(request("echo"))
    for reader, _ in held:
        await reader.readline()
    assert (await ask(path, b""))[0]["error"]["code"] == "busy"
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(5):
        while (await ask(path, request("echo")))[0]["ok"] is not True:
            pass


async def test_many_operators_at_once_are_all_answered(path):
    results = await asyncio.gather(*(client_call(path, "echo", {"n": n}) for n in range(8)))
    assert results == [{"n": n} for n in range(8)]


async def test_a_big_answer_arrives_whole(path):
    assert len(await client_call(path, "big")) == 3 << 20


async def test_a_stream_ends_with_ok(path):
    answers = await ask_stream(path, request("count", {"to": 2}, stream=True))
    assert answers == [{"stream": {"number": 0}}, {"stream": {"number": 1}}, {"ok": True, "result": None}]


async def ask_stream(path, raw):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return [json.loads(line) for line in answer.splitlines()]


async def test_a_stream_that_is_not_known_is_refused(path):
    with pytest.raises(NotFound, match="no stream 'weather'"):
        await asyncio.to_thread(lambda: list(LocalClient(path).stream("weather", {})))


async def test_a_bug_in_a_stream_is_answered_as_internal(path):
    assert (await ask_stream(path, request("count", stream=True)))[0]["error"]["code"] == "internal"


async def test_hanging_up_closes_the_stream(path, daemon):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request("count", {"to": 1, "forever": True}, stream=True))
    await reader.readline()
    writer.close()
    async with asyncio.timeout(5):
        await daemon.streams_closed.wait()


async def test_stop_ends_streams_and_idle_connections_and_removes_the_socket(daemon, tmp_path):
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe)
    await local.start()
    idle, idle_writer = await asyncio.open_unix_connection(tmp_path / "s")
    stream, stream_writer = await asyncio.open_unix_connection(tmp_path / "s")
    stream_writer.write(request("count", {"to": 1, "forever": True}, stream=True))
    await stream.readline()
    async with asyncio.timeout(2):
        await local.stop()
        assert (await idle.read(), await stream.read()) == (b"", b"")
    assert not (tmp_path / "s").exists()
    assert daemon.streams_closed.is_set()
    idle_writer.close()
    stream_writer.close()


async def test_stop_lets_a_running_call_end(daemon, tmp_path):
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe)
    await local.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(request("hold"))
    while not daemon.asked:
        await asyncio.sleep(0)
    stopping = asyncio.create_task(local.stop())
    await asyncio.sleep(0)
    daemon.hold.set()
    async with asyncio.timeout(5):
        assert json.loads(await reader.readline())["result"] == "held"
        await stopping
    writer.close()


async def test_a_stale_socket_file_is_replaced_and_another_file_is_not(daemon, tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    local = LocalSocket(tmp_path / "s", call=daemon.call, subscribe=daemon.subscribe)
    await local.start()
    assert await client_call(tmp_path / "s", "echo") == {}
    await local.stop()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="something else is there"):
        await LocalSocket(tmp_path / "file", call=daemon.call, subscribe=daemon.subscribe).start()
    assert (tmp_path / "file").read_text() == "precious"


async def test_a_path_that_cannot_be_bound_is_a_config_error(daemon, tmp_path):
    for path in (tmp_path / "no" / "such" / "dir", tmp_path / ("x" * 120)):
        with pytest.raises(ConfigError, match="local socket"):
            await LocalSocket(path, call=daemon.call, subscribe=daemon.subscribe).start()


def test_no_daemon_is_said_in_one_sentence(tmp_path):
    for path in (tmp_path / "none", tmp_path / ("x" * 200)):
        with pytest.raises(DaemonNotRunning, match="no daemon is running"):
            LocalClient(path).call("echo", {})


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[]\n", b"{}\n", b'{"ok": false}\n', b'{"ok": true'])
def test_an_answer_that_is_not_understood_is_an_operator_error(tmp_path, answer):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OperatorError):
            LocalClient(tmp_path / "s").call("echo", {})
        thread.join()
