"""Names, devices and errors: what may be one, and what the refusal says."""

import inspect

import pytest

from ota_bridge.core import errors
from ota_bridge.core.errors import InvalidInput, OtaBridgeError
from ota_bridge.core.values import (
    DeviceId,
    attribute_of,
    checked_component,
    checked_hardware_id,
    checked_product,
    checked_tag,
    checked_version,
    release_id,
)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (checked_component, "firmware"),
        (checked_component, "a_b-9" + "x" * 11),
        (checked_version, "1.0.0-rc.1+build~2:x"),
        (checked_version, "v" * 32),
        (checked_hardware_id, "r1:a+b"),
        (checked_product, "Prod-1._:x"),
        (checked_product, "p" * 64),
        (checked_tag, "site=berlin"),
    ],
)
def test_a_good_name_is_itself(check, text):
    assert text == check(text)


@pytest.mark.parametrize(
    "check", [checked_component, checked_version, checked_hardware_id, checked_product, checked_tag]
)
@pytest.mark.parametrize("text", ["", "a/b", "a+/b", "a#b", "a b", "a\0", "a\n", "\n", "ä", "１", "x" * 65])
def test_a_name_that_would_break_a_topic_or_a_file_is_refused_with_what_is_allowed(check, text):
    with pytest.raises(InvalidInput, match="allowed is"):
        check(text)


@pytest.mark.parametrize(("check", "text"), [(checked_component, "Firmware"), (checked_version, "v" * 33)])
def test_each_kind_of_name_has_its_own_alphabet_and_length(check, text):
    with pytest.raises(InvalidInput):
        check(text)


def test_a_long_bad_name_is_shown_in_short():
    with pytest.raises(InvalidInput) as caught:
        checked_version("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_a_device_is_read_from_its_topic_levels_and_written_back():
    device = DeviceId.parse("prod/dev-1.a:b_c")
    assert DeviceId("prod", "dev-1.a:b_c") == device
    assert "prod/dev-1.a:b_c" == str(device)


@pytest.mark.parametrize(
    "text", ["", "prod", "/", "prod/", "/dev", "prod/a/b", "prod/+", "#/a", "prod/" + "x" * 129, "x" * 65 + "/a"]
)
def test_what_is_no_device_is_refused(text):
    with pytest.raises(InvalidInput):
        DeviceId.parse(text)


def test_a_release_is_named_by_product_and_version():
    assert "prod/1.1.0" == release_id("prod", "1.1.0")


def test_every_error_has_the_one_root_and_stands_in_the_tree_of_the_module():
    names = [
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == errors.__name__
    ]
    assert all(issubclass(getattr(errors, name), OtaBridgeError) for name in names)
    assert [] == [name for name in names if name not in (errors.__doc__ or "")]


def test_the_refusals_on_the_wire_are_those_of_the_protocol():
    expected = {
        "NOT_OPEN": 1,
        "PAST_END": 2,
        "ABOVE_LIMIT": 3,
        "BUSY": 4,
        "PAUSED": 5,
        "WITHDRAWN": 6,
        "MALFORMED": 7,
    }
    assert expected == {code.name: code.value for code in errors.BlockRefusal}


def test_the_names_of_refused_manifests_are_those_of_the_protocol():
    expected = "SIG TYPE CLASS ROLLBACK STALE DEP SIZE PRECURSOR DIGEST".split()
    assert [f"REFUSED_{name}" for name in expected] == list(errors.RefusedReason)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("2026", 2026),
        ("-5", -5),
        ("0", 0),
        ("007", "007"),
        ("-0", "-0"),
        ("1.5", "1.5"),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), str(2**63)),
        ('"2026"', "2026"),
        ('"', '"'),
        ('"a" and "b"', '"a" and "b"'),
        ("", ""),
        ("٣", "٣"),
    ],
)
def test_what_reads_as_a_whole_number_is_one_unless_it_is_quoted(typed, value):
    assert value == attribute_of(typed)
