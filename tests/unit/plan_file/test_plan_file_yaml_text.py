"""YAML is read as JSON is meant: no tags, no anchors, one document, and each value has its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.plan_file.marked import Mark, Unreadable
from ota_bridge.plan_file.yaml_text import read_yaml


def test_each_value_has_its_place():
    document = read_yaml("# plan\na: 1\nb:\n  - x: {y: z}\n  - |\n    two\n    lines\n")
    assert {"a": 1, "b": [{"x": {"y": "z"}}, "two\nlines\n"]} == document.value
    assert (Mark(2, 1), Mark(2, 4)) == (document.keys["a",], document.values["a",])
    assert Mark(4, 12) == document.values["b", 0, "x", "y"]
    assert Mark(5, 5) == document.values["b", 1]
    assert {("a",), ("b",), ("b", 0), ("b", 1), ("b", 0, "x"), ("b", 0, "x", "y")} == set(document.values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("2:00", "2:00"), ("2026-12-01", "2026-12-01"), ("80 %", "80 %"), ("true", True),
        ("False", False), ("~", None), ("", None), ("007", 7), ("-5", -5), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0),
        ('"5"', "5"), ("'true'", "true"), ("0x1F", "0x1F"), ("1_000", "1_000"), (".nan", ".nan"), ("<<", "<<"), ('""', ""),
    ],
)  # fmt: skip
def test_plain_words_mean_what_they_mean_in_json(text, value):
    found = read_yaml(f"k: {text}\n").value["k"]
    assert (type(value), value) == (type(found), found)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc .", max_size=3), inner, max_size=3),
)  # fmt: skip


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=3), json_values, max_size=4))
def test_json_is_read_as_json(value):
    assert value == read_yaml(json.dumps(value)).value


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        ("a: &x 1\n", Mark(1, 4), "anchors and aliases"),
        ("a: 1\nb: *x\n", Mark(2, 4), "anchors and aliases"),
        ("a: !!python/object:os.system x\n", Mark(1, 4), "tags (!) are not allowed"),
        ("a: ! x\n", Mark(1, 4), "tags (!) are not allowed"),
        ("&k a: 1\n", Mark(1, 1), "a key has neither tag nor anchor"),
        ("? [a]\n: 1\n", Mark(1, 3), "a key must be a word"),
        ("a: 1\na: 2\n", Mark(2, 1), "'a' stands twice; it is on line 1, too"),
        ("a: 1\n---\nb: 2\n", Mark(2, 1), "a second document: a file holds one plan"),
        ("- a\n", Mark(1, 1), "must be a table"),
        ("a: [1,\n", Mark(2, 1), "not valid YAML: while parsing a flow node"),
        ("a: b: c\n", Mark(1, 5), "not valid YAML: mapping values are not allowed here"),
        ("a: 1\nb: \x01\n", Mark(2, 4), "not valid YAML: the character U+0001 is not allowed"),
        ('a: "\\UFFFFFFFF"\n', Mark(1, 7), "not valid YAML: "),
        ("a: " + "[" * 20, Mark(1, 20), "nested deeper than 16"),
        ("[" * 200_000, Mark(1, 17), "nested deeper than 16"),
        ("".join(f"{' ' * at}a:\n" for at in range(20)), Mark(17, 17), "nested deeper than 16"),
    ],
)
def test_what_a_plan_may_not_hold_is_told_with_its_place(text, mark, message):
    with pytest.raises(Unreadable) as caught:
        read_yaml(text)
    assert str(caught.value).startswith(message)
    assert mark == caught.value.mark


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_holds_nothing_or_says_that_it_must_be_a_table(text):
    try:
        assert {} == read_yaml(text).value
    except Unreadable as error:
        assert "must be a table" in str(error)
