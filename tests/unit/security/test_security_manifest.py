"""Manifests against vectors that were made without this package (cbor2, cryptography, hashlib), and hostile ones."""

import json
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput, ManifestRefused, RefusedReason
from ota_bridge.core.manifest import Dependency, ManifestContent, PayloadType
from ota_bridge.security import envelope, manifest
from ota_bridge.security.keys import Algorithm, SigningKey
from ota_bridge.security.trust import Trust

VECTORS = Path(__file__).parents[2] / "vectors" / "manifest"
SIGNED = ["ed25519", "esp256", "two_authors", "optional_fields", "device_and_precursor"]
REFUSED = json.loads((VECTORS / "refused.json").read_text())


def key_of(entry):
    secret = bytes.fromhex(entry["private"])
    if entry["alg"] == "ed25519":
        return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
    return SigningKey(ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1()))


def trust_of(document):
    return Trust.parse(json.dumps(document).encode())


def content_of(entry):
    values = dict(entry)
    for name in (
        "vendor",
        "sha256",
        "merkle_root",
        "installed_sha256",
        "precursor_sha256",
        "device",
        "metadata_sha256",
    ):
        if name in values:
            values[name] = bytes.fromhex(values[name])
    values["classes"] = tuple(bytes.fromhex(one) for one in values["classes"])
    values["payload_type"] = PayloadType(values["payload_type"])
    values["dependencies"] = tuple(
        Dependency(component=component, min_seq=seq) for component, seq in values.get("dependencies", [])
    )
    return ManifestContent(**values)


class Vector:
    def __init__(self, name):
        data = json.loads((VECTORS / f"{name}.json").read_text())
        self.keys = [key_of(entry) for entry in data["keys"]]
        self.listed_keys = data["keys"]
        self.trust = trust_of(data["trust"])
        self.content = content_of(data["content"])
        self.payload, self.envelope, self.digest = (bytes.fromhex(data[n]) for n in ("payload", "envelope", "digest"))


@pytest.fixture(params=SIGNED)
def vector(request):
    return Vector(request.param)


def reason(signed, trust):
    with pytest.raises(ManifestRefused) as caught:
        manifest.verify(signed, trust)
    return caught.value.reason


def fields_of(record):
    return {name: getattr(record, name) for name in ManifestContent.__dataclass_fields__}


def test_the_keys_of_a_vector_are_as_it_says(vector):
    for key, listed in zip(vector.keys, vector.listed_keys, strict=True):
        assert (listed["public"], listed["kid"], listed["alg"]) == (key.public.raw.hex(), key.kid.hex(), key.algorithm)


def test_a_vector_is_written_byte_for_byte(vector):
    assert vector.payload == manifest.encode_payload(vector.content)
    assert vector.envelope == manifest.sign(vector.payload, vector.keys)
    assert vector.envelope == manifest.sign(vector.payload, reversed(vector.keys))


def test_a_vector_is_verified(vector):
    facts = manifest.verify(vector.envelope, vector.trust)
    assert fields_of(vector.content) == fields_of(facts)
    assert vector.digest == facts.digest
    assert facts == manifest.read(vector.envelope)
    assert {key.kid for key in vector.keys} == set(manifest.signers(vector.envelope))


def test_the_oracle_finds_a_vector_canonical(vector):
    assert vector.envelope == cbor2.dumps(cbor2.loads(vector.envelope), canonical=True)
    assert vector.payload == cbor2.dumps(cbor2.loads(vector.payload), canonical=True)


def test_the_authors_of_a_vector_can_sign_one_after_the_other():
    vector = Vector("two_authors")
    first, second = vector.keys
    assert vector.envelope == manifest.add_signature(manifest.sign(vector.payload, [first]), second)
    assert vector.envelope == manifest.add_signature(manifest.sign(vector.payload, [second]), first)


