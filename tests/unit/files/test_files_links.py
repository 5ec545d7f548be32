"""Links: what they say comes back, nothing else does, and they fit into small buffers."""

import base64

import pytest
from core_world import facts_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.values import DeploymentId
from ota_bridge.files.links import Link, LinkFault, SignedLinks, make_code, read_code
from ota_bridge.wire import BASE_URL_MAX

SECRET = bytes(range(32))
OTHER_SECRET = bytes(32)
DEPLOYMENT = DeploymentId("0123456789ab")
FACTS = facts_of()
WALL = 1_800_000_000.0


def code_of(url):
    return url.rpartition("/")[2]


def raw_of(code):
    return base64.urlsafe_b64decode(code + "==")


def text_of(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_link_says_whose_it_is_what_it_is_for_and_until_when():
    url = SignedLinks("http://ota.example.com/", SECRET, 3600)(DEPLOYMENT, FACTS, WALL + 0.9)
    assert "http://ota.example.com/f/" + code_of(url) == url
    found = read_code(SECRET, code_of(url), WALL)
    assert isinstance(found, Link)
    assert (DEPLOYMENT, FACTS.sha256[:8], int(WALL) + 3600) == (found.deployment, found.image, found.until_s)


def test_no_link_is_longer_than_200_characters():
    base = "http://" + "h" * (BASE_URL_MAX - len("http://"))
    assert 199 == len(SignedLinks(base, SECRET, 3600)(DEPLOYMENT, FACTS, WALL))


@given(st.binary(min_size=6, max_size=6), st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))
def test_every_code_is_read_as_it_was_made(deployment, sha256, until_s):
    code = make_code(SECRET, DeploymentId(deployment.hex()), sha256, until_s)
    found = read_code(SECRET, code, until_s)
    assert isinstance(found, Link)
    assert (deployment.hex(), sha256[:8], until_s) == (found.deployment, found.image, found.until_s)
    assert 46 == len(code)


def test_a_link_holds_until_its_second_and_not_longer():
    code = make_code(SECRET, DEPLOYMENT, FACTS.sha256, int(WALL))
    assert isinstance(read_code(SECRET, code, WALL), Link)
    assert LinkFault.EXPIRED is read_code(SECRET, code, WALL + 0.1)


def test_a_link_that_would_hold_past_the_year_2106_holds_until_then():
    code = code_of(SignedLinks("http://h", SECRET, 3600)(DEPLOYMENT, FACTS, 2.0**32))
    assert isinstance(read_code(SECRET, code, 2**32 - 1), Link)


@pytest.mark.parametrize("bit", range(34 * 8))
def test_a_code_of_which_any_bit_was_changed_is_forged(bit):
    raw = bytearray(raw_of(make_code(SECRET, DEPLOYMENT, FACTS.sha256, int(WALL))))
    raw[bit // 8] ^= 1 << bit % 8
    assert LinkFault.FORGED is read_code(SECRET, text_of(raw), WALL)


def test_a_code_under_another_secret_is_forged():
    assert LinkFault.FORGED is read_code(OTHER_SECRET, make_code(SECRET, DEPLOYMENT, FACTS.sha256, int(WALL)), WALL)


def test_another_devices_proof_does_not_make_a_link():
    mine = raw_of(make_code(SECRET, DEPLOYMENT, FACTS.sha256, int(WALL)))
    other = raw_of(make_code(SECRET, DeploymentId("ba9876543210"), FACTS.sha256, int(WALL)))
    assert LinkFault.FORGED is read_code(SECRET, text_of(other[:18] + mine[18:]), WALL)


def test_an_expired_code_that_is_forged_is_told_as_forged():
    assert LinkFault.FORGED is read_code(OTHER_SECRET, make_code(SECRET, DEPLOYMENT, FACTS.sha256, 1), WALL)


@pytest.mark.parametrize(
    "code", ["", "A" * 45, "A" * 47, "=" * 46, "A" * 45 + "+", "A" * 45 + "\n", "é" * 46, "%41" * 15 + "A"]
)
def test_what_is_no_code_is_told_as_malformed(code):
    assert LinkFault.MALFORMED is read_code(SECRET, code, WALL)


def test_no_two_codes_mean_the_same():
    code = make_code(SECRET, DEPLOYMENT, FACTS.sha256, int(WALL))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    found = [code[:-1] + last for last in alphabet if isinstance(read_code(SECRET, code[:-1] + last, WALL), Link)]
    assert [code] == found


@given(st.text(max_size=60))
def test_no_text_raises(text):
    assert isinstance(read_code(SECRET, text, WALL), LinkFault)
