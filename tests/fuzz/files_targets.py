"""What comes to the file server: requests, and the links in them."""

from collections.abc import Iterator

import h11

from ota_bridge.core.errors import Malformed
from ota_bridge.core.values import DeploymentId
from ota_bridge.files.answers import HEAD_MAX_BYTES, METHODS, answer, code_of
from ota_bridge.files.connection import HEAD_MAX_BYTES as REQUEST_MAX_BYTES
from ota_bridge.files.connection import asked_of
from ota_bridge.files.links import Link, make_code, read_code
from tests.fuzz.target import Target

SECRET, WALL, SIZE, DIGEST = bytes(32), 1_800_000_000.0, 300_000, bytes(range(8))
CODE = make_code(SECRET, DeploymentId("0123456789ab"), DIGEST, int(WALL) + 60)
FIELDS = ("Range", "If-Range", "If-Match", "If-None-Match", "Connection", "Host", "Content-Length", "Transfer-Encoding")
VALUES = (
    "bytes=0-300000", "bytes=204959-", "bytes=-1", "bytes=300000-300000", "bytes=1-2,5-9", "lines=1-2", "*",
    '"0001020304050607"', 'W/"0001020304050607"', "close", "chunked", "0", "5", "h",
)  # fmt: skip


def file_request(data: bytes) -> None:
    """Each request on a connection has one answer: a short head, and as many bytes as it says."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_MAX_BYTES)
    http.receive_data(data)
    for _ in range(8):
        try:
            event = http.next_event()
            is_whole = isinstance(event, h11.Request) and isinstance(http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            raise Malformed(f"no HTTP, told as {error.error_status_hint}") from error
        if not is_whole:
            raise Malformed("no request, or one that goes on")
        asked = asked_of(event)
        code = code_of(asked.target, "/ota")
        if code is not None and isinstance(found := read_code(SECRET, code, WALL), Link):
            assert CODE == code
            assert (found.deployment, found.image) == ("0123456789ab", DIGEST)
        if asked.method not in METHODS:
            raise Malformed("another method")
        answered(http, answer(asked, size=SIZE, digest=DIGEST))
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return
        http.start_next_cycle()


def answered(http, one) -> None:
    head = http.send(h11.Response(status_code=one.status, reason=one.status.phrase.encode(), headers=one.head(WALL)))
    assert head is not None
    assert len(head) <= HEAD_MAX_BYTES
    assert b"chunked" not in head.lower()
    assert one.status < 500
    span = one.span
    if span is not None:
        assert 0 <= span.start < span.end <= SIZE
        http.send_with_data_passthrough(h11.Data(data=memoryview(ZEROS)[: span.end - span.start]))
    http.send(h11.EndOfMessage())  # raises where that was not what the head says


def seeds() -> Iterator[bytes]:
    """Requests with each field that matters."""
    yield b"GET /f/%s HTTP/1.1\r\nHost: h\r\n\r\n" % CODE.encode()
    yield b"HEAD http://h/ota/f/%s?x HTTP/1.0\r\n\r\n" % CODE.encode()
    for name in FIELDS[:5]:
        yield b"".join(f"GET /f/{CODE} HTTP/1.1\r\nHost: h\r\n{name}: {value}\r\n\r\n".encode() for value in VALUES[:8])
    yield b"POST /f/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    yield b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"


ZEROS = bytes(SIZE)
TARGETS = (
    Target(
        name="file_request",
        about="requests to the file server, links, ranges",
        read=file_request,
        refusals=(Malformed,),
        words=tuple(word.encode() for word in (*FIELDS, *VALUES, CODE, "GET ", "HEAD ", " HTTP/1.1\r\n", "\r\n\r\n")),
        max_bytes=10_000,
        one_in=4,
        slow_s=0.05,
    ),
)
