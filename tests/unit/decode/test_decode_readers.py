"""JSON and msgpack: what is refused, with which words, and that nothing but Malformed ever leaves."""

import json
import struct
import time
from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wild import SEEDS, binary, boolean, changed, integer, nothing, text, wild

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import U64, MapKeys, read_json, read_msgpack


def number(rng):
    return max(-(2**63), min(integer(rng), U64))


def plain(rng):
    """A value that both encodings can say."""
    return wild(rng, leaves=(nothing, boolean, number, text))


def message(read, *args, **kwargs):
    with pytest.raises(Malformed) as caught:
        read(*args, **kwargs)
    return str(caught.value)


@settings(max_examples=500)
@given(SEEDS)
def test_json_gives_back_what_was_written(seed):
    value = plain(Random(seed))
    data = json.dumps(value, ensure_ascii=False).encode()
    assert value == read_json(data, max_bytes=len(data), max_depth=16)


@settings(max_examples=500)
@given(SEEDS)
def test_msgpack_gives_back_what_was_written(seed):
    value = wild(Random(seed), leaves=(nothing, boolean, number, text, binary))
    data = msgpack.packb(value)
    assert value == read_msgpack(data, max_bytes=len(data), max_depth=16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "JSON: Expecting value at character 0"),
        (b"{", "JSON: Expecting property name enclosed in double quotes at character 1"),
        (b'{"a":1}x', "JSON: Extra data at character 7"),
        (b'"\xff"', "JSON: not UTF-8 at byte 1"),
        ('{"a":1}'.encode("utf-16"), "JSON: not UTF-8 at byte 0"),
        (b'\xef\xbb\xbf{"a":1}', "JSON: Expecting value at character 0"),
        (b'{"a":1,"a":2}', "the key 'a' stands twice in one map"),
        (b'{"b":{"a":1,"\\u0061":2}}', "the key 'a' stands twice in one map"),
        (b"NaN", "JSON: 'NaN' is not an integer"),
        (b"[Infinity]", "JSON: 'Infinity' is not an integer"),
        (b"-Infinity", "JSON: '-Infinity' is not an integer"),
        (b"1.5", "JSON: '1.5' is not an integer"),
        (b"1e3", "JSON: '1e3' is not an integer"),
        (b"18446744073709551616", "JSON: number 18446744073709551616 is out of range"),
        (b"-9223372036854775809", "JSON: number -9223372036854775809 is out of range"),
        (b"1" * 90, "JSON: number '" + "1" * 38 + "… is out of range"),
        (b'"\\ud800"', "JSON: text '\\ud800' holds half a surrogate pair"),
        (b'{"\\udc00":1}', "JSON: text '\\udc00' holds half a surrogate pair"),
        (b"[" * 90, "JSON: Expecting value at character 90"),
        (b"[[[[]]]]", "JSON: nested deeper than 3"),
        (b"[1,2,3,4,5,6]", "JSON: more than 5 items"),
        (b"[[1,2],[3,4]]", "JSON: more than 5 items"),
        (b" " * 101, "JSON: 101 bytes, at most 100 are allowed"),
    ],
)
def test_json_is_refused_with_a_reason(data, expected):
    assert expected == message(read_json, data, max_bytes=100, max_depth=3, max_items=5)


def test_json_nested_beyond_the_stack_is_malformed():
    assert message(read_json, b"[" * 100_000, max_bytes=100_000) == "JSON: nested deeper than 8"


