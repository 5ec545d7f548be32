"""The CBOR subset: cbor2's canonical form is the oracle for what is taken, RFC 8949 for what is not."""

from random import Random

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wild import SEEDS, binary, changed, nothing, text, unsigned, wild

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import MapKeys, read_cbor


def value_of(rng):
    """A value that the subset can say."""
    return wild(rng, leaves=(nothing, unsigned, text, binary), key=unsigned, depth=3)


def read(data, **kwargs):
    return read_cbor(data, **{"max_bytes": 1 << 16, "max_depth": 16, **kwargs})


def assert_canonical_or_malformed(data):
    try:
        taken = read(data)
    except Malformed as error:
        sentence = str(error)
    else:
        sentence = ""
        assert data == cbor2.dumps(taken, canonical=True)
    assert len(sentence) <= 120


def message(data, **kwargs):
    with pytest.raises(Malformed) as caught:
        read(data, **kwargs)
    return str(caught.value)


@settings(max_examples=1000)
@given(SEEDS)
def test_canonical_cbor_is_read_as_the_oracle_reads_it(seed):
    value = value_of(Random(seed))
    assert value == read(cbor2.dumps(value, canonical=True), max_items=1000)


@settings(max_examples=1000)
@given(SEEDS)
def test_what_is_taken_after_a_change_is_still_canonical(seed):
    rng = Random(seed)
    assert_canonical_or_malformed(changed(rng, cbor2.dumps(value_of(rng), canonical=True)))


@settings(max_examples=500)
@given(data=st.binary(max_size=40))
def test_any_bytes_are_canonical_or_malformed(data):
    assert_canonical_or_malformed(data)


@given(SEEDS)
def test_every_prefix_is_malformed(seed):
    data = cbor2.dumps(value_of(Random(seed)), canonical=True)
    for end in range(len(data)):
        message(data[:end])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", "CBOR: ends inside the item at byte 0"),
        ("0100", "CBOR: 1 bytes follow the end"),
        ("1817", "CBOR: the number at byte 0 is not in its shortest form"),
        ("190017", "CBOR: the number at byte 0 is not in its shortest form"),
        ("1900ff", "CBOR: the number at byte 0 is not in its shortest form"),
        ("1a0000ffff", "CBOR: the number at byte 0 is not in its shortest form"),
        ("1b00000000ffffffff", "CBOR: the number at byte 0 is not in its shortest form"),
        ("580101", "CBOR: the number at byte 0 is not in its shortest form"),
        ("1c", "CBOR: type 0x1c at byte 0 is not allowed"),
        ("1f", "CBOR: type 0x1f at byte 0 is not allowed"),
        ("20", "CBOR: type 0x20 at byte 0 is not allowed"),
        ("5f4101ff", "CBOR: type 0x5f at byte 0 is not allowed"),
        ("7f6161ff", "CBOR: type 0x7f at byte 0 is not allowed"),
        ("9f01ff", "CBOR: type 0x9f at byte 0 is not allowed"),
        ("bf0101ff", "CBOR: type 0xbf at byte 0 is not allowed"),
        ("c001", "CBOR: type 0xc0 at byte 0 is not allowed"),
        ("d81801", "CBOR: type 0xd8 at byte 0 is not allowed"),
        ("c24101", "CBOR: type 0xc2 at byte 0 is not allowed"),
        ("f4", "CBOR: type 0xf4 at byte 0 is not allowed"),
        ("f5", "CBOR: type 0xf5 at byte 0 is not allowed"),
        ("f7", "CBOR: type 0xf7 at byte 0 is not allowed"),
        ("f93c00", "CBOR: type 0xf9 at byte 0 is not allowed"),
        ("fb3ff0000000000000", "CBOR: type 0xfb at byte 0 is not allowed"),
        ("ff", "CBOR: type 0xff at byte 0 is not allowed"),
        ("61ff", "CBOR: the text at byte 1 is not UTF-8"),
        ("63eda080", "CBOR: the text at byte 1 is not UTF-8"),
        ("a202010101", "CBOR: key 1 is out of order"),
        ("a201010102", "CBOR: key 1 stands twice in one map"),
        ("a1616101", "CBOR: the map key at byte 1 must be an unsigned integer"),
        ("a1410101", "CBOR: the map key at byte 1 must be an unsigned integer"),
        ("a1f601", "CBOR: type 0xf6 at byte 1 is not allowed"),
        ("5bffffffffffffffff", "CBOR: ends inside the item at byte 9"),
        ("9bffffffffffffffff", "CBOR: more than 64 items"),
        ("bbffffffffffffffff", "CBOR: more than 64 items"),
        ("81" * 17, "CBOR: nested deeper than 16"),
        ("a101" * 17, "CBOR: nested deeper than 16"),
    ],
)
def test_what_the_subset_does_not_have_is_refused(data, expected):
    assert expected == message(bytes.fromhex(data))


def test_bytes_and_depth_are_bounded():
    assert message(b"\x82\x01\x02", max_bytes=2) == "CBOR: 3 bytes, at most 2 are allowed"
    assert read(b"\x81\x80", max_depth=2) == [[]]
    assert message(b"\x81\x80", max_depth=1) == "CBOR: nested deeper than 1"
    assert read(b"\x07", max_depth=0) == 7


def test_items_are_counted_over_all_containers():
    assert read(bytes.fromhex("828200008100"), max_items=5) == [[0, 0], [0]]
    assert message(bytes.fromhex("828200008100"), max_items=4) == "CBOR: more than 4 items"


def test_text_keys_come_in_order_or_in_any_order_where_asked():
    assert read(bytes.fromhex("a261620162616102"), keys=MapKeys.TEXT) == {"b": 1, "aa": 2}
    unordered = bytes.fromhex("a262616102616201")
    assert message(unordered, keys=MapKeys.TEXT) == "CBOR: key 'b' is out of order"
    assert read(unordered, keys=MapKeys.TEXT, ordered=False) == {"aa": 2, "b": 1}
    assert (
        message(bytes.fromhex("a2616201616202"), keys=MapKeys.TEXT, ordered=False)
        == "CBOR: key 'b' stands twice in one map"
    )
    assert message(b"\xa1\x01\x01", keys=MapKeys.TEXT) == "CBOR: the map key at byte 1 must be text"
    assert read(bytes.fromhex("a20101616201"), keys=MapKeys.TEXT_OR_INT) == {1: 1, "b": 1}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("20", -1),
        ("37", -24),
        ("3818", -25),
        ("3bffffffffffffffff", -(2**64)),
        ("f4", False),
        ("f5", True),
        ("f6", None),
    ],
)
def test_negative_numbers_and_booleans_are_read_where_asked(data, expected):
    found = read(bytes.fromhex(data), scalars=True)
    assert (type(expected), expected) == (type(found), found)
    assert expected is None or message(bytes.fromhex(data)).endswith("is not allowed")


@pytest.mark.parametrize("data", ["f7", "f93c00", "e0", "f820", "c001", "3817", "3f", "a1f501", "a12001"])
def test_nothing_else_is_read_with_them(data):
    assert message(bytes.fromhex(data), scalars=True).startswith("CBOR: ")
