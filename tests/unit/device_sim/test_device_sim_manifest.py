import base64
import json
import uuid

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from device_sim_bridge import Author, leaves_of, merkle, payload_for, sha, trust_document
from hypothesis import given
from hypothesis import strategies as st

from device_sim import cbor
from device_sim.errors import Malformed, ManifestRefused, Refusal, TrustError
from device_sim.manifest import Identity, Installed, check_ticket, judge, judge_needs, read_manifest
from device_sim.merkle import leaf_hash, root_of
from device_sim.trust import load_trust, parse_trust

AUTHOR, ONLINE, STRANGER = Author(1), Author(2), Author(3)
TRUST = parse_trust(trust_document([AUTHOR], [ONLINE]))
IDENTITY = Identity.of(TRUST, product="p", device="d1", hw="r1", component="firmware")
IMAGE = bytes(range(256)) * 40
FRESH = Installed(digest=b"", slot_bytes=1 << 20)
NONCE = b"n" * 16


def verdict(envelope, installed=FRESH):
    """The name by which a device refuses, or '' when it would download."""
    try:
        manifest = read_manifest(TRUST, envelope)
        if judge(manifest, IDENTITY, installed):
            return "installed"
        judge_needs(manifest, installed)
    except ManifestRefused as refused:
        return refused.code
    return ""


def signed(**changes):
    return AUTHOR.envelope(payload_for(IMAGE, **changes))


def test_a_good_manifest_is_accepted():
    manifest = read_manifest(TRUST, signed())
    assert ("1.1.0", 2, len(IMAGE), 4096) == (
        manifest.version,
        manifest.seq,
        manifest.size_bytes,
        manifest.chunk_bytes,
    )
    assert verdict(signed()) == ""


def test_every_flipped_bit_of_an_envelope_is_refused():
    envelope = signed()
    for bit in range(len(envelope) * 8):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        assert verdict(bytes(flipped)) == Refusal.SIG, bit


def test_every_prefix_of_an_envelope_and_bytes_behind_it_are_refused():
    envelope = signed()
    for length in range(len(envelope)):
        assert verdict(envelope[:length]) == Refusal.SIG
    assert verdict(envelope + b"\x00") == Refusal.SIG


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"k1": 2}, Refusal.TYPE),
        ({"k19": 1}, Refusal.TYPE),
        ({"k24": b""}, Refusal.TYPE),
        ({"k11": None}, Refusal.TYPE),
        ({"k9": b"short"}, Refusal.TYPE),
        ({"k10": 7}, Refusal.TYPE),
        ({"k10": 17}, Refusal.TYPE),
        ({"k2": 1 << 32}, Refusal.TYPE),
        ({"k8": 1 << 64}, Refusal.TYPE),
        ({"k5": ""}, Refusal.TYPE),
        ({"k5": "v" * 33}, Refusal.TYPE),
        ({"k7": 2}, Refusal.TYPE),
        ({"k7": 3}, Refusal.TYPE),
        ({"k7": 99}, Refusal.TYPE),
        ({"k6": "radio"}, Refusal.TYPE),
        ({"k3": b"v" * 16}, Refusal.CLASS),
        ({"hw": "r2"}, Refusal.CLASS),
        ({"product": "q"}, Refusal.CLASS),
        ({"k18": b"d" * 16}, Refusal.CLASS),
        ({"seq": 0}, Refusal.ROLLBACK),
        ({"k12": 1}, Refusal.DEP),
        ({"k20": [["radio", 3]]}, Refusal.DEP),
        ({"k8": 0}, Refusal.SIZE),
        ({"k8": (1 << 20) + 1}, Refusal.SIZE),
        ({"k8": 1 << 31}, Refusal.SIZE),
        ({"k8": 1 << 32}, Refusal.SIZE),
        ({"k15": 1 << 40}, Refusal.SIZE),
        ({"k17": b"o" * 32}, Refusal.PRECURSOR),
        ({"k23": b"m" * 32}, ""),
        ({"k18": sha(b"p/d1")[:16]}, ""),
        ({"k20": []}, ""),
    ],
)
def test_each_fault_of_a_signed_manifest_has_its_name(changes, code):
    assert verdict(signed(**changes)) == code


