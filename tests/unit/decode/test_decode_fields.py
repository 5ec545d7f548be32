"""The pickers: each takes exactly what it names, and its error names the field and what is allowed."""

import base64
import re
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import U64, Fields, number, shown

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def message(pick, *args, **kwargs):
    with pytest.raises(Malformed) as caught:
        pick(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        ("0", 0),
        (255, 255),
        ("255", 255),
        ("-5", -5),
        (-5, -5),
        (256, None),
        ("256", None),
        (-6, None),
        ("-6", None),
        ("", None),
        ("-", None),
        ("-0", None),
        ("+1", None),
        ("01", None),
        (" 1", None),
        ("1 ", None),
        ("1\n", None),
        ("1_0", None),
        ("0x1", None),
        ("1e1", None),
        ("1.0", None),
        ("\u0967", None),  # DEVANAGARI DIGIT ONE: int() takes it
        ("\uff11", None),  # FULLWIDTH DIGIT ONE
        ("9" * 21, None),
        ("9" * 5000, None),
        (True, None),
        (False, None),
        (1.0, None),
        (None, None),
        (b"1", None),
        ([1], None),
        ({}, None),
    ],
)
def test_there_is_one_number_parser(value, expected):
    if expected is None:
        assert "n must be a number -5..255, not " in message(number, value, "n", minimum=-5, maximum=255)
    else:
        assert expected == number(value, "n", minimum=-5, maximum=255)


@given(value=st.integers(0, U64))
def test_every_number_in_range_is_read_in_both_spellings(value):
    assert (value, value) == (number(value, "n", maximum=U64), number(str(value), "n", maximum=U64))


def test_text_is_bounded_in_bytes_and_matched_whole():
    fields = Fields({"a": "grün", "n": 5}, name="report")
    assert fields.text("a", max_bytes=5) == "grün"
    assert message(fields.text, "a", max_bytes=4) == "report.a must be 0..4 bytes of text, not 'grün'"
    assert message(fields.text, "a", min_bytes=6, max_bytes=9) == "report.a must be 6..9 bytes of text, not 'grün'"
    assert (
        message(fields.text, "a", max_bytes=9, pattern=re.compile("[a-z]+")) == "report.a is 'grün'; allowed is [a-z]+"
    )
    assert message(fields.text, "n", max_bytes=9) == "report.n must be text, not 5"
    assert message(fields.text, "b", max_bytes=9) == "report.b is missing"


def test_a_trailing_newline_does_not_match_a_pattern():
    message(Fields({"a": "x\n"}).text, "a", max_bytes=9, pattern=re.compile("[a-z]+$"))


def test_a_note_is_clipped_and_cleaned_but_never_refused_for_it():
    assert Fields({"m": "a\x1bb\ncdef"}).note("m", max_characters=4) == "a�b�"
    assert message(Fields({"m": 1}).note, "m", max_characters=4) == "message.m must be text, not 1"


def test_uint_takes_integers_only():
    fields = Fields({"a": 7, "t": "7", "b": True, "f": 7.0})
    assert fields.uint("a", maximum=7) == 7
    assert message(fields.uint, "a", maximum=6) == "message.a must be an integer 0..6, not 7"
    for key in "tbf":
        message(fields.uint, key, maximum=9)
    assert fields.number_text("t", maximum=7) == 7


def test_binary_is_bytes_or_strict_base64():
    assert Fields({"n": b"\x00\x01"}).binary("n", min_bytes=2, max_bytes=2) == b"\x00\x01"
    assert Fields({"n": "AAE="}, binary_as_text=True).binary("n", min_bytes=2, max_bytes=2) == b"\x00\x01"
    assert Fields({"n": ""}, binary_as_text=True).binary("n", min_bytes=0, max_bytes=2) == b""
    assert (
        message(Fields({"n": "AAE="}).binary, "n", min_bytes=2, max_bytes=2)
        == "message.n must be 2 bytes of binary, not 'AAE='"
    )
    assert (
        message(Fields({"n": b"\x00\x01"}).binary, "n", min_bytes=3, max_bytes=4)
        == "message.n must be 3..4 bytes of binary, not b'\\x00\\x01'"
    )


