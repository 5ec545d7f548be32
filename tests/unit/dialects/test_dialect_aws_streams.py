"""File streams: requests as devices write them, and answers that each of their parsers can read."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.clients import cbor_loose
from device_sim.clients.aws_streams import read_block
from ota_bridge.core.errors import Malformed
from ota_bridge.dialects import aws_streams
from ota_bridge.dialects.aws_streams import (
    GetStream,
    StreamRefused,
    artifact_of,
    read_describe,
    read_get,
    stream_name,
    write_block,
    write_cbor,
    write_description,
    write_json,
    write_refusal,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "aws"
DIGEST = bytes(range(32))
DATA = Random(5).randbytes(4096)


def recorded(name):
    exchange = json.loads((VECTORS / f"{name}.json").read_text())["exchange"]
    for step in exchange:
        if "/get/" in step["topic"] and "/streams/" in step["topic"]:
            yield bytes.fromhex(step["hex"]) if "hex" in step else step["text"].encode()


def test_a_stream_is_named_after_its_image_in_44_bytes():
    assert "AFR_OTA-00010203-0405-0607-0809-0a0b0c0d0e0f" == stream_name(DIGEST)
    assert 44 == len(stream_name(DIGEST))
    assert DIGEST[:16] == artifact_of(stream_name(DIGEST))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "AFR_OTA-",
        "AFR_OTA-0",
        stream_name(DIGEST) + "0",
        stream_name(DIGEST).upper(),
        "x" + stream_name(DIGEST)[1:],
    ],
)
def test_any_other_name_is_no_stream(name):
    assert artifact_of(name) is None


# --- what was recorded -----------------------------------------------------------------------------------------------


def test_recorded_requests_in_json_ask_for_one_block_after_another():
    requests = [read_get(payload, is_cbor=False) for payload in recorded("exchange-jobs-json")]
    assert [GetStream(token=None, block_bytes=4096, offset=i, count=1, bitmap=None) for i in range(76)] == requests


def test_the_junk_bitmap_of_the_streams_library_counts_as_none():
    requests = [read_get(payload, is_cbor=True) for payload in recorded("exchange-jobs-cbor")]
    assert [GetStream(token="rdy", block_bytes=4096, offset=i, count=1, bitmap=None) for i in range(76)] == requests


def test_the_bitmap_of_the_older_agent_counts():
    requests = [read_get(payload, is_cbor=True) for payload in recorded("exchange-older-agent")]
    assert 76 == len(requests)
    assert {(0, 1, 4096, 10)} == {(one.offset, one.count, one.block_bytes, len(one.bitmap)) for one in requests}
    assert bytes.fromhex("feffffffffffffffff0f") == requests[1].bitmap


# --- requests --------------------------------------------------------------------------------------------------------

GOOD = {"f": 0, "l": 4096}
REQUESTS = [
    ("the least: as many as 128 KiB hold", {}, (0, 32, None)),
    ("an offset", {"o": 98_304}, (98_304, 32, None)),
    ("a count", {"n": 3}, (0, 3, None)),
    ("a count past 128 KiB is cut", {"n": 98_304}, (0, 32, None)),
    ("the largest block", {"l": 131_072}, (0, 1, None)),
    ("the smallest block", {"l": 256}, (0, 512, None)),
    ("the version that all streams have", {"s": 1}, (0, 32, None)),
    ("keys that nobody knows", {"x": "y"}, (0, 32, None)),
]


@pytest.mark.parametrize("is_cbor", [False, True], ids=["json", "cbor"])
@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS])
def test_a_request_means(change, expected, is_cbor):
    body = {**GOOD, **change}
    found = read_get(cbor(body) if is_cbor else write_json(body), is_cbor=is_cbor)
    assert (*expected, body["l"]) == (found.offset, found.count, found.bitmap, found.block_bytes)


REFUSED = [
    ("another version", {"s": 2}, "VersionMismatch"),
    ("a version past 16 bits", {"s": 65_536}, "InvalidRequest"),
    ("another file", {"f": 1}, "ResourceNotFound"),
    ("a file past 8 bits", {"f": 256}, "InvalidRequest"),
    ("no file", {"f": None}, "InvalidRequest"),
    ("a file as text", {"f": "0"}, "InvalidRequest"),
    ("a block too small", {"l": 255}, "BlockSizeOutOfBounds"),
    ("a block too large", {"l": 131_073}, "BlockSizeOutOfBounds"),
    ("no block size", {"l": None}, "InvalidRequest"),
    ("an offset too large", {"o": 98_305}, "OffsetOutOfBounds"),
    ("a count too large", {"n": 98_305}, "BlockCountLimitExceeded"),
    ("no blocks", {"n": 0}, "InvalidRequest"),
    ("a long token", {"c": "x" * 65}, "InvalidRequest"),
    ("a token that is none", {"c": 7}, "InvalidRequest"),
    ("a huge number", {"o": 2**63}, "OffsetOutOfBounds"),
]


@pytest.mark.parametrize("is_cbor", [False, True], ids=["json", "cbor"])
@pytest.mark.parametrize(("change", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_request_is_refused_with_its_code(change, code, is_cbor):
    body = {key: value for key, value in {"c": "rdy", **GOOD, **change}.items() if value is not None}
    with pytest.raises(StreamRefused) as caught:
        read_get(cbor(body) if is_cbor else write_json(body), is_cbor=is_cbor)
    assert code == caught.value.code
    assert (None if "c" in change else "rdy") == caught.value.token


def cbor(body):
    return bytes([0xA0 | len(body)]) + b"".join(write_cbor(key) + write_cbor(value) for key, value in body.items())


@pytest.mark.parametrize("text", ["130080", "0x130080", "0X130080"])
def test_a_bitmap_in_json_is_hexadecimal_with_or_without_its_mark(text):
    if text.startswith("0X"):
        with pytest.raises(StreamRefused):
            read_get(write_json({**GOOD, "b": text}), is_cbor=False)
        return
    assert b"\x13\x00\x80" == read_get(write_json({**GOOD, "b": text}), is_cbor=False).bitmap


@pytest.mark.parametrize(
    ("payload", "is_cbor", "code"),
    [
        (write_json({**GOOD, "b": "1"}), False, "InvalidRequest"),
        (write_json({**GOOD, "b": "zz"}), False, "InvalidRequest"),
        (write_json({**GOOD, "b": ""}), False, "InvalidRequest"),
        (write_json({**GOOD, "b": "00"}), False, "InvalidRequest"),
        (write_json({**GOOD, "b": "ff" * 12_288}), False, "BlockBitmapLimitExceeded"),
        (cbor({**GOOD, "b": b"\xff" * 12_288}), True, "BlockBitmapLimitExceeded"),
        (cbor({**GOOD, "b": "MQ=="}), True, "InvalidRequest"),
        (b"", False, "InvalidJson"),
        (b"", True, "InvalidCbor"),
        (b"[]", False, "InvalidJson"),
        (b"{", False, "InvalidJson"),
        (b"\x80", True, "InvalidCbor"),
        (b"\xc0\xa0", True, "InvalidCbor"),
        (b"\xbf\xff", True, "InvalidCbor"),
        (b"\xa1\x61f" + b"\x81" * 5000 + b"\x00", True, "InvalidCbor"),
        (b'{"f":' + b"[" * 5000 + b"]" * 5000 + b"}", False, "InvalidJson"),
        (b'{"f":' + b"9" * 400 + b"}", False, "InvalidJson"),
        (b"\xa1\x61f\x1b\xff\xff\xff\xff\xff\xff\xff\xff", True, "InvalidRequest"),
        (b"\xa1\x61f\xc2\x41\x00", True, "InvalidCbor"),
        (b"\xa1\x61f\x5b\xff\xff\xff\xff\xff\xff\xff\xff", True, "InvalidCbor"),
        (b"\xa1\x00\x00", True, "InvalidCbor"),
        (b'{"f":0,"f":0,"l":256}', False, "InvalidJson"),
        (b'{"f":0,"l":4096.0}', False, "InvalidJson"),
        (b'{"f":true,"l":4096}', False, "InvalidRequest"),
        (b" " * 30_000, False, "InvalidJson"),
    ],
)
def test_what_is_no_request_is_refused(payload, is_cbor, code):
    with pytest.raises(StreamRefused) as caught:
        read_get(payload, is_cbor=is_cbor)
    assert code == caught.value.code


def test_a_bitmap_of_the_largest_size_is_taken():
    bitmap = b"\xff" * 12_287
    assert bitmap == read_get(cbor({**GOOD, "b": bitmap}), is_cbor=True).bitmap
    assert bitmap == read_get(write_json({**GOOD, "b": bitmap.hex()}), is_cbor=False).bitmap


@given(st.binary(max_size=200), st.booleans())
def test_nothing_but_a_refusal_leaves_the_decoders(payload, is_cbor):
    for read in (read_get, read_describe):
        try:
            read(payload, is_cbor=is_cbor)
        except StreamRefused as refused:
            write_refusal(refused, is_cbor=is_cbor)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            key: st.one_of(
                st.integers(0, 2**64 - 1), st.integers(0, 200_000), st.text(max_size=5), st.binary(max_size=5)
            )
            for key in "csflonb"
        },
    )
)
def test_a_request_that_is_taken_is_within_all_bounds(body):
    try:
        found = read_get(cbor(body), is_cbor=True)
    except StreamRefused:
        return
    assert 1 <= found.count <= 512
    assert 256 <= found.block_bytes <= 131_072
    assert found.count * found.block_bytes <= 131_072
    assert 0 <= found.offset <= 98_304
    assert found.bitmap is None or 1 <= len(found.bitmap) < 12_288


def test_describe_takes_an_empty_request():
    assert read_describe(b"", is_cbor=False) is None
    assert "a" == read_describe(b'{"c":"a"}', is_cbor=False)
    assert "a" == read_describe(b"\xa1\x61c\x61a", is_cbor=True)
    with pytest.raises(Malformed):
        read_describe(b"x", is_cbor=False)


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "rdy"])
@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_a_block_is_read_by_the_libraries(encoding, token):
    for index in (0, 1, 23, 24, 255, 256, 70_000):
        payload = write_block(index, memoryview(DATA), token, is_cbor=encoding == "cbor")
        block = read_block(payload, encoding, len(DATA))
        assert (0, index, DATA) == (block.file_id, block.index, block.data)


def test_a_block_in_cbor_is_written_as_the_vendors_service_writes_it():
    for sample in json.loads((VECTORS / "blocks.json").read_text())["cbor_heads"]:
        head = bytes.fromhex(sample["hex"])
        recorded_map = cbor_loose.read(head[: head.index(b"\x61p")] + b"\xff")
        written = write_block(sample["index"], DATA, "rdy", is_cbor=True)
        assert b"\xbf" == written[:1]
        assert {**recorded_map, "p": DATA} == cbor_loose.read(written)
    assert len(write_block(70_000, DATA, "rdy", is_cbor=True)) - len(DATA) <= 32


def test_the_recorded_block_in_json_is_written_alike():
    for sample in json.loads((VECTORS / "blocks.json").read_text())["json"]:
        data = read_block(sample["text"].encode(), "json", 4096).data
        assert json.loads(sample["text"]) == json.loads(write_block(sample["index"], data, None, is_cbor=False))


def test_a_description_names_the_file_and_its_size():
    assert b'{"c":"a","s":1,"d":"demo 1.1.0","r":[{"f":0,"z":9}]}' == write_description(
        9, "a", "demo 1.1.0", is_cbor=False
    )
    assert {"s": 1, "d": "", "r": [{"f": 0, "z": 70_000}]} == cbor_loose.read(
        write_description(70_000, None, "", is_cbor=True)
    )


@pytest.mark.parametrize("is_cbor", [False, True], ids=["json", "cbor"])
def test_a_refusal_has_every_field_under_both_names(is_cbor):
    read = cbor_loose.read if is_cbor else json.loads
    both = {"o": "InvalidRequest", "code": "InvalidRequest", "m": "why", "message": "why"}
    refused = StreamRefused("InvalidRequest", "why", token="rdy")
    assert {**both, "c": "rdy", "clientToken": "rdy"} == read(write_refusal(refused, is_cbor=is_cbor))
    assert both == read(write_refusal(StreamRefused("InvalidRequest", "why"), is_cbor=is_cbor))


def test_every_code_of_a_refusal_is_one_that_the_service_has():
    source = Path(aws_streams.__file__).read_text()
    known = {
        "InvalidJson",
        "InvalidCbor",
        "InvalidRequest",
        "BlockSizeOutOfBounds",
        "OffsetOutOfBounds",
        "BlockCountLimitExceeded",
        "BlockBitmapLimitExceeded",
        "ResourceNotFound",
        "VersionMismatch",
    }
    assert all(f'"{code}"' in source for code in known)
