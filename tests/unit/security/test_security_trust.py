"""The trust document is read strictly and written whole."""

import base64
import json
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import Conflict, InvalidInput, KeysetRefused, NotFound
from ota_bridge.core.manifest import vendor_id
from ota_bridge.security import envelope, keyset
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


# --- rotations ----------------------------------------------------------------------------------------------------

OLD, NEW, NEWEST = (SigningKey.generate() for _ in range(3))
FACTORY = Trust(vendor="example.com", authors=(OLD.public,), online=(O,))


def step(before, author, *signers):
    """The step to a keyset with one author."""
    after = replace(before, version=before.version + 1, authors=(author.public,))
    return envelope.seal(keyset.encode(after), signers, kind=keyset.KIND)


SECOND = FACTORY.with_rotation(step(FACTORY.keyset, NEW, OLD, NEW))
THIRD = SECOND.with_rotation(step(SECOND.keyset, NEWEST, NEW, NEWEST))


def test_a_document_without_rotations_is_keyset_1():
    assert (1, 1, TRUST.authors, TRUST.online, 2) == (
        TRUST.keyset.version,
        TRUST.keyset.epoch,
        TRUST.keyset.authors,
        TRUST.keyset.online,
        TRUST.keyset.threshold,
    )


def test_rotations_are_walked_one_after_the_other():
    read = Trust.parse(THIRD.to_json().encode())
    assert THIRD == read
    assert (3, (NEWEST.public,)) == (read.keyset.version, read.keyset.authors)
    assert (OLD.public,) == read.authors
    assert [None, None, *THIRD.rotations, None] == [read.step_to(version) for version in range(5)]


@pytest.mark.parametrize(
    ("rotations", "expected"),
    [
        ([THIRD.rotations[1]], "rotation 0 does not follow: REFUSED_KEYS_OLD"),
        ([*THIRD.rotations, THIRD.rotations[1]], "rotation 2 does not follow: REFUSED_KEYS"),
        ([THIRD.rotations[0][:-1]], "rotation 0 does not follow: REFUSED_KEYS_FORM"),
        ([bytes(1025)], "must be 1..1024 bytes of binary"),
        (["x"], "must be base64"),
        ("x", "must be an array"),
        ([b"x"] * 257, "must be an array of 0..256 items"),
    ],
)
def test_a_rotation_that_does_not_follow_refuses_the_document(rotations, expected):
    listed = (
        [base64.b64encode(one).decode() if isinstance(one, bytes) else one for one in rotations]
        if isinstance(rotations, list)
        else rotations
    )
    with pytest.raises(InvalidInput, match=expected):
        Trust.parse(json.dumps({**json.loads(FACTORY.to_json()), "rotations": listed}).encode())


def test_a_rotation_that_is_there_already_changes_nothing_whoever_else_signed_it():
    assert THIRD.with_rotation(THIRD.rotations[0]) is THIRD
    again = keyset.sign(THIRD.rotations[1], OLD)
    assert THIRD.with_rotation(again) is THIRD
    other = step(FACTORY.keyset, NEWEST, OLD, NEWEST)
    with pytest.raises(KeysetRefused, match="REFUSED_KEYS_ROLLBACK"):
        THIRD.with_rotation(other)
    with pytest.raises(KeysetRefused, match="REFUSED_KEYS_FORM"):
        THIRD.with_rotation(b"\x80")
    with pytest.raises(KeysetRefused, match="REFUSED_KEYS_SIZE"):
        THIRD.with_rotation(bytes(2000))


def test_a_rotation_that_comes_too_early_is_refused_with_the_one_that_is_missing():
    with pytest.raises(KeysetRefused) as refused:
        FACTORY.with_rotation(THIRD.rotations[1])
    assert (
        "REFUSED_KEYS_OLD: 0 authors of keyset 1 signed it, 1 must; it says it is keyset 3: "
        "the step to keyset 2 comes first"
    ) == str(refused.value)


def test_a_rotated_document_gets_no_keys_but_by_rotation():
    for add in (SECOND.with_author, SECOND.with_online):
        with pytest.raises(Conflict, match="needs `ota-bridge keys rotate`"):
            add(NEWEST.public)


def test_of_two_documents_the_one_that_goes_further_counts():
    assert SECOND.joined(THIRD) is THIRD is THIRD.joined(FACTORY)
    assert FACTORY.joined(FACTORY) is FACTORY
    signed_more = replace(SECOND, rotations=(keyset.sign(SECOND.rotations[0], NEWEST),))
    assert signed_more.joined(THIRD) is THIRD


def test_documents_that_contradict_each_other_are_not_joined():
    forked = FACTORY.with_rotation(step(FACTORY.keyset, NEWEST, OLD, NEWEST))
    other = Trust(vendor="example.com", authors=(OLD.public, NEW.public), online=(O,))
    for one, two in ((forked, SECOND), (forked, THIRD), (other, FACTORY), (other, THIRD)):
        for first, second in ((one, two), (two, one)):
            with pytest.raises(InvalidInput, match="contradict each other"):
                first.joined(second)


def test_after_256_rotations_there_is_no_further_one():
    rotations = [step(replace(FACTORY.keyset, version=1 + number), OLD, OLD) for number in range(256)]
    document = replace(FACTORY, rotations=tuple(rotations))
    assert 257 == document.keyset.version
    with pytest.raises(Conflict, match="holds 256 rotations"):
        document.with_rotation(step(document.keyset, OLD, OLD))


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
