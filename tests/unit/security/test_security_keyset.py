"""Keysets: each way in which a step does not follow has its own name; a step is written once and signed by many."""

import json
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput, KeysetReason, KeysetRefused
from ota_bridge.core.manifest import vendor_id
from ota_bridge.security import envelope, keyset, manifest
from ota_bridge.security.keys import Algorithm, SigningKey
from ota_bridge.security.keyset import Keyset

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "keyset" / "steps.json").read_text())
VENDOR = vendor_id("example.com")


def key(number):
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


A, B, C, D, ONLINE, STRANGER = (key(number) for number in range(1, 7))
P = SigningKey(ec.derive_private_key(12345, ec.SECP256R1()))


def made(*authors, version=1, threshold=1, epoch=1, online=(ONLINE,), vendor=VENDOR):
    return Keyset(
        version=version,
        vendor=vendor,
        epoch=epoch,
        threshold=threshold,
        authors=tuple(one.public for one in authors),
        online=tuple(one.public for one in online),
    )


FIRST = made(A, B, C, threshold=2)
SECOND = made(B, C, D, version=2, threshold=2)


def step(content, *signers):
    """A step as any author could make it, whether or not it follows."""
    payload = content if isinstance(content, bytes) else keyset.encode(content)
    return envelope.seal(payload, signers, kind=keyset.KIND)


def raw(content, *signers, **changes):
    """A step whose payload has a field changed (`k5=0`) or taken away (`k5=None`)."""
    fields = cbor2.loads(keyset.encode(content))
    fields |= {int(name[1:]): value for name, value in changes.items()}
    payload = cbor2.dumps({number: value for number, value in sorted(fields.items()) if value is not None})
    return step(payload, *signers)


def refusal(signed, before=FIRST):
    with pytest.raises(KeysetRefused) as caught:
        keyset.follow(before, signed)
    return caught.value.reason


def test_a_step_follows_with_enough_old_and_enough_new_authors():
    assert SECOND.version == 2
    for signers in ([B, C], [A, B, D], [B, C, D], [A, B, C, D], [A, B, D, STRANGER]):
        followed = keyset.follow(FIRST, step(SECOND, *signers))
        assert replace(SECOND, authors=followed.authors) == followed
        assert {one.kid for one in SECOND.authors} == {one.kid for one in followed.authors}


def test_an_author_of_both_counts_on_both_sides_with_one_signature():
    threshold_one = made(A, version=2)
    assert keyset.follow(made(A, B), step(threshold_one, A)).version == 2


@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        (step(SECOND, B), KeysetReason.OLD),
        (step(SECOND, B, D), KeysetReason.OLD),
        (step(SECOND, D), KeysetReason.OLD),
        (step(SECOND, STRANGER), KeysetReason.OLD),
        (step(SECOND, ONLINE), KeysetReason.OLD),
        (step(SECOND, A, B), KeysetReason.NEW),
        (step(SECOND, A, B, STRANGER), KeysetReason.NEW),
        (step(made(D, version=2), A, B), KeysetReason.NEW),
        (step(replace(SECOND, version=1), B, C), KeysetReason.ROLLBACK),
        (step(replace(SECOND, version=3), B, C), KeysetReason.STEP),
        (step(replace(SECOND, version=2**32 - 1), B, C), KeysetReason.STEP),
        (step(replace(SECOND, vendor=vendor_id("other.example")), B, C), KeysetReason.VENDOR),
        (step(b"\xa0", A, B), KeysetReason.FORM),
        (step(b"\xff", A, B), KeysetReason.FORM),
        (b"", KeysetReason.FORM),
        (b"\x80", KeysetReason.FORM),
        (cbor2.dumps([keyset.encode(SECOND), []]), KeysetReason.FORM),
        (bytes(1025), KeysetReason.SIZE),
        (step(SECOND, B, C) + bytes(1024), KeysetReason.SIZE),
    ],
)
def test_each_way_not_to_follow_has_its_name(signed, expected):
    assert refusal(signed) is expected


