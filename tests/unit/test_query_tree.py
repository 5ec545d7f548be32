"""What is read out of a compiled query: its keys and its cost, and that no bytes break the reader."""

import pytest
from cel_expr_python import cel
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.query_tree import STEPS_MAX, asked_keys, check_cost, constant_calls, read_tree

ANY = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
ENV = cel.NewEnv(variables={"attrs": ANY, "versions": ANY, "other": ANY, "hw": cel.Type.STRING})


def written(text):
    return ENV.compile(text).serialize()


def tree(text):
    return read_tree(written(text))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("attrs.a == 1", {("attrs", "a")}),
        ('attrs["a b"] == 1', {("attrs", "a b")}),
        ('"a" in attrs', {("attrs", "a")}),
        ("has(attrs.a)", {("attrs", "a")}),
        ("attrs[hw] == 1", set()),
        ("hw == 'attrs.a'", set()),
        ("other.a == 1", set()),
        ("true ? versions.x == attrs.y : !(attrs.z > 1)", {("versions", "x"), ("attrs", "y"), ("attrs", "z")}),
        ("[attrs.a].exists(x, x == attrs.b)", {("attrs", "a"), ("attrs", "b")}),
        ("size({'k': attrs.a, attrs.b: 1}) > 0 // attrs.c", {("attrs", "a"), ("attrs", "b")}),
    ],
)
def test_keys_are_those_that_stand_in_the_query(text, keys):
    assert keys == asked_keys(tree(text))


def test_texts_that_functions_take_are_found():
    assert {("matches", "^a"), ("startsWith", "b"), ("_==_", "c")} == set(
        constant_calls(tree("hw.matches('^a') || hw.startsWith('b') || hw == 'c' || hw.endsWith(hw)"))
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("attrs.all(a, attrs.all(b, a != b))", "inside of one another"),
        ("attrs.map(a, a + a).map(b, b + b).size() > 1", "inside of one another"),
        ("hw.matches(hw)", "must stand in the query"),
        (f"hw.matches('({'a' * 20}{{50}}){{20}}')", f"at most {STEPS_MAX} are allowed"),
        ("[" + "1," * 300 + "1].all(x, " + "||".join(["x == 1"] * 40) + ")", "steps for one device"),
    ],
)
def test_what_could_take_long_is_refused(text, says):
    with pytest.raises(InvalidInput, match=says):
        check_cost(tree(text))


@pytest.mark.parametrize(
    "text", ["attrs.all(a, a != 'x')", r"hw.matches('^[a-z]{1,8}-[0-9]{6}$')", "||".join(["true"] * 500)]
)
def test_what_operators_write_is_not(text):
    check_cost(tree(text))


def in_an_any(expression):
    checked = bytes([0x22, len(expression)]) + expression
    return bytes([0x12, len(checked)]) + checked


def test_a_loop_without_its_parts_is_malformed():
    with pytest.raises(Malformed, match="five parts"):
        read_tree(in_an_any(b"\x4a\x00"))


def test_a_call_without_arguments_has_no_pattern():
    with pytest.raises(InvalidInput, match="must stand in the query"):
        check_cost(read_tree(in_an_any(b"\x32\x09\x12\x07matches")))


def test_every_shorter_text_and_any_bytes_are_read_or_malformed():
    data = written("attrs.a == 'x' && attrs.exists(k, k.matches('^b'))")
    for end in range(len(data)):
        with pytest.raises(Malformed):
            read_tree(data[:end])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(data):
    try:
        read_tree(data)
    except Malformed:
        pass