def test_several_classes_are_sorted_and_hold_ours():
    ours = payload_for(IMAGE)[4]
    others = [uuid.uuid5(uuid.NAMESPACE_DNS, name).bytes for name in ("a", "b")]
    assert verdict(signed(k4=sorted([ours, *others]))) == ""
    assert verdict(signed(k4=sorted(others))) == Refusal.CLASS
    assert verdict(signed(k4=sorted([ours, *others], reverse=True))) == Refusal.TYPE
    assert verdict(signed(k4=[ours, ours])) == Refusal.TYPE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xa0",
        b"\x01",
        cbor2.dumps(payload_for(IMAGE)) + b"\x00",
        cbor2.dumps(cbor2.CBORTag(2, b"x")),
        b"\xbf" + cbor2.dumps(payload_for(IMAGE))[1:] + b"\xff",
        cbor2.dumps({**payload_for(IMAGE), 12: 1.5}),
        cbor2.dumps(dict(reversed(payload_for(IMAGE).items()))),
    ],
)
def test_a_signed_payload_that_is_not_deterministic_cbor_is_refused_by_type(payload):
    assert verdict(AUTHOR.envelope(payload)) == Refusal.TYPE


def test_an_envelope_above_512_bytes_is_refused_by_size():
    assert verdict(signed(k20=[["firmware", 0]] * 40)) == Refusal.SIZE


def test_nothing_that_a_stranger_signed_is_parsed():
    assert verdict(STRANGER.envelope(b"\xff")) == Refusal.SIG
    assert verdict(STRANGER.envelope(payload_for(IMAGE))) == Refusal.SIG


def test_anti_rollback_compares_with_the_stored_seq():
    installed = Installed(digest=sha(IMAGE), seqs={"firmware": 5}, slot_bytes=1 << 20)
    assert verdict(signed(seq=4), installed) == Refusal.ROLLBACK
    assert verdict(signed(seq=5), installed) == "installed"
    assert verdict(signed(seq=5, k9=b"x" * 32), installed) == Refusal.ROLLBACK
    assert verdict(signed(seq=6), installed) == ""
    assert (
        verdict(signed(seq=6, k14=1), Installed(digest=b"", slot_bytes=1 << 20, security_counter=2)) == Refusal.ROLLBACK
    )


def test_a_manifest_without_a_security_counter_is_below_any_that_is_installed():
    installed = Installed(digest=b"", seqs={"firmware": 5}, slot_bytes=1 << 20, security_counter=2)
    assert verdict(signed(seq=6), installed) == Refusal.ROLLBACK
    assert verdict(signed(seq=6, k14=2), installed) == ""


def test_the_threshold_counts_different_keys_once():
    trust = parse_trust(trust_document([AUTHOR, ONLINE], threshold=2))
    payload = cbor2.dumps(payload_for(IMAGE))
    one, two, other = (key.signature(payload) for key in (AUTHOR, ONLINE, STRANGER))
    read_manifest(trust, cbor2.dumps([payload, [one, two]]))
    read_manifest(trust, cbor2.dumps([payload, [other, one, two]]))
    read_manifest(trust, cbor2.dumps([payload, [one, one, two]]))
    for signatures in ([one], [one, one], [one, other], [two, [*one[:3], b"x" * 64]]):
        with pytest.raises(ManifestRefused, match="REFUSED_SIG"):
            read_manifest(trust, cbor2.dumps([payload, signatures]))


def test_a_p256_author_is_believed():
    private = derive_private_key(12345, SECP256R1())
    raw = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    entry = {"kid": sha(raw)[:8].hex(), "alg": "p256", "public": base64.b64encode(raw).decode()}
    trust = parse_trust({"format": 1, "vendor": "example.com", "threshold": 1, "authors": [entry], "online": []})
    payload = cbor2.dumps(payload_for(IMAGE))
    protected = b"\xa1\x01\x28"
    r, s = decode_dss_signature(private.sign(cbor2.dumps(["Signature1", protected, b"", payload]), ECDSA(SHA256())))
    raw_signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    envelope = cbor2.dumps([payload, [[protected, {4: sha(raw)[:8]}, None, raw_signature]]])
    assert read_manifest(trust, envelope).version == "1.1.0"
    with pytest.raises(ManifestRefused):
        read_manifest(trust, envelope[:-1] + bytes([envelope[-1] ^ 1]))