@pytest.mark.parametrize(
    "changes",
    [
        {"k1": 2},
        {"k1": None},
        {"k2": 0},
        {"k2": 1 << 32},
        {"k3": bytes(15)},
        {"k4": 0},
        {"k4": 3},
        {"k5": 0},
        {"k5": 4},
        {"k6": []},
        {"k6": sorted([B.public.raw, C.public.raw], reverse=True)},
        {"k6": [B.public.raw, B.public.raw]},
        {"k6": [bytes(33)]},
        {"k6": [b"\x04" + bytes(64)]},
        {"k6": sorted([B.public.raw, C.public.raw, ONLINE.public.raw])},
        {"k6": "keys"},
        {"k7": None},
        {"k7": [B.public.raw]},
        {"k8": []},
        {"k8": [D.public.raw]},
    ],
)
def test_what_old_authors_signed_is_a_whole_keyset_or_refused_by_form(changes):
    assert refusal(raw(SECOND, A, B, C, D, **changes)) is KeysetReason.FORM


def test_a_key_that_signs_twice_is_refused_whether_known_or_not():
    for twice, others in ((B, [C]), (STRANGER, [B, C])):
        opened = envelope.open_envelope(step(SECOND, twice, *others), kind=keyset.KIND)
        again = next(one for one in opened.signatures if one.kid == twice.kid)
        listed = [[one.protected, {4: one.kid}, None, one.value] for one in (*opened.signatures, again)]
        assert refusal(cbor2.dumps([opened.payload, listed])) is KeysetReason.TWICE


def test_one_signature_never_counts_for_two():
    alone = step(made(B, C, version=2, threshold=2), B)
    assert refusal(alone, before=made(A, B)) is KeysetReason.NEW


@pytest.mark.parametrize("signer", [A, B, D])
def test_a_known_key_whose_signature_does_not_hold_refuses_the_whole(signer):
    opened = envelope.open_envelope(step(SECOND, A, B, C, D), kind=keyset.KIND)
    listed = [
        [one.protected, {4: one.kid}, None, bytes(64) if one.kid == signer.kid else one.value]
        for one in opened.signatures
    ]
    assert refusal(cbor2.dumps([opened.payload, listed])) is KeysetReason.SIG


def test_a_known_key_that_names_the_other_algorithm_refuses_the_whole():
    opened = envelope.open_envelope(step(SECOND, B, C), kind=keyset.KIND)
    listed = [[bytes.fromhex("a10128"), {4: one.kid}, None, one.value] for one in opened.signatures]
    assert refusal(cbor2.dumps([opened.payload, listed])) is KeysetReason.SIG


def test_every_flipped_bit_is_refused():
    signed = step(SECOND, B, C)
    for bit in range(len(signed) * 8):
        flipped = bytearray(signed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(flipped)) in set(KeysetReason), bit


def test_a_manifests_signature_is_none_over_a_keyset_nor_the_other_way_round():
    payload = keyset.encode(SECOND)
    assert refusal(envelope.seal(payload, [B, C])) is KeysetReason.SIG
    opened = envelope.open_envelope(step(SECOND, B, C), kind=keyset.KIND)
    with pytest.raises(InvalidInput, match="would not be a valid manifest"):
        manifest.sign(payload, [B])
    assert frozenset() == {
        one.kid
        for one in opened.signatures
        if B.public.verify(envelope.signed_bytes(one.protected, payload), one.value)
    }


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
def test_an_epoch_stays_or_begins_with_its_keyset(epoch):
    before = made(A, version=4, epoch=2)
    signed = step(made(A, version=5, epoch=epoch), A)
    if epoch in {2, 5}:
        assert keyset.follow(before, signed).epoch == epoch
    else:
        assert refusal(signed, before) is KeysetReason.EPOCH


def test_the_online_key_is_replaced_by_authors_alone():
    other = key(9)
    replaced = replace(SECOND, online=(other.public,))
    assert keyset.follow(FIRST, step(replaced, B, C)).online == (other.public,)
    assert refusal(step(replaced, ONLINE, other)) is KeysetReason.OLD


def test_keys_of_both_algorithms_stand_in_one_keyset():
    before, after = made(A, P, threshold=2), made(P, version=2)
    assert keyset.follow(before, step(after, A, P)).authors == (P.public,)
    assert {32: Algorithm.ED25519, 65: Algorithm.P256} == {len(one.raw): one.algorithm for one in before.authors}


