"""One setting: its names, what is allowed, and how it is shown."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from ota_bridge.core.errors import ConfigError
from ota_bridge.settings import nearest, option, quoted, settings_of

# ruff: noqa: RUF009 - option() is dataclasses.field()


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Sample:
    number: int = option(5, "a number", low=1, high=9)
    share: float = option(0.5, "a share", low=0)
    colour: Colour = option(Colour.RED, "a colour")
    file: Path | None = option(None, "a file")
    word: str = option("", "a word", secret=True)
    flag: bool = option(False, "a flag")
    plain: str = "not a setting"


TABLE = {setting.name: setting for setting in settings_of(Sample, "s.")}


def test_a_field_is_a_setting_if_it_was_declared_as_one():
    assert list(TABLE) == ["s.number", "s.share", "s.colour", "s.file", "s.word", "s.flag"]
    assert TABLE["s.number"].env_name == "OTA_BRIDGE_S_NUMBER"
    assert [TABLE["s.file"].kind, TABLE["s.file"].optional] == [Path, True]


def test_allowed_says_type_and_bounds():
    assert [setting.allowed for setting in TABLE.values()] == [
        "an integer 1..9",
        "a number of at least 0",
        "one of red, blue",
        "a path",
        "text",
        "true or false",
    ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("number", "9", 9),
        ("share", "1e-3", 0.001),
        ("colour", "blue", Colour.BLUE),
        ("file", "a/b", Path("/base/a/b")),
        ("file", "", None),
        ("file", "/abs", Path("/abs")),
        ("flag", "ON", True),
        ("flag", "0", False),
    ],
)
def test_text_becomes_a_value(name, text, value):
    assert TABLE[f"s.{name}"].parse(text, "flag", Path("/base")) == value


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("number", "10"),
        ("number", "0"),
        ("number", "5.0"),
        ("number", " 5"),
        ("number", "\u0665"),
        ("number", "9" * 400),
        ("number", "9" * 5000),
        ("number", 10**400),
        ("share", 10**400),
        ("share", -(10**400)),
        ("share", "9" * 400),
        ("number", None),
        ("number", 5.0),
        ("share", "nan"),
        ("share", "inf"),
        ("share", True),
        ("colour", "RED"),
        ("colour", 1),
        ("file", 1),
        ("file", "a\0b"),
        ("file", "~nobody-of-this-name/x"),
        ("word", "a\nb"),
        ("word", ["x"]),
        ("flag", "maybe"),
        ("flag", 1),
    ],
)
def test_what_is_no_value_is_refused_with_its_origin(name, raw):
    with pytest.raises(ConfigError) as caught:
        TABLE[f"s.{name}"].parse(raw, "flag", Path("/base"))
    assert str(caught.value).startswith(f"flag: s.{name} = ")
    assert len(str(caught.value)) < 200


def test_typed_values_are_not_given_as_text():
    with pytest.raises(ConfigError):
        TABLE["s.number"].parse("5", "file x", Path(), typed=True)
    assert TABLE["s.colour"].parse("red", "file x", Path(), typed=True) is Colour.RED


def test_shown_hides_secrets():
    assert [TABLE["s.word"].shown("x"), TABLE["s.word"].shown("")] == ["***", ""]
    assert [TABLE["s.flag"].shown(True), TABLE["s.share"].shown(2.0), TABLE["s.file"].shown(None)] == ["true", "2", ""]


def test_a_name_is_quoted_as_it_was_written_unless_it_cannot_be_shown():
    assert ["a.b", "'a\\x1b'", "a" * 60, "aa"] == [quoted("a.b"), quoted("a\x1b"), quoted("a" * 99), quoted("aaaa", 2)]


def test_nearest_names_what_was_probably_meant():
    assert nearest("colour.rad", ["colour.red", "x"]) == "; did you mean 'colour.red'?"
    assert nearest("zzzz", ["colour.red"]) == "; `ota-bridge config show` lists all of them"
