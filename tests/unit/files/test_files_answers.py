"""Requests and the heads that answer them, as a table: what is sent is all that a small device ever reads of HTTP."""

from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.files.answers import (
    BAD,
    FORBIDDEN,
    HEAD_MAX_BYTES,
    NOT_FOUND,
    OTHER_METHOD,
    TOO_LARGE,
    Asked,
    answer,
    code_of,
)
from ota_bridge.files.ranges import Span

SIZE = 300_000
DIGEST = bytes.fromhex("c476dbad16fab319")
TAG = '"c476dbad16fab319"'
WALL = 1_800_000_000.0
TENCENT = {
    "host": "ota.test",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-encoding": "gzip, deflate",
}


def asked(method="GET", **fields):
    return Asked(method=method, target="/f/x", fields={name.replace("_", "-"): text for name, text in fields.items()})


def given_to(method="GET", size=SIZE, **fields):
    return answer(asked(method, **fields), size=size, digest=DIGEST)


def text_of(one, wall=WALL):
    """The head on the wire, as h11 writes it."""
    http = h11.Connection(h11.SERVER)
    http.receive_data(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    http.next_event()
    head = h11.Response(status_code=one.status, reason=one.status.phrase.encode(), headers=one.head(wall))
    return http.send(head).decode()


def test_the_head_of_a_first_request_of_tencents_sdk_byte_for_byte():
    found = answer(
        Asked(method="GET", target="/f/x", fields={**TENCENT, "range": "bytes=0-300000"}), size=SIZE, digest=DIGEST
    )
    assert Span(0, 300_000) == found.span
    assert text_of(found) == (
        "HTTP/1.1 206 Partial Content\r\n"
        "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n"
        "Content-Type: application/octet-stream\r\n"
        "Content-Length: 300000\r\n"
        "Content-Range: bytes 0-299999/300000\r\n"
        'ETag: "c476dbad16fab319"\r\n'
        "Accept-Ranges: bytes\r\n"
        "Cache-Control: private, no-transform\r\n"
        "\r\n"
    )


def test_a_resume_at_the_end_is_told_the_size_and_an_empty_body():
    found = given_to(range="bytes=300000-300000")
    assert (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, None) == (found.status, found.span)
    assert "\r\nContent-Range: bytes */300000\r\nContent-Length: 0\r\n" in text_of(found)


def test_whatever_a_request_accepts_nothing_is_compressed_or_sent_in_chunks():
    for fields in (TENCENT, {"te": "trailers, chunked", "accept-encoding": "br, gzip;q=1.0, identity;q=0"}):
        head = text_of(answer(Asked(method="GET", target="/f/x", fields=fields), size=SIZE, digest=DIGEST))
        assert ("Encoding" in head, "\r\nContent-Length: 300000\r\n" in head) == (False, True)


@pytest.mark.parametrize(
    ("method", "fields", "status", "span"),
    [
        ("GET", {}, 200, Span(0, SIZE)),
        ("HEAD", {}, 200, None),
        ("HEAD", {"range": "bytes=5-9"}, 200, None),  # ranges are of GET only
        ("GET", {"range": "bytes=5-9"}, 206, Span(5, 10)),
        ("GET", {"range": "bytes=-9"}, 206, Span(SIZE - 9, SIZE)),
        ("GET", {"range": "bytes=1-2,7-9"}, 206, Span(1, 10)),
        ("GET", {"range": "nonsense"}, 416, None),
        ("GET", {"range": "lines=1-2"}, 200, Span(0, SIZE)),
        ("GET", {"range": "bytes=5-9", "if_range": TAG}, 206, Span(5, 10)),
        ("GET", {"range": "bytes=5-9", "if_range": '"another"'}, 200, Span(0, SIZE)),
        ("GET", {"range": "bytes=5-9", "if_range": "W/" + TAG}, 200, Span(0, SIZE)),
        ("GET", {"range": "bytes=5-9", "if_range": "Fri, 15 Jan 2027 08:00:00 GMT"}, 200, Span(0, SIZE)),
        ("GET", {"range": f"bytes={SIZE}-", "if_range": '"another"'}, 200, Span(0, SIZE)),
        ("GET", {"if_none_match": TAG}, 304, None),
        ("HEAD", {"if_none_match": TAG}, 304, None),
        ("GET", {"if_none_match": f'"a", W/{TAG}'}, 304, None),
        ("GET", {"if_none_match": "*"}, 304, None),
        ("GET", {"if_none_match": '"another"'}, 200, Span(0, SIZE)),
        ("GET", {"if_none_match": "c476dbad16fab319"}, 200, Span(0, SIZE)),
        ("GET", {"if_match": TAG, "range": "bytes=5-9"}, 206, Span(5, 10)),
        ("GET", {"if_match": "*"}, 200, Span(0, SIZE)),
        ("GET", {"if_match": '"another"', "range": "bytes=5-9"}, 412, None),
        ("GET", {"if_match": "W/" + TAG}, 412, None),
        ("GET", {"if_modified_since": "Fri, 15 Jan 2027 08:00:00 GMT"}, 200, Span(0, SIZE)),
    ],
)
def test_every_request_has_its_answer(method, fields, status, span):
    found = given_to(method, **fields)
    assert (status, span) == (found.status, found.span)


def test_the_head_of_a_head_request_is_that_of_a_get():
    assert text_of(given_to("HEAD")) == text_of(given_to("GET"))


def test_an_empty_image_has_no_body():
    found = given_to(size=0)
    assert (200, None) == (found.status, found.span)
    assert "\r\nContent-Length: 0\r\n" in text_of(found)


ANSWERS = [
    *(BAD, FORBIDDEN, NOT_FOUND, OTHER_METHOD, TOO_LARGE),
    *(given_to(range=text) for text in ("bytes=0-0", "bytes=1-", "nonsense")),
    given_to(),
    given_to(if_none_match="*"),
    given_to(if_match='""'),
    given_to(size=1 << 40, range=f"bytes=0-{(1 << 40) - 2}"),
]


@pytest.mark.parametrize("one", ANSWERS, ids=lambda one: str(int(one.status)))
def test_every_head_is_short_and_says_its_length_as_devices_look_for_it(one):
    head = text_of(one)
    assert len(head) + len("Connection: close\r\n") <= HEAD_MAX_BYTES
    assert (one.status != HTTPStatus.NOT_MODIFIED) is ("\r\nContent-Length: " in head)
    assert "transfer-encoding" not in head.lower()
    assert not 500 <= one.status
    assert one.status not in {301, 302, 303, 307, 308}


@pytest.mark.parametrize(
    ("target", "base", "expected"),
    [
        ("/f/abc", "", "abc"),
        ("/f/abc?x=1", "", "abc"),
        ("/f/abc", "/ota/", "abc"),
        ("/ota/f/abc", "/ota/", "abc"),
        ("/ota/f/abc", "/ota", "abc"),
        ("/other/f/abc", "/ota", None),
        ("http://h:8080/f/abc", "", "abc"),
        ("HTTPS://h/ota/f/abc?x", "/ota", "abc"),
        ("/f/a/b", "", "a/b"),
        ("/f/", "", ""),
        ("/f", "", None),
        ("/", "", None),
        ("*", "", None),
        ("h:443", "", None),
        ("/F/abc", "", None),
        ("/x?http://h/f/abc", "", None),
    ],
)
def test_the_code_is_what_follows_the_path(target, base, expected):
    assert expected == code_of(target, base)


NAMES = st.sampled_from(["range", "if-range", "if-match", "if-none-match", "accept-encoding", "te"])


@given(st.sampled_from(["GET", "HEAD"]), st.dictionaries(NAMES, st.text(max_size=40)), st.integers(0, 1 << 41))
def test_no_fields_raise_and_the_length_is_that_of_the_body(method, fields, size):
    found = answer(Asked(method=method, target="/f/x", fields=fields), size=size, digest=DIGEST)
    assert len(text_of(found)) <= HEAD_MAX_BYTES
    if found.span is not None:
        assert str(found.span.end - found.span.start) == dict(found.fields)["Content-Length"]
        assert 0 <= found.span.start < found.span.end <= size
