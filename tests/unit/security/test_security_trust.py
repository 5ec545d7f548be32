"""The trust document is read strictly and written whole."""

import base64
import json
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.manifest import vendor_id
from ota_bridge.security.keys import Algorithm, SigningKey
from ota_bridge.security.trust import Trust

A, B, O = (SigningKey.generate(kind).public for kind in (Algorithm.ED25519, Algorithm.P256, Algorithm.ED25519))  # noqa: E741 - O is the online key
TRUST = Trust(vendor="example.com", authors=(A, B), threshold=2, online=(O,))


def document(**changes):
    return {**json.loads(TRUST.to_json()), **changes}


def entry(key, **changes):
    return {"kid": key.kid.hex(), "alg": str(key.algorithm), "public": base64.b64encode(key.raw).decode(), **changes}


def parse(value):
    return Trust.parse(json.dumps(value).encode())


def message(value):
    with pytest.raises(InvalidInput) as caught:
        parse(value)
    return str(caught.value)


def test_the_document_is_as_the_contract_says():
    assert {
        "format": 1,
        "vendor": "example.com",
        "threshold": 2,
        "authors": [entry(A), entry(B)],
        "online": [entry(O)],
    } == json.loads(TRUST.to_json())


def test_what_was_saved_loads_again(tmp_path):
    path = tmp_path / "ota-trust.json"
    TRUST.save(path)
    TRUST.save(path)
    assert Trust.load(path) == TRUST
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [path] == list(tmp_path.iterdir())


def test_the_online_list_may_be_absent():
    without = document()
    del without["online"]
    assert replace(TRUST, online=()) == parse(without)


def test_the_test_mark_is_kept():
    marked = replace(TRUST, online=(replace(O, test=True),))
    assert marked == parse(json.loads(marked.to_json()))
    assert ((replace(O, test=True),), ()) == (marked.test_keys, TRUST.test_keys)
    assert O.kid == marked.online[0].kid


def test_the_vendor_id_is_that_of_manifests():
    assert vendor_id("example.com") == TRUST.vendor_id


def test_keys_are_added_once():
    one = Trust(vendor="example.com", authors=(A,))
    assert one.with_author(B, threshold=2).with_online(O) == TRUST
    for add in (TRUST.with_author, TRUST.with_online):
        for key in (A, O):
            with pytest.raises(Conflict, match="is in it already"):
                add(key)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "trust document.format must be an integer 1..1, not 2"),
        ({"extra": 1}, "trust document: the key 'extra' is not known"),
        ({"vendor": "Example"}, "vendor 'Example' is not a domain name in lower case, such as example.com"),
        ({"vendor": None}, "trust document.vendor is missing"),
        ({"threshold": 0}, "trust document.threshold must be an integer 1..32, not 0"),
        ({"threshold": 3}, "trust document: threshold 3 with 2 author keys; it must be 1..2"),
        ({"threshold": True}, "trust document.threshold must be an integer 1..32, not True"),
        ({"authors": []}, "trust document.authors must be an array of 1..32 items, not an array of 0"),
        ({"authors": [1]}, "trust document.authors[0] must be a map, not 1"),
        ({"authors": [entry(A), entry(A)]}, f"trust document: key {A.kid.hex()} stands in it twice"),
        ({"online": [entry(A)]}, f"trust document: key {A.kid.hex()} stands in it twice"),
        ({"authors": [entry(A, alg="rsa")]}, "trust document.authors[0].alg is 'rsa'; allowed are ed25519, p256"),
        ({"authors": [entry(A, alg="p256")]}, "a public key of p256 has 65 bytes, not 32"),
        (
            {"authors": [entry(A, kid="00" * 8)]},
            f"trust document: the kid of key 0 is not that of its public key ({A.kid.hex()})",
        ),
        ({"authors": [entry(A, test=1)]}, "trust document.authors[0].test must be true or false, not 1"),
        ({"authors": [entry(A, private="x")]}, "trust document.authors[0]: the key 'private' is not known"),
        (
            {"authors": [entry(A, public="!")]},
            "trust document.authors[0].public must be base64 of at most 65 bytes, not '!'",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_a_sentence(changes, expected):
    value = document(threshold=1)
    value.update(changes)
    assert expected == message(value)


def test_at_most_32_keys():
    keys = [entry(SigningKey.generate().public) for _ in range(32)]
    assert len(parse(document(threshold=1, authors=keys, online=[])).authors) == 32
    assert message(document(threshold=1, authors=keys)) == "trust document: 33 keys, at most 32 are allowed"


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "ota-trust.json"
    with pytest.raises(NotFound, match="does not exist; `ota-bridge keys new` makes one"):
        Trust.load(path)
    path.write_text("{")
    with pytest.raises(InvalidInput, match=r"ota-trust\.json: JSON: Expecting"):
        Trust.load(path)
    with pytest.raises(InvalidInput, match="cannot be written: No such file or directory"):
        TRUST.save(tmp_path / "none" / "x")


@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused(data):
    with pytest.raises(InvalidInput):
        Trust.parse(data)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_a_document_or_refused(position, byte):
    data = bytearray(TRUST.to_json().encode())
    data[position % len(data)] = byte
    sentence = ""
    try:
        Trust.parse(bytes(data))
    except InvalidInput as error:
        sentence = str(error)
    assert len(sentence) <= 200