@pytest.mark.parametrize("data", [b"NaN", b"Infinity", b"1e999", b"-1e999"])
def test_json_floats_are_finite(data):
    message(read_json, data, max_bytes=100, floats=True)
    assert read_json(b"1.5", max_bytes=100, floats=True) == 1.5


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "msgpack: Unpack failed: incomplete input"),
        (b"\xc1", "msgpack: FormatError"),
        (b"\x01\x01", "msgpack: unpack(b) received extra data."),
        (b"\xa1\xff", "msgpack: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"\x81\x01\x01", "msgpack: a map key must be text, not 1"),
        (b"\x81\xc4\x01a\x01", "msgpack: a map key must be text, not b'a'"),
        (b"\x81\xc0\x01", "msgpack: a map key must be text, not None"),
        (b"\x81\xc3\x01", "msgpack: a map key must be text, not True"),
        (b"\x81\x80\x80", "a map key must be text or a number"),
        (b"\x81\x90\x01", "a map key must be text or a number"),
        (b"\x82\xa1a\x01\xa1a\x02", "the key 'a' stands twice in one map"),
        (b"\xcb" + struct.pack(">d", 1.5), "msgpack: the number 1.5 is not allowed"),
        (b"\xcb" + struct.pack(">d", float("nan")), "msgpack: the number nan is not allowed"),
        (b"\x91" * 4 + b"\x01", "msgpack: nested deeper than 3"),
        (b"\x93\x01\x01\x91\x91\x91\x01", "msgpack: nested deeper than 3"),
        (b"\x92\x92\x01\x01\x92\x01\x01", "msgpack: more than 5 items"),
        (b"\xc4\x66" + bytes(102), "msgpack: 104 bytes, at most 100 are allowed"),
    ],
)
def test_msgpack_is_refused_with_a_reason(data, expected):
    assert expected == message(read_msgpack, data, max_bytes=100, max_depth=3, max_items=5)


@pytest.mark.parametrize(
    "data",
    [
        b"\xd4\x01\x00",  # fixext
        b"\xc7\x00\x05",  # ext of no bytes
        b"\xd6\xff\x00\x00\x00\x01",  # timestamps
        b"\xd7\xff" + bytes(8),
        b"\xc7\x0c\xff" + bytes(12),
        b"\xdd\xff\xff\xff\xff",  # array, map, text and binary of 4 GiB
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdc\xff\xff" * 30,
        b"\x81" * 99,
        b"\x91" * 99,
    ],
)
def test_msgpack_extensions_and_false_lengths_are_malformed(data):
    message(read_msgpack, data, max_bytes=100)


def test_msgpack_keys_may_be_numbers_where_asked():
    data = b"\x82\x01\x02\xa1a\x03"
    assert read_msgpack(data, max_bytes=9, keys=MapKeys.TEXT_OR_INT) == {1: 2, "a": 3}
    assert read_msgpack(b"\x81\x01\x02", max_bytes=9, keys=MapKeys.UINT) == {1: 2}
    message(read_msgpack, data, max_bytes=9, keys=MapKeys.UINT)
    message(read_msgpack, b"\x81\xff\x02", max_bytes=9, keys=MapKeys.UINT)


def test_msgpack_floats_are_finite_where_allowed():
    assert read_msgpack(b"\xcb" + struct.pack(">d", 1.5), max_bytes=9, floats=True) == 1.5
    message(read_msgpack, b"\xcb" + struct.pack(">d", float("inf")), max_bytes=9, floats=True)


@pytest.mark.parametrize("read", [read_json, read_msgpack])
def test_a_key_that_stands_twice_among_many_is_found_at_once(read):
    keys = [*map(str, range(30_000)), "29999"]
    if read is read_json:
        data = b"{" + b",".join(b'"%s":1' % key.encode() for key in keys) + b"}"
    else:
        data = b"\xdf" + struct.pack(">I", len(keys)) + b"".join(msgpack.packb(key) + b"\x01" for key in keys)
    began = time.thread_time()
    assert "'29999' stands twice" in message(read, data, max_bytes=1 << 23, max_items=1 << 20)
    assert time.thread_time() - began < 1.0


def attempt(read, data):
    sentence = ""
    try:
        read(data, max_bytes=4096)
    except Malformed as error:
        sentence = str(error)
    assert len(sentence) <= 200


@settings(max_examples=300)
@given(data=st.binary(max_size=64))
def test_any_bytes_are_a_value_or_malformed(data):
    attempt(read_json, data)
    attempt(read_msgpack, data)


@settings(max_examples=1000)
@given(SEEDS)
def test_a_changed_byte_is_a_value_or_malformed(seed):
    rng = Random(seed)
    value = plain(rng)
    for read, data in ((read_json, json.dumps(value).encode()), (read_msgpack, msgpack.packb(value))):
        attempt(read, changed(rng, data))
        attempt(read, data[: rng.randrange(len(data))])


@settings(max_examples=300)
@given(text=st.text(st.sampled_from('{}[]":,0123456789.eE+-truefalsn\\ud8 \n'), max_size=40))
def test_anything_like_json_is_a_value_or_malformed(text):
    attempt(read_json, text.encode())
