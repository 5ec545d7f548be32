"""The bytes that are signed, as a device without a CBOR writer builds them."""

import pytest

from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.security import envelope
from ota_bridge.security.keys import Algorithm, SigningKey


@pytest.mark.parametrize(
    ("algorithm", "size", "expected"),
    [
        (Algorithm.ED25519, 146, "846a5369676e61747572653143a10132405892"),
        (Algorithm.P256, 146, "846a5369676e61747572653143a10128405892"),
        (Algorithm.ED25519, 23, "846a5369676e61747572653143a101324057"),
        (Algorithm.ED25519, 300, "846a5369676e61747572653143a101324059012c"),
    ],
)
def test_what_is_signed_is_a_constant_head_and_the_payload(algorithm, size, expected):
    key = SigningKey.generate(algorithm)
    payload = bytes(size)
    [signature] = envelope.open_envelope(envelope.seal(payload, [key])).signatures
    assert key.public.verify(bytes.fromhex(expected) + payload, signature.value)


def test_signatures_stand_in_the_order_of_their_key_ids():
    keys = [SigningKey.generate() for _ in range(3)]
    expected = envelope.seal(b"payload", keys)
    kids = [signature.kid for signature in envelope.open_envelope(expected).signatures]
    assert sorted(key.kid for key in keys) == kids
    assert expected == envelope.seal(b"payload", reversed(keys))


def test_a_signature_is_added_without_touching_the_others():
    first, second = SigningKey.generate(), SigningKey.generate()
    before = envelope.open_envelope(envelope.seal(b"payload", [first]))
    after = envelope.open_envelope(envelope.add(envelope.seal(b"payload", [first]), second))
    assert before.payload == after.payload
    assert set(before.signatures) < set(after.signatures)


def test_valid_kids_are_the_trusted_ones_that_signed():
    keys = [SigningKey.generate() for _ in range(3)]
    opened = envelope.open_envelope(envelope.seal(b"payload", keys[:2]))
    assert frozenset({keys[0].kid}) == envelope.valid_kids(opened, [keys[0].public, keys[2].public])
    assert frozenset() == envelope.valid_kids(opened, [])


def test_a_large_payload_is_not_sealed():
    with pytest.raises(InvalidInput, match="at most 512 are allowed"):
        envelope.seal(bytes(430), [SigningKey.generate()])
    with pytest.raises(Malformed):
        envelope.open_envelope(bytes(513))
