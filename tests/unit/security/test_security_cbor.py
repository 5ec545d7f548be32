"""The writer makes what the reader takes and what cbor2 calls canonical."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.decode import U64, read_cbor
from ota_bridge.security import cbor

LEAVES = st.none() | st.integers(0, U64) | st.text(st.characters(exclude_categories=["Cs"])) | st.binary()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, U64), inner, max_size=5),
    max_leaves=12,
)


@given(value=VALUES)
def test_writing_is_canonical_and_reads_back(value):
    written = cbor.write(value)
    assert cbor2.dumps(value, canonical=True) == written
    assert value == read_cbor(written, max_bytes=len(written), max_depth=16)


@pytest.mark.parametrize("edge", [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, U64])
def test_heads_are_shortest(edge):
    assert cbor2.dumps(edge, canonical=True) == cbor.write(edge)


@pytest.mark.parametrize("value", [-1, 2**64, True, {-1: 0}, {True: 0}])
def test_what_the_subset_does_not_have_is_a_bug(value):
    with pytest.raises(ValueError, match="is not an unsigned integer of 64 bits"):
        cbor.write(value)
