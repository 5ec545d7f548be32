"""Queries: what they match, what is refused with which sentence, and what an evaluation may cost."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.rollout.facts import facts_of
from ota_bridge.core.values import DeviceId
from ota_bridge.queries import KEPT_MAX, QUERY_MAX_BYTES, CelQueries

NOW = 10_000.0
QUERIES = CelQueries()
DEVICE = Device(
    id=DeviceId("pump", "d1"),
    state=DeviceState.ACTIVE,
    created_wall=0.0,
    hw="r2",
    label="Hall 3",
    tags=("eu-1", "lab"),
    attrs={"batch": "A7", "year": 2026, "serial": "SN-00123", "site": "Zürich"},
    parts={
        "firmware": InstalledPart(version="1.9.0", seq=7),
        "radio": InstalledPart(version="v2", seq=2**64 - 1, trial=True),
        "config": InstalledPart(version="x"),
    },
    proto=1,
    last_report_wall=NOW - 90,
)


def matches(text, device=DEVICE):
    return QUERIES(text)(facts_of(device, NOW))


@pytest.mark.parametrize(
    "text",
    [
        "true",
        'product == "pump" && name == "d1" && state == "active" && hw in ["r1", "r2"]',
        'label.startsWith("Hall")',
        '"lab" in tags && size(tags) == 2',
        r'tags.exists(t, t.matches("^eu-[0-9]+$"))',
        'attrs.batch == "A7" && attrs.year >= 2025',
        'attrs.site == "Zürich"',
        'older(versions.firmware, "1.10") && newer(versions.firmware, "1.9-rc1")',
        '!older(versions.radio, "2.0") && !newer(versions.radio, "2.0")',
        "number(attrs.serial) >= 100 && number(attrs.serial) < 200",
        "seqs.firmware == 7 && seqs.radio > 9000000000000000000 && !has(seqs.config)",
        "on_trial && last_seen_s == 90 && added_s == 10000 && keyset == -1 && proto == 1",
        "!has(attrs.lot)",
        '.hw == "r2" && .attrs.batch == "A7"',
        "attrs.lot == 1 || true",
        "attrs.exists(k, k == 'batch')",
        "// a comment\ntrue &&\n\ttrue",
        "!" * 4000 + "true",
    ],
)
def test_a_query_that_holds_matches(text):
    assert matches(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "false",
        "attrs.lot == 1",
        "attrs.lot != 1",
        "!(attrs.lot == 1)",
        "attrs.batch > 3",
        'older(versions.config, "1.0")',
        '!older(versions.config, "1.0")',
        "number(attrs.batch + 'x') == number(attrs.site)",
        "attrs.year + 9223372036854775807 > 0",
        "attrs.year / (attrs.year - 2026) == 1",
        "[1, 2][attrs.year] == 1",
        "number(attrs.year) == 2026",
    ],
)
def test_what_cannot_be_answered_for_a_device_does_not_match_it(text):
    assert matches(text) is False


def test_of_a_device_that_was_never_heard_everything_is_there_to_compare():
    fresh = Device(id=DeviceId("pump", "d2"), state=DeviceState.PENDING, created_wall=NOW + 5)
    assert matches('hw == "" && label == "" && last_seen_s > 86400 * 365 && added_s == 0 && !on_trial', fresh)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'query: it is empty; every device is "true"'),
        (" \n", 'query: it is empty; every device is "true"'),
        ("hw\0", "query: line 1 holds characters that cannot be printed"),
        ('hw ==\n "\ud800"', "query: line 2 holds characters that cannot be printed"),
        ("'" + "é" * 2048 + "'", f"query: 4098 bytes; at most {QUERY_MAX_BYTES} are allowed"),
        ("hww == 'r2'", "query: line 1, column 1: there is no 'hww'; did you mean 'hw'?\n  hww == 'r2'\n  ^"),
        ("product == 'ü' &&\n  prodct == ''", "query: line 2, column 3: there is no 'prodct'; did you mean 'product'?\n    prodct == ''\n    ^"),
        ("1 +", "query: line 1, column 4: Syntax error: mismatched input '<EOF>'\n  1 +\n     ^"),
        ("hw < 3", "query: line 1, column 4: found no matching overload for '_<_' applied to '(string, int)'\n  hw < 3\n     ^"),
        ("attrs.year", "query: its result is of any type, not true or false; compare it with something"),
        ("size(tags)", "query: its result is a int, not true or false; compare it with something"),
        ("hw.matches('(')", "query: matches cannot take '(': invalid regular expression: missing ): ("),
        ("duration('3d') > duration('1s')", "query: duration cannot take '3d': String to Duration conversion failed"),
        ("(" * 40 + "true" + ")" * 40, "query: it is nested too deeply, at most 32 levels are allowed; a long sum is nested, too"),
        ("attrs.all(a, attrs.all(b, true))", "query: all, exists, exists_one, filter and map cannot stand inside of one another"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(text, sentence):
    with pytest.raises(InvalidInput) as refused:
        QUERIES(text)
    assert sentence == str(refused.value)


def test_a_name_like_no_other_is_answered_with_all_that_there_are():
    with pytest.raises(InvalidInput, match="there is no 'xyzzy'; known are product, name, label"):
        QUERIES("xyzzy == 1")


@pytest.mark.parametrize("text", ["x" * 4000, "'" + "x" * 4000, "size(" + "x" * 4000 + ")", "hw." + "x" * 4000 + "()"])
def test_a_sentence_stays_short_whatever_was_written(text):
    with pytest.raises(InvalidInput) as refused:
        QUERIES(text)
    assert len(str(refused.value)) < 600


def test_a_place_far_to_the_right_is_shown_with_what_stands_around_it():
    with pytest.raises(InvalidInput) as refused:
        QUERIES("true && " * 40 + "oops")
    _, shown, mark = str(refused.value).split("\n")
    assert "oops" == shown[mark.index("^") :]
    assert len(shown) < 110


def test_a_query_names_the_keys_that_it_asks_for():
    query = QUERIES('attrs.batch == "x" || "radio" in versions')
    assert ({("attrs", "batch"), ("versions", "radio")}, True) == (query.asked, query.text.startswith("attrs"))


EXAMPLES = re.findall(r"```cel\n(.*?)```", (Path(__file__).parents[2] / "docs/queries.md").read_text(), re.DOTALL)
FITTING = replace(
    DEVICE,
    id=DeviceId("pump", "dev-0042"),
    tags=("canary", "site=north"),
    attrs={"batch": "A7", "year": 2026, "serial": "SN-00123", "site": "north"},
    parts={"firmware": InstalledPart(version="1.9.0"), "radio": InstalledPart(version="2.1")},
)
OTHER = replace(
    DEVICE,
    id=DeviceId("lamp", "dev-0007"),
    label="",
    tags=(),
    attrs={"batch": "B1", "year": 2019, "serial": "SN-00999", "site": "lab"},
    parts={"firmware": InstalledPart(version="1.10"), "radio": InstalledPart(version="2.4")},
    last_report_wall=NOW - 86400,
)


def test_the_page_has_a_dozen_examples():
    assert 12 == len(EXAMPLES)


@pytest.mark.parametrize("text", EXAMPLES)
def test_each_example_of_the_page_tells_devices_apart(text):
    wanted = replace(FITTING, last_report_wall=0.0 - 86400 * 40) if "a month" in text else FITTING
    assert (True, False) == (matches(text, wanted), matches(text, OTHER))


def test_what_was_compiled_is_kept_within_bounds():
    queries = CelQueries()
    first = queries("keyset == 0")
    assert first is queries("keyset == 0")
    for number in range(1, KEPT_MAX + 1):
        queries(f"keyset == {number}")
    assert first is not queries("keyset == 0")
    assert KEPT_MAX == len(queries._kept)


def test_threads_compile_and_ask_at_the_same_time():
    queries, wrong = CelQueries(), []

    def ask(offset):
        for number in range(200):
            year = 2000 + (number + offset) % 50
            if queries(f"attrs.year == {year}")(facts_of(replace(DEVICE, attrs={"year": year}), NOW)) is not True:
                wrong.append(year)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in (0, 7, 23)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong
