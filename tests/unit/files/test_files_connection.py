"""One connection of the file server, asked over real sockets: what a device, a browser and an attacker get."""

import asyncio
import gc
import socket
import time

import pytest
from files_site import HOST, ROLLOUT, TENCENT, files, image_of, used_in
from harness import until

from ota_bridge.core.blocks import Served
from ota_bridge.core.errors import ArtifactCold
from ota_bridge.core.messages import BlockActivity, BlockTrouble, GrantState
from ota_bridge.core.values import Limits, Share
from ota_bridge.files.connection import HEAD_MAX_BYTES

SIZE = 300_000


# --- devices -------------------------------------------------------------------------------------------------


async def test_a_device_with_tencents_sdk_gets_its_image_resumes_it_and_is_told_when_it_has_it():
    async with files() as site:
        path = site.path()
        for start, status, expected in ((0, 206, site.image), (204_959, 206, site.image[204_959:]), (SIZE, 416, b"")):
            async with site.line() as line:
                found = await line.ask(TENCENT.format(path=path, start=start, size=SIZE))
                assert (status, expected) == (found.status, found.body)
        (told,) = site.server.drain(1_000.0, time.monotonic(), whole=True)
        assert isinstance(told, BlockActivity)
        assert (SIZE + SIZE - 204_959, SIZE) == (told.bytes_sent, told.high_water_bytes)


