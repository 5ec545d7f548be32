"""Where things stand in TOML: every value has its place, and what stands there is the value."""

import datetime as dt
import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.plan_file.marked import Mark, Unreadable
from ota_bridge.plan_file.toml_text import _Scanner, read_toml


def paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key), inner
        yield from paths(inner, (*path, key))


def offset(text, mark):
    return sum(len(line) + 1 for line in text.split("\n")[: mark.line - 1]) + mark.column - 1


DOCUMENT = """# a comment, with = and [ in it
release = "p/2.0"  # another
"quoted key" = 'C:\\temp # no comment'
where = \"\"\"
two "lines" ] } ""\"\"\"
plain = '''a '' b'''
a.b . "c.d" = 1
stamps = [2026-12-01 02:00:00, 2026-12-01T02:00:00+01:00, [ # nested
  true,
  -1.5e3,
], {x = 1, y = {z = []}},]

[[stage]]
name = "é" # after
success = {share = "80 %", min = 3}
[stage.failure]
count = 2
[[stage]]
[[stage.deep]]
k = 1
[[stage.deep]]
k = 2
[ table . 'in' ]
k = 0x1F
"""


def test_each_value_has_its_place():
    document = read_toml(DOCUMENT)
    found = set(document.values)
    assert {path for path, _ in paths(tomllib.loads(DOCUMENT))} == found
    assert Mark(2, 1) == document.keys["release",]
    assert Mark(2, 11) == document.values["release",]
    assert Mark(15, 20) == document.values["stage", 0, "success", "share"]
    assert Mark(22, 5) == document.values["stage", 1, "deep", 1, "k"]
    assert Mark(13, 1) == document.values["stage", 0]


def test_windows_line_ends_change_no_place():
    text = DOCUMENT.replace("\n", "\r\n")
    assert read_toml(DOCUMENT).values == read_toml(text).values


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
scalars = st.one_of(
    texts,
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.datetimes().map(lambda found: found.replace(tzinfo=dt.UTC)),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def written(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list):
        return "[ " + " ,\n".join(map(written, value)) + " ]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)} = {written(inner)}" for key, inner in value.items()) + "}"
    return value.isoformat() if isinstance(value, dt.datetime) else repr(value)


@given(st.dictionaries(texts, values, max_size=4), st.lists(st.dictionaries(texts, values, max_size=2), max_size=2))
def test_what_stands_at_a_place_is_the_value(top, rows):
    text = "".join(f"{written(key)} = {written(value)}\n" for key, value in top.items() if key != "row")
    text += "".join(
        "[[row]]\n" + "".join(f"{written(key)}={written(value)}\n" for key, value in row.items()) for row in rows
    )
    document = read_toml(text)
    assert {path for path, _ in paths(document.value)} == set(document.values)
    for path, value in paths(document.value):
        if "row" == path[0] and len(path) < 3:
            continue
        assert text.startswith(written(value), offset(text, document.values[path]))


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        ("a = \n", Mark(1, 5), "not valid TOML: Invalid value"),
        ("a = 1\na = 2\n", Mark(2, 6), "not valid TOML: Cannot overwrite a value"),
        ("b = 1\n[a\n", Mark(2, 3), "not valid TOML: Expected ']' at the end of a table declaration"),
        ('a = "x', Mark(1, 7), "not valid TOML: Unterminated string"),
        ("a" + ".a" * 20 + " = 1", Mark(1, 34), "nested deeper than 16"),
        ("a = " + "[" * 20 + "]" * 20, Mark(1, 21), "nested deeper than 16"),
        ("a = " + "1" * 5_000, Mark(1, 1), "not valid TOML: Exceeds the limit"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(text, mark, message):
    with pytest.raises(Unreadable) as caught:
        read_toml(text)
    assert str(caught.value).startswith(message)
    assert mark == caught.value.mark


def test_the_scanner_follows_each_text_that_toml_allows():
    scanner = _Scanner(DOCUMENT)
    scanner.run()
    assert {path for path, _ in paths(tomllib.loads(DOCUMENT))} == set(scanner.document.values)
