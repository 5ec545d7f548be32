"""Depth and length of msgpack without building it: the same limits as the reader's, and never more than the bytes."""

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import MapKeys, read_msgpack
from ota_bridge.decode.nesting import check_nesting

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=300)
    | st.text(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner, max_size=20),
    max_leaves=40,
)


def verdict(check, *args, **kwargs):
    try:
        check(*args, **kwargs)
    except Malformed as error:
        return str(error)
    return ""


@given(value=VALUES, depth=st.integers(1, 4), items=st.integers(1, 30))
def test_it_says_what_the_reader_says_of_what_it_built(value, depth, items):
    data = msgpack.packb(value)
    reader = verdict(
        read_msgpack, data, max_bytes=1 << 20, max_depth=depth, max_items=items, keys=MapKeys.TEXT_OR_INT, floats=True
    )
    limits = ("nested deeper", "more than")
    expected = reader if any(word in reader for word in limits) else ""
    found = verdict(check_nesting, data, depth, items)
    assert bool(expected) == bool(found) or "exceeds max_" in reader, (reader, found)


@pytest.mark.parametrize("size", [0, 1, 2, 4, 8, 16])
def test_extensions_are_passed_over_whole(size):
    data = msgpack.packb([msgpack.ExtType(5, b"\x91" * size)] * 3)
    assert verdict(check_nesting, data, 1, 3) == ""
    assert verdict(check_nesting, data, 1, 2) == "msgpack: more than 2 items"


@given(data=st.binary(max_size=200))
def test_any_bytes_are_passed_or_malformed(data):
    assert verdict(check_nesting, data, 3, 20) in {"", "msgpack: nested deeper than 3", "msgpack: more than 20 items"}


@pytest.mark.parametrize("head", [b"\xdc\x04\x00", b"\xde\x04\x00", b"\xde\x04\x00\xa1a", b"\xdd\x00\x00\x04\x00"])
def test_nested_long_heads_take_no_more_memory_than_a_flat_message(head):
    data = head * (8_192 // len(head))
    verdict(read_msgpack, data, max_bytes=8_192)
    tracemalloc.start()
    try:
        said = verdict(read_msgpack, data, max_bytes=8_192)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said
    assert peak <= 64 * 1024
