"""Tickets against a vector made without this package, and every way in which one does not fit."""

import json
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput, ManifestRefused, RefusedReason
from ota_bridge.security import envelope, tokens
from ota_bridge.security.keys import SigningKey

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "manifest" / "ticket.json").read_text())
KEY = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["key"]["private"])))
TICKET = bytes.fromhex(VECTOR["ticket"])
CLAIMS = {
    "device": VECTOR["device"],
    "nonce": bytes.fromhex(VECTOR["nonce"]),
    "manifest_digest": bytes.fromhex(VECTOR["manifest_digest"]),
}
TIMES = {name: VECTOR[name] for name in ("time_s", "valid_s", "flags")}


def refused(ticket, **claims):
    with pytest.raises(ManifestRefused) as caught:
        tokens.verify(ticket, online=[KEY.public], **{**CLAIMS, **claims})
    assert caught.value.reason is RefusedReason.STALE
    return str(caught.value)


def test_the_vector_is_written_byte_for_byte():
    assert tokens.issue(KEY, **CLAIMS, **TIMES) == TICKET
    assert cbor2.dumps(cbor2.loads(TICKET), canonical=True) == TICKET


def test_the_vector_verifies():
    facts = tokens.verify(TICKET, online=[KEY.public], **CLAIMS)
    assert (facts.time_s, facts.valid_s, facts.flags) == (1_800_000_000, 3600, 0)
    assert tokens.device_id16("lamp/d1") == facts.device


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"device": "lamp/d2"}, "REFUSED_STALE: the ticket is for another device"),
        ({"nonce": bytes(16)}, "REFUSED_STALE: the ticket is for another check-in"),
        ({"manifest_digest": bytes(32)}, "REFUSED_STALE: the ticket is for another manifest"),
    ],
)
def test_a_ticket_for_something_else_is_refused(claims, expected):
    assert expected == refused(TICKET, **claims)


def test_a_ticket_by_another_key_is_refused():
    ticket = tokens.issue(SigningKey.generate(), **CLAIMS, **TIMES)
    assert refused(ticket) == "REFUSED_STALE: ticket: no signature by a trusted online key"


def test_every_flipped_bit_is_refused():
    for bit in range(len(TICKET) * 8):
        flipped = bytearray(TICKET)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(bytes(flipped))


def test_a_manifest_is_no_ticket_even_by_the_online_key():
    refused(envelope.seal(cbor2.dumps({1: 1, 2: 2}, canonical=True), [KEY]))
    refused(envelope.seal(b"\x00", [KEY]))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    refused(data)


@pytest.mark.parametrize(
    "values",
    [
        {"nonce": bytes(15)},
        {"manifest_digest": bytes(31)},
        {"time_s": -1},
        {"time_s": 2**64},
        {"valid_s": 2**32},
        {"flags": -1},
    ],
)
def test_values_that_do_not_fit_are_not_issued(values):
    with pytest.raises(InvalidInput):
        tokens.issue(KEY, **{**CLAIMS, **TIMES, **values})