async def test_the_whole_head_and_the_first_bytes_come_with_a_single_read():
    async with files() as site:
        sock = socket.create_connection((HOST, site.port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, TENCENT.format(path=site.path(), start=0, size=SIZE).encode())
        first = await loop.sock_recv(sock, 1023)
        assert b"\r\n\r\n" in first[:500]
        assert b"\r\nContent-Length: 300000\r\n" in first
        sock.close()


async def test_one_connection_serves_one_request_after_the_other_also_those_sent_ahead():
    async with files() as site, site.line() as line:
        await line.send(site.get(Range="bytes=0-9") + site.get(method="HEAD") + site.get(path="/nothing"))
        assert site.image[:10] == (await line.reply()).body
        assert (200, "300000") == ((head := await line.head()).status, head.fields["Content-Length"])
        assert (404, b"") == ((found := await line.reply()).status, found.body)
        assert site.image == (await line.ask(site.get())).body


@pytest.mark.parametrize(
    "text",
    ["GET {path} HTTP/1.0\r\n\r\n", "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"],
)
async def test_who_does_not_keep_the_connection_sees_its_end_after_the_body(text):
    async with files() as site, site.line() as line:
        await line.send(text.format(path=site.path()))
        head, _, body = (await line.end()).partition(b"\r\n\r\n")
        assert (b"Connection: close", site.image) == (head.splitlines()[-1], body)


async def test_browsers_and_caches_get_proper_http():
    async with files() as site, site.line() as line:
        whole = await line.ask(site.get())
        tag = whole.fields["ETag"]
        assert (200, f'"{site.facts.sha256[:8].hex()}"') == (whole.status, tag)
        assert 304 == (await line.ask(site.get(If_None_Match=tag), body=False)).status
        part = await line.ask(site.get(Range="bytes=-10", If_Range=tag))
        assert (206, site.image[-10:]) == (part.status, part.body)
        assert (200, SIZE) == (
            (other := await line.ask(site.get(Range="bytes=5-", If_Range='"x"'))).status,
            len(other.body),
        )
        assert "bytes */300000" == (await line.ask(site.get(Range="bytes=300000-"))).fields["Content-Range"]
        spread = await line.ask(site.get(Range="bytes=5-6,8-9"))
        assert ("bytes 5-9/300000", site.image[5:10]) == (spread.fields["Content-Range"], spread.body)


# --- links ---------------------------------------------------------------------------------------------------


async def test_only_a_link_that_holds_opens_anything():
    async with files(devices=2) as site, site.line() as line:
        forged, expired = site.path(secret=bytes(32)), site.path(valid_s=-2)
        mixed = site.path(0)[:12] + site.path(1)[12:]
        for path, status in (
            (forged, 403), (expired, 403), (mixed, 403), ("/f/short", 404), ("/", 404), ("/robots.txt", 404),
            (site.path() + "x", 404), ("/f/../" + site.path(), 404), (site.path(), 200),
        ):  # fmt: skip
            found = await line.ask(site.get(path=path))
            assert (status, len(found.body)) == (found.status, SIZE if status == 200 else 0), path
        assert (3, 5) == (site.files.counters.forbidden, site.files.counters.not_found)


async def test_a_link_ends_with_its_deployment():
    async with files() as site, site.line() as line:
        path = site.path()
        site.withdraw()
        assert 404 == (await line.ask(site.get(path=path))).status
        site.grant(deployment="aaaaaaaaaaaa")  # another attempt has a link of its own
        assert 404 == (await line.ask(site.get(path=path))).status
        site.grant()
        assert 200 == (await line.ask(site.get(path=path))).status
        site.server.hold(ROLLOUT, GrantState.WITHDRAWN)
        assert 404 == (await line.ask(site.get(path=path))).status


async def test_a_link_whose_grant_is_on_its_way_is_no_stranger():
    async with files() as site, site.line() as line:
        site.withdraw()
        site.server.catch_up = site.grant
        assert 200 == (await line.ask(site.get())).status


async def test_a_link_that_may_be_used_once_ends_a_minute_after_its_image_was_sent_also_after_a_restart(tmp_path):
    async with files(used=used_in(tmp_path)) as site, site.line() as line:
        path = site.path()
        assert 206 == (await line.ask(site.get(path=path, Range="bytes=0-299998"))).status
        site.wall += 61
        assert 206 == (await line.ask(site.get(path=path, Range="bytes=299999-"))).status
        site.wall += 59
        assert 206 == (await line.ask(site.get(path=path, Range="bytes=200000-"))).status  # it may not have arrived
        site.wall += 2
        assert 403 == (await line.ask(site.get(path=path))).status
        assert 200 == (await line.ask(site.get())).status
    async with files(used=used_in(tmp_path), wall=122) as site, site.line() as line:
        assert 403 == (await line.ask(site.get(path=path))).status


# --- shared with blocks --------------------------------------------------------------------------------------


async def test_a_download_slot_counts_downloads_by_url_and_by_blocks_alike():
    async with files(devices=3, wait_s=0.5) as site:
        site.server.set_limits(Limits(downloads=1), time.monotonic() - 5)
        assert isinstance(site.blocks(0), Served)
        async with site.line() as line:
            await line.send(site.get(1))
            assert b"" == await line.end()  # no word: there is none that a device would understand
        troubles = site.server.drain(1_000.0, time.monotonic(), whole=True)
        assert [Share.SLOT] == [one.waits_for for one in troubles if isinstance(one, BlockTrouble)]
        assert 1 == site.files.counters.waited_in_vain
        site.withdraw(0)
        async with site.line() as line:
            assert 206 == (await line.ask(site.get(1, Range="bytes=0-9"), within_s=5)).status
        assert not isinstance(site.blocks(2), Served)


@pytest.mark.parametrize("why", ["paused", "not loaded", "damaged"])
async def test_who_has_to_wait_gets_no_answer_and_is_served_when_it_can_be(why):
    async with files() as site, site.line() as line:
        if why == "paused":
            site.server.hold(ROLLOUT, GrantState.PAUSED)
        elif why == "not loaded":
            site.server.is_loaded = False
        else:
            site.source.damaged = True
        await line.send(site.get())
        with pytest.raises(TimeoutError):
            await line.head(within_s=0.5)
        site.server.hold(ROLLOUT, None)
        site.server.is_loaded, site.source.damaged = True, False
        assert site.image == (await line.reply()).body


@pytest.mark.parametrize("why", ["withdrawn", "ended", "paused", "damaged"])
async def test_a_body_that_may_not_go_on_is_cut_and_nothing_of_it_is_made_up(why):
    image = image_of(8_000_000)
    async with files(image=image, wait_s=0.3) as site, site.line(limit=10_000) as line:
        await line.send(site.get())
        await line.reader.readexactly(100_000)
        match why:
            case "withdrawn":
                site.server.hold(ROLLOUT, GrantState.WITHDRAWN)
            case "ended":
                site.withdraw()
            case "paused":
                site.server.hold(ROLLOUT, GrantState.PAUSED)
            case "damaged":
                site.source.damaged = True
        rest = await line.end()
        assert len(rest) < 7_000_000
        assert rest in image
        assert (1, 0) == (site.files.counters.cut, site.files.counters.whole)


async def test_what_is_not_in_memory_is_read_first():
    async with files() as site, site.line() as line:
        site.source.damaged, site.source.error = True, ArtifactCold
        assert site.image == (await line.ask(site.get())).body
        assert 1 == len(site.fetched)


async def test_under_a_cap_a_body_goes_on_without_gaps_beside_devices_that_take_all_they_can():
    async with files(devices=4) as site, site.line() as line:
        site.server.set_limits(Limits(bytes_per_s=150_000), time.monotonic())
        await line.send(site.get())
        greedy = asyncio.create_task(take_all(site))
        head = await line.head(within_s=10)
        got, gaps, last = 0, [], time.monotonic()
        while got < 60_000:
            got += len(await line.reader.read(65_536))
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
        greedy.cancel()
        assert 200 == head.status
        assert max(gaps) < 0.9


async def take_all(site):
    while True:
        for number in range(1, 4):
            site.blocks(number, 16)
        await asyncio.sleep(0.02)


# --- hostile and broken clients ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", None),
        (b"\x00" * 100 + b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: g\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nx y: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * HEAD_MAX_BYTES + b"\r\n", 431),
        (b"GET /" + b"x" * 3 * HEAD_MAX_BYTES, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 3000, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n", 400),
        (b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\nHost: h\r\n\r\nSM\r\n\r\n", 405),
    ],
)
async def test_what_is_no_request_for_a_file_is_refused_and_hung_up_on(text, status):
    async with files(head_s=0.5) as site, site.line() as line:
        await line.send(text)
        answer = await line.end()
        if status is None:
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
        else:
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert answer.endswith(b"\r\nConnection: close\r\n\r\n")
            assert b"\r\nContent-Length: 0\r\n" in answer
        async with site.line() as other:
            assert 200 == (await other.ask(site.get())).status


async def test_a_request_that_never_becomes_whole_is_hung_up_on_however_it_drips():
    async with files(head_s=0.6, idle_s=5) as site, site.line() as line:
        began = time.monotonic()

        async def drip():
            for byte in site.get(X="x" * 2000):
                await line.send(byte)
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert b"" == await line.end(within_s=5)
        assert 0.5 <= time.monotonic() - began <= 2.5
        dripping.cancel()


async def test_a_connection_on_which_nothing_is_asked_is_hung_up_on():
    async with files(head_s=0.3, idle_s=0.3) as site:
        async with site.line() as line:
            assert b"" == await line.end(within_s=3)
        async with site.line() as line:
            assert 200 == (await line.ask(site.get())).status
            assert b"" == await line.end(within_s=3)


async def test_a_device_that_takes_nothing_is_hung_up_on_and_holds_little_memory():
    image = image_of(16_000_000)
    async with files(image=image, devices=20, stall_s=1.0) as site:
        lines = []
        for number in range(20):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((HOST, site.port))
            sock.sendall(site.get(number).encode())
            lines.append(sock)
        await until(lambda: 20 == site.files.counters.requests == len(site.serving.bodies.begun), within_s=10)
        await until(lambda: all(one._writer.transport.get_write_buffer_size() for one in site.files._connections))
        waiting = [one._writer.transport.get_write_buffer_size() for one in site.files._connections]
        assert max(waiting) <= 16_384 + 2 * 16_384
        sent = [one.high_water_bytes for one in site.server.drain(0.0, time.monotonic(), whole=True)]
        assert max(sent) <= 500_000  # of sixteen million: what is told as progress is about what was taken
        async with site.line() as line:
            assert 206 == (await line.ask(site.get(Range="bytes=0-99999"))).status
        await until(lambda: 20 == site.files.counters.stalled, within_s=10)
        assert not site.serving.bodies.begun
        for sock in lines:
            sock.close()
        gc.collect()


async def test_a_device_that_takes_nothing_gives_its_part_of_the_rates_back():
    async with files(image=image_of(16_000_000), stall_s=30.0) as site:
        site.server.set_limits(Limits(bytes_per_s=4_000_000), time.monotonic())
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((HOST, site.port))
        sock.sendall(site.get().encode())
        for reached in (lambda: site.server.shares._lanes, lambda: not site.server.shares._lanes):
            await until(reached, every_s=0.01)
        assert site.serving.bodies.begun
        sock.close()


async def test_a_slow_device_is_not_hung_up_on_while_it_takes_something():
    image = image_of(400_000)
    async with files(image=image, stall_s=1.0) as site:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (HOST, site.port))
        await loop.sock_sendall(sock, site.get().encode())
        got, began = b"", time.monotonic()
        while time.monotonic() - began < 2.5:
            got += await loop.sock_recv(sock, 2048)
            await asyncio.sleep(0.05)
        slow = len(got)
        while len(got) < len(image) + len(got.partition(b"\r\n\r\n")[0]) + 4:
            data = await loop.sock_recv(sock, 65_536)
            assert data, "hung up on"
            got += data
        print(slow, "bytes in 2.5 s")
        assert image == got.partition(b"\r\n\r\n")[2]
        sock.close()