def ticket(key=ONLINE, **changes):
    fields = {1: sha(b"p/d1")[:16], 2: NONCE, 3: sha(signed()), 4: 1000, 5: 60, 6: 0}
    fields.update({int(name[1:]): value for name, value in changes.items()})
    return key.envelope(fields)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"",
        b"\xff" * 300,
        ticket(key=AUTHOR),
        ticket(k1=sha(b"p/d2")[:16]),
        ticket(k2=b"o" * 16),
        ticket(k3=b"x" * 32),
        ticket(k4="now"),
        ONLINE.envelope(b"\x80"),
    ],
)
def test_a_ticket_that_does_not_hold_is_stale(bad):
    manifest = read_manifest(TRUST, signed())
    check_ticket(TRUST, manifest, ticket(), identity=IDENTITY, nonce=NONCE)
    with pytest.raises(ManifestRefused, match="REFUSED_STALE"):
        check_ticket(TRUST, manifest, bad, identity=IDENTITY, nonce=NONCE)


def test_an_expired_manifest_is_stale_by_the_tickets_time():
    envelope = signed(k13=999)
    with pytest.raises(ManifestRefused, match="expired"):
        check_ticket(TRUST, read_manifest(TRUST, envelope), ticket(k3=sha(envelope)), identity=IDENTITY, nonce=NONCE)


def test_without_an_online_key_no_ticket_is_needed():
    trust = parse_trust(trust_document([AUTHOR]))
    check_ticket(trust, read_manifest(trust, signed()), None, identity=IDENTITY, nonce=NONCE)


def test_a_missing_trust_document_says_who_makes_it(tmp_path):
    with pytest.raises(TrustError, match="ota-bridge keys new"):
        load_trust(tmp_path / "ota-trust.json")


def test_a_trust_document_may_say_that_there_is_no_online_key():
    assert {} == parse_trust({**trust_document([AUTHOR]), "online": None}).online


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"vendor": ""},
        {"threshold": 2},
        {"threshold": True},
        {"authors": []},
        {"authors": "x"},
        {"authors": [{"kid": "00" * 8, "alg": "ed25519", "public": AUTHOR.entry()["public"]}]},
        {"authors": [{**AUTHOR.entry(), "alg": "rsa"}]},
        {"authors": [{**AUTHOR.entry(), "public": "!"}]},
        {"online": [3]},
    ],
)
def test_a_bad_trust_document_is_one_sentence(tmp_path, change):
    path = tmp_path / "trust.json"
    path.write_text(json.dumps({**trust_document([AUTHOR]), **change}))
    with pytest.raises(TrustError, match="is not a trust document"):
        load_trust(path)
    path.write_bytes(b"\xff")
    with pytest.raises(TrustError, match="is not a trust document"):
        load_trust(path)


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 5, 7, 8, 9, 13, 64, 100])
def test_the_root_is_the_one_of_the_recursive_definition(chunks):
    image = bytes(range(256)) * chunks
    leaves = leaves_of(image, 256)
    assert leaves[0] == leaf_hash(image[:256])
    assert merkle(leaves) == root_of(b"".join(leaves))


def test_a_list_that_is_no_row_of_hashes_has_no_root():
    for bad in (b"", b"x" * 33):
        with pytest.raises(ValueError, match="chunk list"):
            root_of(bad)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


allowed = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=30) | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 70000), inner, max_size=4),
    max_leaves=8,
).filter(lambda value: depth(value) <= 4)


@given(allowed)
def test_the_reader_agrees_with_a_general_one_on_the_subset(value):
    data = cbor2.dumps(value, canonical=True)
    assert value == cbor.loads(data)


@given(st.binary(max_size=60))
def test_only_malformed_leaves_the_reader_and_what_it_reads_has_one_form(data):
    try:
        value = cbor.loads(data)
    except Malformed:
        return
    assert data == cbor2.dumps(value)


@given(st.binary(max_size=200))
def test_only_a_refusal_leaves_the_manifest_reader(data):
    for envelope in (data, AUTHOR.envelope(data)):
        assert verdict(envelope) in set(Refusal)