@pytest.mark.parametrize("name", ["ed25519", "esp256", "two_authors"])
def test_every_flipped_bit_is_refused(name):
    vector = Vector(name)
    for bit in range(len(vector.envelope) * 8):
        flipped = bytearray(vector.envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(bytes(flipped), vector.trust) == RefusedReason.SIG, f"bit {bit}"


def test_every_prefix_is_refused(vector):
    for end in range(len(vector.envelope)):
        assert reason(vector.envelope[:end], vector.trust) == RefusedReason.SIG


@pytest.mark.parametrize("case", REFUSED["refused"], ids=lambda case: case["rule"])
def test_a_refused_vector_is_refused_by_its_name(case):
    assert case["reason"] == reason(bytes.fromhex(case["envelope"]), trust_of(REFUSED["trust"]))


@settings(max_examples=300)
@given(data=st.binary(max_size=520))
def test_any_bytes_are_refused(data):
    assert reason(data, REFUSED_TRUST) in {RefusedReason.SIG, RefusedReason.SIZE}
    with pytest.raises(ManifestRefused):
        manifest.read(data)


REFUSED_TRUST = trust_of(REFUSED["trust"])
GOOD = Vector("optional_fields")


@settings(max_examples=300)
@given(position=st.integers(0, len(GOOD.payload) - 1), byte=st.integers(0, 255), cut=st.integers(0, 3))
def test_a_signed_payload_with_a_changed_byte_is_refused_or_reads_canonically(position, byte, cut):
    payload = bytearray(GOOD.payload)
    payload[position] = byte
    changed = bytes(payload[: len(payload) - cut])
    signed = envelope.seal(changed, GOOD.keys)
    named, again = RefusedReason.TYPE, changed
    try:
        again = manifest.encode_payload(manifest.verify(signed, GOOD.trust))
    except ManifestRefused as error:
        named = error.reason
    assert changed == again
    assert named in {RefusedReason.TYPE, RefusedReason.CLASS}


# --- how many authors ---

A, B, C = (SigningKey.generate(Algorithm.P256 if i == 1 else Algorithm.ED25519) for i in range(3))
PAYLOAD = manifest.encode_payload(GOOD.content)


def trusting(threshold, *keys):
    return Trust(vendor="example.com", authors=tuple(key.public for key in keys), threshold=threshold)


def test_fewer_authors_than_the_threshold_are_refused():
    assert reason(manifest.sign(PAYLOAD, [A]), trusting(2, A, B)) == RefusedReason.SIG
    assert reason(manifest.sign(PAYLOAD, [A, C]), trusting(2, A, B)) == RefusedReason.SIG
    assert GOOD.content.seq == manifest.verify(manifest.sign(PAYLOAD, [A, B]), trusting(2, A, B)).seq


def test_a_signature_by_an_unknown_key_is_ignored():
    assert GOOD.content.seq == manifest.verify(manifest.sign(PAYLOAD, [A, C]), trusting(1, A, B)).seq


def test_the_bridges_own_key_never_counts_as_an_author():
    trust = Trust(vendor="example.com", authors=(A.public, B.public), threshold=2, online=(C.public,))
    assert reason(manifest.sign(PAYLOAD, [A, C]), trust) == RefusedReason.SIG
    assert GOOD.content.seq == manifest.verify(manifest.sign(PAYLOAD, [A, B]), trust).seq


def doubled(signed):
    payload, signatures = cbor2.loads(signed)
    return cbor2.dumps([payload, [*signatures, signatures[0]]], canonical=True)


def test_a_key_that_signs_twice_counts_once():
    short = manifest.encode_payload(Vector("ed25519").content)
    assert reason(doubled(manifest.sign(short, [A])), trusting(2, A, B)) == RefusedReason.SIG
    assert manifest.verify(doubled(manifest.sign(short, [A])), trusting(1, A, B)).seq == 4


def test_a_key_under_two_ids_does_not_count_twice():
    short = manifest.encode_payload(Vector("ed25519").content)
    payload, [signature] = cbor2.loads(manifest.sign(short, [A]))
    renamed = [signature[0], {4: C.kid}, None, signature[3]]
    both = cbor2.dumps([payload, [signature, renamed]], canonical=True)
    assert reason(both, trusting(2, A, C)) == RefusedReason.SIG
    assert reason(both, trusting(2, A, B)) == RefusedReason.SIG


def test_a_false_signature_in_an_authors_name_refuses_even_above_the_threshold():
    payload, signatures = cbor2.loads(manifest.sign(PAYLOAD, [A, C]))
    for signature in signatures:
        if signature[1][4] == C.kid:
            signature[3] = bytes(64)
    forged = cbor2.dumps([payload, signatures], canonical=True)
    assert reason(forged, trusting(1, A, C)) == RefusedReason.SIG
    assert GOOD.content.seq == manifest.verify(forged, trusting(1, A)).seq


# --- since which keyset seq counts ---


def test_the_first_epoch_is_not_written():
    plain = manifest.encode_payload(Vector("ed25519").content)
    assert plain == manifest.encode_payload(replace(Vector("ed25519").content, epoch=1))
    assert 1 == manifest.read(manifest.sign(plain, [A])).epoch
    later = manifest.encode_payload(replace(Vector("ed25519").content, epoch=300))
    assert 300 == cbor2.loads(later)[22]
    assert (300, 4) == manifest.read(manifest.sign(later, [A])).counter


@pytest.mark.parametrize("value", [0, 1, 1 << 32, b"\x02", None])
def test_an_epoch_that_is_none_is_refused_by_type(value):
    fields = {**cbor2.loads(manifest.encode_payload(Vector("ed25519").content)), 22: value}
    signed = envelope.seal(cbor2.dumps(dict(sorted(fields.items()))), [A])
    assert reason(signed, trusting(1, A)) == RefusedReason.TYPE


# --- what the signer refuses ---


def test_the_same_key_cannot_sign_twice():
    with pytest.raises(InvalidInput, match="the same key signs twice"):
        manifest.sign(PAYLOAD, [A, A])
    with pytest.raises(InvalidInput, match="the same key signs twice"):
        manifest.add_signature(manifest.sign(PAYLOAD, [A]), A)


def test_somebody_must_sign():
    with pytest.raises(InvalidInput, match="at least one key must sign"):
        manifest.sign(PAYLOAD, [])


def test_an_envelope_above_512_bytes_is_not_made():
    content = replace(GOOD.content, installed_size_bytes=5, precursor_sha256=bytes(32), device=bytes(16))
    assert len(manifest.sign(manifest.encode_payload(content), [A])) <= 512
    with pytest.raises(InvalidInput, match="at most 512 are allowed"):
        manifest.sign(manifest.encode_payload(content), [A, B])


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xa0", PAYLOAD[:-1], PAYLOAD + b"\x00"])
def test_what_is_no_manifest_is_not_signed(data):
    with pytest.raises(InvalidInput):
        manifest.sign(data, [A])
    with pytest.raises(InvalidInput):
        manifest.add_signature(data, A)