async def test_a_device_that_goes_away_while_it_waits_leaves_nothing_behind():
    async with files(devices=2) as site:
        site.server.set_limits(Limits(downloads=1), time.monotonic() - 5)
        assert isinstance(site.blocks(0), Served)
        async with site.line() as line:
            await line.send(site.get(1))
            await until(lambda: 1 == site.files.counters.requests)
        await until(lambda: not site.files._connections, within_s=5)
        assert (0, set()) == (site.files.counters.whole, site.serving.bodies.begun)


async def test_a_device_that_goes_away_in_the_middle_is_no_error_of_ours(caplog):
    async with files(image=image_of(1_000_000), devices=8) as site:
        site.server.set_limits(Limits(bytes_per_s=400_000), time.monotonic() - 5)
        for number in range(8):
            async with site.line() as line:
                await line.send(site.get(number))
                await line.head()
        await until(lambda: not site.files._connections, within_s=10)
        assert (8, [], set()) == (site.files.counters.cut, caplog.messages, site.serving.bodies.begun)
        assert {} == site.server.shares._lanes


async def test_what_is_sent_to_one_that_has_gone_away_is_told_as_that():
    async with files() as site, site.line() as line:
        await line.ask(site.get())
        (one,) = site.files._connections
        one.hang_up()
        await until(lambda: not site.files._connections)
        with pytest.raises(ConnectionResetError):
            one._put(b"more")


async def test_an_error_in_one_connection_is_logged_and_ends_no_other(caplog):
    async with files() as site, site.line() as line, site.line() as other:
        site.serving.secret = None
        await line.send(site.get())
        assert b"" == await line.end()
        site.serving.secret = bytes(range(32))
        assert 200 == (await other.ask(site.get())).status
        assert "a connection of the file server failed" in caplog.text
