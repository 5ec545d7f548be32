"""`keys new` and `keys show`."""

import stat

import pytest

from ota_bridge.security.keys import Algorithm, load_key
from ota_bridge.security.trust import Trust


def test_new_keys_are_private_and_the_trust_document_names_their_public_halves(operator):
    ran = operator("keys", "new", "--vendor", "acme.example", "--json")
    assert ran.code == 0
    for name in ("ota-author.pem", "ota-online.pem"):
        assert stat.S_IMODE((operator.directory / name).stat().st_mode) == 0o600
    trust = Trust.load(operator.directory / "ota-trust.json")
    author, online = (load_key(operator.directory / name).key for name in ("ota-author.pem", "ota-online.pem"))
    assert trust.vendor == ran.json["vendor"] == "acme.example"
    assert [key.kid for key in trust.authors] == [author.kid]
    assert [key.kid for key in trust.online] == [online.kid]
    assert ran.json["author"] == author.kid.hex()


@pytest.mark.parametrize("alg", list(Algorithm))
def test_both_algorithms_can_be_chosen(operator, alg):
    assert operator("keys", "new", "--alg", alg).code == 0
    assert load_key(operator.directory / "ota-author.pem").key.algorithm is alg


def test_a_private_key_is_never_overwritten(operator):
    operator("keys", "new")
    before = {path.name: path.read_bytes() for path in operator.directory.iterdir()}
    ran = operator("keys", "new")
    assert ran.code == 1
    assert "ota-author.pem exists already" in ran.err
    assert {path.name: path.read_bytes() for path in operator.directory.iterdir()} == before


def test_a_second_author_is_added_to_the_trust_document_and_the_online_key_stays(operator):
    operator("keys", "new")
    online = load_key(operator.directory / "ota-online.pem").key.kid
    assert operator("keys", "new", "--out", "second.pem").code == 0
    trust = Trust.load(operator.directory / "ota-trust.json")
    assert len(trust.authors) == 2
    assert [key.kid for key in trust.online] == [online]


def test_another_vendor_is_refused_and_no_key_is_made(operator):
    operator("keys", "new", "--vendor", "acme.example")
    ran = operator("keys", "new", "--out", "second.pem", "--vendor", "other.example")
    assert ran.code == 1
    assert "is for vendor acme.example, not other.example" in ran.err
    assert not (operator.directory / "second.pem").exists()


def test_a_vendor_that_is_no_domain_is_refused_and_nothing_is_left(operator):
    ran = operator("keys", "new", "--vendor", "ACME Inc.")
    assert (ran.code, list(operator.directory.iterdir())) == (1, [])
    assert "is not a domain name" in ran.err


def test_the_example_vendor_is_pointed_out(operator):
    assert "--vendor" in operator("keys", "new").err
    assert operator("keys", "new", "--out", "b.pem").err == ""


def test_show_lists_the_keys_and_says_which_private_halves_are_here(operator):
    operator("keys", "new")
    operator("keys", "new", "--out", "second.pem")
    shown = operator("keys", "show", "--json").json
    assert [(key["role"], key["private"]) for key in shown["keys"]] == [
        ("author", "ota-author.pem"),
        ("author", None),
        ("online", "ota-online.pem"),
    ]
    assert "ota-author.pem" in operator("keys", "show").out


def test_show_points_out_a_key_that_the_trust_document_does_not_name(operator):
    operator("keys", "new")
    (operator.directory / "ota-online.pem").unlink()
    operator("keys", "new", "--out", "o.pem", "--trust", "other.json")
    assert "which keyset 1 does not name" in operator("keys", "show").err


def test_show_without_a_trust_document_says_how_to_make_one(operator):
    ran = operator("keys", "show")
    assert ran.code == 1
    assert "`ota-bridge keys new` makes one" in ran.err