def test_copies_signed_on_several_machines_are_joined():
    proposal = keyset.proposal(FIRST, SECOND)
    assert 0 == len(envelope.open_envelope(proposal, kind=keyset.KIND, min_signatures=0).signatures)
    copies = [keyset.sign(proposal, one) for one in (B, C, D)]
    assert (
        step(SECOND, B, C, D) == keyset.combine(copies) == keyset.combine([copies[2], copies[0], copies[1], proposal])
    )
    signed = keyset.signed_by(FIRST, keyset.combine(copies))
    assert (frozenset({B.kid, C.kid}), frozenset({B.kid, C.kid, D.kid})) == (signed.old, signed.new)


def test_what_is_not_one_proposal_is_not_joined():
    with pytest.raises(InvalidInput, match="not copies of one proposal"):
        keyset.combine([step(SECOND, B), step(replace(SECOND, threshold=1), C)])
    with pytest.raises(InvalidInput, match="signs twice"):
        keyset.sign(step(SECOND, B), B)
    for function in (keyset.read, keyset.payload_of, lambda data: keyset.combine([data])):
        with pytest.raises(InvalidInput, match="not a keyset"):
            function(b"\x01")


def test_a_proposal_has_room_for_the_signatures_that_it_needs():
    many = [key(number) for number in range(10, 40)]
    keyset.proposal(made(*many[:4], threshold=4), made(*many[4:8], version=2, threshold=4))
    with pytest.raises(InvalidInput, match="needs 10 signatures"):
        keyset.proposal(made(*many[:5], threshold=5), made(*many[5:10], version=2, threshold=5))
    with pytest.raises(InvalidInput, match="change fewer authors at once"):
        keyset.proposal(made(*many[:3], threshold=3), made(*many[3:23], version=2, threshold=4))


def test_a_signature_takes_as_many_bytes_as_is_reckoned_with():
    assert keyset.SIGNED_BYTES == len(step(SECOND, B, C)) - len(step(SECOND, B))


@pytest.mark.parametrize("number", range(len(VECTOR["steps"])))
def test_a_vector_follows_and_is_written_byte_for_byte(number):
    keys = {
        one["name"]: SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(one["private"])))
        for one in VECTOR["keys"]
    }
    before = made(
        *(keys[name] for name in VECTOR["first"]["authors"]),
        threshold=VECTOR["first"]["threshold"],
        online=[keys["online"]],
    )
    for vector in VECTOR["steps"][:number]:
        before = keyset.follow(before, bytes.fromhex(vector["envelope"]))
    vector = VECTOR["steps"][number]
    after = keyset.follow(before, bytes.fromhex(vector["envelope"]))
    assert (vector["version"], vector["epoch"], vector["threshold"]) == (after.version, after.epoch, after.threshold)
    assert sorted(keys[name].kid for name in vector["authors"]) == sorted(one.kid for one in after.authors)
    assert [keys[name].kid for name in vector["online"]] == [one.kid for one in after.online]
    assert bytes.fromhex(vector["payload"]) == keyset.encode(after)
    assert bytes.fromhex(vector["envelope"]) == step(after, *(keys[name] for name in vector["signers"]))
    assert vector["envelope"] == cbor2.dumps(cbor2.loads(bytes.fromhex(vector["envelope"])), canonical=True).hex()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 0}, "1 <= epoch <= version"),
        ({"epoch": 3}, "1 <= epoch <= version"),
        ({"threshold": 0}, "must be 1..3"),
        ({"threshold": 4}, "must be 1..3"),
        ({"online": (B.public,)}, "stands in it twice"),
    ],
)
def test_a_keyset_checks_itself(changes, expected):
    with pytest.raises(InvalidInput, match=expected):
        replace(SECOND, **changes)


def test_at_most_32_keys():
    many = [SigningKey.generate() for _ in range(33)]
    with pytest.raises(InvalidInput, match="33 keys, at most 32"):
        made(*many, online=())


@given(st.binary(max_size=120))
def test_only_a_refusal_leaves_the_reader(data):
    for signed in (data, envelope.seal(data, [A, B], kind=keyset.KIND) if data else b""):
        assert refusal(signed) in set(KeysetReason)
