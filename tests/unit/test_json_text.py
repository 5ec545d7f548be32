"""Compact JSON: what the library writes, to the character, whatever the value."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from wild import SEEDS, binary, boolean, integer, nothing, text, wild

from ota_bridge import json_text
from ota_bridge.json_text import compact_encoder

PLAIN = {"ensure_ascii": False, "separators": (",", ":")}


@settings(max_examples=500)
@given(SEEDS)
def test_the_text_is_that_of_the_library(seed):
    value = wild(Random(seed), leaves=(nothing, boolean, integer, text, binary))

    assert json.dumps(value, separators=(",", ":"), default=bytes.hex) == compact_encoder(bytes.hex)(value)
    assert json.dumps(value, **PLAIN, default=bytes.hex) == compact_encoder(bytes.hex, ensure_ascii=False)(value)


@pytest.mark.parametrize("value", [1.5, -0.0, (1, "é"), {1: None}, {True: 2.0}, "\u2028", "\0", {"a": {}, "b": [[]]}])
def test_what_decoders_do_not_give_is_written_as_the_library_does(value):
    assert json.dumps(value, **PLAIN) == compact_encoder(str, ensure_ascii=False)(value)


def test_without_the_encoder_in_c_it_is_the_library_that_writes(monkeypatch):
    monkeypatch.setattr(json_text, "_MAKE", None)

    assert '{"a":["\\u00e9","78"]}' == compact_encoder(bytes.hex)({"a": ["é", b"x"]})


def test_what_is_refused_is_said_by_the_caller():
    def refuse(value):
        raise LookupError(type(value).__name__)

    with pytest.raises(LookupError, match="set"):
        compact_encoder(refuse)({"a": set()})
