"""The Range header against a table and against a naive oracle."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.files.ranges import NoRange, Span, read_range

NOT_THERE = NoRange.UNSATISFIABLE


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("bytes=0-299999", 300_000, Span(0, 300_000)),
        ("bytes=0-300000", 300_000, Span(0, 300_000)),  # a last byte one past the end, as Tencent's SDK has it
        ("bytes=204959-300000", 300_000, Span(204_959, 300_000)),
        ("bytes=300000-300000", 300_000, NOT_THERE),  # resumed at the end
        ("bytes=0-0", 300_000, Span(0, 1)),
        ("bytes=299999-", 300_000, Span(299_999, 300_000)),
        ("bytes=0-", 300_000, Span(0, 300_000)),
        ("bytes=-1", 300_000, Span(299_999, 300_000)),
        ("bytes=-300001", 300_000, Span(0, 300_000)),
        ("bytes=-0", 300_000, NOT_THERE),
        ("bytes=300000-", 300_000, NOT_THERE),
        ("bytes=5-99999999999999999999", 10, Span(5, 10)),
        ("bytes=0-0", 0, NOT_THERE),
        ("bytes=-5", 0, NOT_THERE),
        ("BYTES=1-2", 10, Span(1, 3)),
        ("bytes=1-2,4-5", 10, Span(1, 6)),
        ("bytes=4-5, 1-2", 10, Span(1, 6)),
        ("bytes=5-, -2", 10, Span(5, 10)),
        ("bytes=2-3,100-200", 10, Span(2, 4)),
        ("bytes= 1-2 ,,\t4-5,", 10, Span(1, 6)),
        ("bytes=" + ",".join(["0-0"] * 16), 10, Span(0, 1)),
        ("bytes=" + ",".join(["0-0"] * 17), 10, NOT_THERE),
        ("bytes=" + "," * 1000, 10, NOT_THERE),
        ("lines=1-2", 10, NoRange.WHOLE),
        # What cannot be read is refused: the whole would be appended to the part that is there.
        ("bytes=400000-300000", 300_000, NOT_THERE),
        ("bytes=3-2", 10, NOT_THERE),
        ("bytes=0-0,3-2", 10, NOT_THERE),
        ("bytes=-", 10, NOT_THERE),
        ("bytes=", 10, NOT_THERE),
        ("bytes", 10, NOT_THERE),
        ("", 10, NOT_THERE),
        ("bytes=a-b", 10, NOT_THERE),
        ("bytes=1--2", 10, NOT_THERE),
        ("bytes=+1-2", 10, NOT_THERE),
        ("bytes=1_0-20", 100, NOT_THERE),
        ("bytes=1.0-2", 10, NOT_THERE),
        ("bytes=0x1-2", 10, NOT_THERE),
        ("bytes=1-2;q=1", 10, NOT_THERE),
        ("bytes=1 - 2", 10, NOT_THERE),
        ("bytes=1-2\n", 10, NOT_THERE),
        ("bytes=" + "1" * 21 + "-", 10, NOT_THERE),
        ("bytes=\u0661-\u0662", 10, NOT_THERE),  # digits of another script
        ("bytes=1-2, bytes=3-4", 10, NOT_THERE),  # the field given twice
    ],
)
def test_a_header_means_one_range_or_none(text, size, expected):
    assert expected == read_range(text, size)


@given(first=st.none() | st.integers(0, 40), last=st.none() | st.integers(0, 40), size=st.integers(0, 32))
def test_one_range_is_what_the_rfc_says(first, last, size):
    if first is None and last is None:
        return
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        wanted = set(range(size)[-last:] if last else [])
    else:
        wanted = {at for at in range(size) if first <= at and (last is None or at <= last)}
    found = read_range(text, size)
    assert wanted == (set(range(found.start, found.end)) if isinstance(found, Span) else set())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=16), st.integers(1, 32))
def test_of_several_ranges_nothing_is_missing_and_the_first_byte_was_asked_for(pairs, size):
    pairs = [(min(pair), max(pair)) for pair in pairs]
    found = read_range("bytes=" + ",".join(f"{first}-{last}" for first, last in pairs), size)
    wanted = {at for first, last in pairs for at in range(first, last + 1) if at < size}
    if not wanted:
        assert NOT_THERE is found
    else:
        assert Span(min(wanted), max(wanted) + 1) == found


@given(st.text(alphabet="bytes=0123456789-, \t\n\x00é", max_size=60) | st.text(max_size=60), st.integers(0, 100))
def test_no_text_raises_and_no_range_lies_outside(text, size):
    found = read_range(text, size)
    if isinstance(found, Span):
        assert 0 <= found.start < found.end <= size
        assert re.search("[0-9]", text)