@pytest.mark.parametrize(
    "text", ["AAE", "AAE=\n", " AAE=", "AAF=", "AA-_", "AAE==", "=AAE", "A", "é===", b"AAE=", 5, None, "A" * 999]
)
def test_other_spellings_of_base64_are_refused(text):
    message(Fields({"n": text}, binary_as_text=True).binary, "n", min_bytes=0, max_bytes=4)


@given(value=st.binary(max_size=40))
def test_base64_gives_back_what_was_written(value):
    fields = Fields({"n": base64.b64encode(value).decode()}, binary_as_text=True)
    assert value == fields.binary("n", min_bytes=0, max_bytes=40)


def test_choice_and_flag():
    fields = Fields({"c": "red", "d": "green", "f": True, "n": 1, "l": []})
    assert Colour.RED is fields.choice("c", Colour)
    assert message(fields.choice, "d", Colour) == "message.d is 'green'; allowed are red, blue"
    message(fields.choice, "l", Colour)
    assert fields.flag("f") is True
    assert message(fields.flag, "n") == "message.n must be true or false, not 1"


def test_optional_is_none_for_missing_and_null_and_strict_otherwise():
    fields = Fields({"a": 1, "b": None, "c": "x"})
    assert [fields.optional(fields.uint, key, maximum=9) for key in ("a", "b", "z")] == [1, None, None]
    message(fields.optional, fields.uint, "c", maximum=9)


def test_paths_lead_into_maps_and_arrays():
    fields = Fields({"parts": {"firmware": ["1.0", -1]}}, name="check-in")
    part = fields.mapping("parts").array("firmware", min_items=2, max_items=2)
    assert (part.text(0, max_bytes=9), len(part), list(part)) == ("1.0", 2, [0, 1])
    assert message(part.uint, 1, maximum=5) == "check-in.parts.firmware[1] must be an integer 0..5, not -1"
    assert (
        message(fields.mapping("parts").array, "firmware", min_items=3, max_items=3)
        == "check-in.parts.firmware must be an array of 3 items, not an array of 2"
    )
    assert (
        message(fields.array, "parts", max_items=3) == "check-in.parts must be an array of 0..3 items, not a map of 1"
    )
    assert message(Fields, []) == "message must be a map, not an array of 0"


def test_only_refuses_other_keys():
    Fields({"a": 1}).only("a", "b")
    assert message(Fields({"a": 1, "c": 2}).only, "a", "b") == "message: the key 'c' is not known"


def test_hostile_input_is_shown_escaped_and_short():
    assert shown("\x1b[31m\u202e") == "'\\x1b[31m\\u202e'"
    assert 40 == len(shown("x" * 1000)) == len(shown(b"\x00" * 1000)) == len(shown(10**60))
    hostile = Fields({"\x1b" * 999: "y" * 999})
    assert len(message(hostile.uint, "\x1b" * 999, maximum=1)) < 120


@given(value=ANYTHING, as_text=st.booleans())
def test_only_malformed_leaves_a_picker(value, as_text):
    fields = Fields({"k": value}, binary_as_text=as_text)
    picks = [
        lambda: fields.text("k", max_bytes=9),
        lambda: fields.note("k", max_characters=9),
        lambda: fields.choice("k", Colour),
        lambda: fields.uint("k", maximum=9),
        lambda: fields.number_text("k", maximum=9),
        lambda: fields.flag("k"),
        lambda: fields.binary("k", min_bytes=1, max_bytes=9),
        lambda: fields.mapping("k").only("a"),
        lambda: fields.array("k", max_items=2).text(0, max_bytes=3),
    ]
    for pick in picks:
        sentence = ""
        try:
            pick()
        except Malformed as error:
            sentence = str(error)
        assert len(sentence) <= 200
