"""Keysets on the device's side: each refusal has its name, steps are taken one by one, flash holds the old or the new."""

import base64
import json
from pathlib import Path
from random import Random

import cbor2
import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from device_sim_bridge import SLOT_BYTES, VENDOR, Author, Lab, payload_for, sha, trust_document
from hypothesis import given
from hypothesis import strategies as st

from device_sim import rotation
from device_sim.chip import Chip
from device_sim.envelope import Key
from device_sim.errors import FlashPowerCut, KeysetRefusal, KeysetRefused, TrustError
from device_sim.flash import Cut, Flash
from device_sim.journal import Journal
from device_sim.model import DeviceConfig, Fault, Phase, Result
from device_sim.settings import Settings
from device_sim.storage import Storage
from device_sim.trust import follow, kept, load_trust, parse_trust

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "keyset" / "steps.json").read_text())
A, B, C, D, ONLINE, STRANGER = (Author(seed) for seed in range(1, 7))
FIRST = parse_trust(trust_document([A, B, C], [ONLINE], threshold=2))
IMAGE = Random(9).randbytes(20_000)
MAX_STEPS = rotation.MAX_STEPS


def keyset(*authors, version=2, threshold=2, epoch=1, online=(ONLINE,), **changes):
    """The payload of a keyset, with fields changed (`k5=0`) or taken away (`k5=None`)."""
    fields = {
        1: 1,
        2: version,
        3: FIRST.vendor_id,
        4: epoch,
        5: threshold,
        6: sorted(one.raw for one in authors),
        7: sorted(one.raw for one in online),
    }
    fields |= {int(name[1:]): value for name, value in changes.items()}
    return cbor2.dumps({number: value for number, value in sorted(fields.items()) if value is not None})


def step(payload, *signers):
    """A step signed by these; the context keeps it apart from manifests."""
    signatures = []
    for one in signers:
        signed = cbor2.dumps(["Signature1", b"\xa1\x01\x32", b"keyset", payload])
        signatures.append([b"\xa1\x01\x32", {4: one.kid}, None, one.private.sign(signed)])
    return cbor2.dumps([payload, signatures])


SECOND = keyset(B, C, D)


def refusal(signed, present=FIRST):
    with pytest.raises(KeysetRefused) as caught:
        follow(present, signed)
    return caught.value.code


def test_a_step_follows_with_enough_old_and_enough_new_authors():
    for signers in ([B, C], [A, B, D], [B, C, D, A], [STRANGER, B, C]):
        after, payload = follow(FIRST, step(SECOND, *signers))
        assert (2, 2, {B.kid, C.kid, D.kid}, {ONLINE.kid}) == (
            after.version,
            after.threshold,
            set(after.authors),
            set(after.online),
        )
        assert payload == SECOND


@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        (step(SECOND, B), KeysetRefusal.OLD),
        (step(SECOND, B, D), KeysetRefusal.OLD),
        (step(SECOND, D), KeysetRefusal.OLD),
        (step(SECOND, STRANGER), KeysetRefusal.OLD),
        (step(SECOND, ONLINE), KeysetRefusal.OLD),
        (step(SECOND, A, B), KeysetRefusal.NEW),
        (step(SECOND, A, B, STRANGER), KeysetRefusal.NEW),
        (step(keyset(B, C, D, version=1), B, C), KeysetRefusal.ROLLBACK),
        (step(keyset(B, C, D, version=3), B, C), KeysetRefusal.STEP),
        (step(keyset(B, C, D, version=2**32 - 1), B, C), KeysetRefusal.STEP),
        (step(keyset(B, C, D, k3=bytes(16)), B, C), KeysetRefusal.VENDOR),
        (step(keyset(B, C, D, version=2, epoch=2), B, C, D), None),
        (step(b"\xa0", A, B), KeysetRefusal.FORM),
        (step(b"\xff", A, B), KeysetRefusal.FORM),
        (b"", KeysetRefusal.FORM),
        (b"\x80", KeysetRefusal.FORM),
        (step(SECOND), KeysetRefusal.FORM),
        (bytes(1025), KeysetRefusal.SIZE),
        (step(SECOND, B, B, C), KeysetRefusal.TWICE),
        (step(SECOND, STRANGER, STRANGER, B, C), KeysetRefusal.TWICE),
    ],
)
def test_each_way_not_to_follow_has_its_name(signed, expected):
    if expected is None:
        assert follow(FIRST, signed)[0].epoch == 2
    else:
        assert refusal(signed) is expected


@pytest.mark.parametrize(
    "changes",
    [
        {"k1": 2},
        {"k1": None},
        {"k2": 0},
        {"k2": 1 << 32},
        {"k3": "vendor"},
        {"k4": 0},
        {"k4": 3},
        {"k5": 0},
        {"k5": 4},
        {"k6": []},
        {"k6": sorted([B.raw, C.raw], reverse=True)},
        {"k6": [B.raw, B.raw]},
        {"k6": [bytes(33)]},
        {"k6": [b"\x04" + bytes(64)]},
        {"k6": sorted([B.raw, C.raw, ONLINE.raw])},
        {"k6": "keys"},
        {"k7": None},
        {"k7": [B.raw]},
        {"k8": []},
        {"k6": sorted(Author(seed).raw for seed in range(10, 43))},
    ],
)
def test_what_old_authors_signed_is_a_whole_keyset_or_refused_by_form(changes):
    signed = step(keyset(B, C, D, **changes), A, B, C, D)
    assert refusal(signed) is (KeysetRefusal.SIZE if len(signed) > 1024 else KeysetRefusal.FORM)


@pytest.mark.parametrize("signer", [A, B, D])
def test_a_known_key_whose_signature_does_not_hold_refuses_the_whole(signer):
    payload, signatures = cbor2.loads(step(SECOND, A, B, C, D))
    for one in signatures:
        if one[1][4] == signer.kid:
            one[3] = bytes(64)
    assert refusal(cbor2.dumps([payload, signatures])) is KeysetRefusal.SIG


def test_a_signature_over_a_manifest_is_none_over_a_keyset():
    signed = cbor2.dumps([SECOND, [B.signature(SECOND), C.signature(SECOND)]])
    assert refusal(signed) is KeysetRefusal.SIG


def test_every_flipped_bit_is_refused():
    signed = step(SECOND, B, C)
    for bit in range(len(signed) * 8):
        flipped = bytearray(signed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(flipped)) in set(KeysetRefusal), bit


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
def test_an_epoch_stays_or_begins_with_its_keyset(epoch):
    present = parse_trust(trust_document([A]))
    for version, own in ((2, 2), (3, 2), (4, 2)):
        present, _ = follow(present, step(keyset(A, version=version, threshold=1, epoch=own, online=()), A))
    signed = step(keyset(A, version=5, threshold=1, epoch=epoch, online=()), A)
    if epoch in {2, 5}:
        assert follow(present, signed)[0].epoch == epoch
    else:
        assert refusal(signed, present) is KeysetRefusal.EPOCH


def test_a_p256_author_can_come_in():
    raw = (
        derive_private_key(12345, SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    after, _ = follow(FIRST, step(keyset(B, C, k6=sorted([B.raw, C.raw, raw])), B, C))
    assert "p256" == after.authors[sha(raw)[:8]].alg


@pytest.mark.parametrize("number", range(len(VECTOR["steps"])))
def test_the_vectors_follow_one_after_the_other(number):
    raw = {one["name"]: bytes.fromhex(one["public"]) for one in VECTOR["keys"]}
    entries = {
        name: {"kid": sha(key)[:8].hex(), "alg": "ed25519", "public": base64.b64encode(key).decode()}
        for name, key in raw.items()
    }
    first = VECTOR["first"]
    present = parse_trust(
        {
            "format": 1,
            "vendor": VECTOR["vendor"],
            "threshold": first["threshold"],
            "authors": [entries[name] for name in first["authors"]],
            "online": [entries[name] for name in first["online"]],
            "rotations": [
                base64.b64encode(bytes.fromhex(one["envelope"])).decode() for one in VECTOR["steps"][:number]
            ],
        }
    )
    vector = VECTOR["steps"][number]
    after, payload = follow(present, bytes.fromhex(vector["envelope"]))
    assert (vector["version"], vector["epoch"], vector["threshold"]) == (after.version, after.epoch, after.threshold)
    assert {sha(raw[name])[:8] for name in vector["authors"]} == set(after.authors)
    assert {sha(raw[name])[:8] for name in vector["online"]} == set(after.online)
    assert vector["payload"] == payload.hex()


@given(st.binary(max_size=120))
def test_only_a_refusal_leaves_the_reader(data):
    for signed in (data, step(data, A, B)):
        assert refusal(signed) in set(KeysetRefusal)


# --- the trust document, and what flash keeps -------------------------------------------------------------------------


def test_a_document_whose_rotations_do_not_follow_is_none(tmp_path):
    path = tmp_path / "ota-trust.json"
    document = trust_document([A, B, C], [ONLINE], threshold=2)
    for bad in ("x", [3], ["!"], [base64.b64encode(step(SECOND, A)).decode()]):
        path.write_text(json.dumps({**document, "rotations": bad}))
        with pytest.raises(TrustError, match="is not a trust document"):
            load_trust(path)


def test_an_online_key_that_is_an_authors_is_refused():
    with pytest.raises(ValueError, match="cannot be an author's"):
        parse_trust(trust_document([A], [A]))


def test_flash_counts_unless_the_factorys_keyset_is_newer_or_of_another_vendor():
    second, payload = follow(FIRST, step(SECOND, B, C))
    third, later = follow(second, step(keyset(D, version=3, threshold=1), B, C, D))
    assert second == kept(FIRST, payload)
    assert FIRST == kept(FIRST, b"")
    assert third == kept(third, payload)
    assert third == kept(FIRST, later)
    other = parse_trust({**trust_document([A]), "vendor": "other.example"})
    assert other == kept(other, payload)


# --- the device -------------------------------------------------------------------------------------------------------


class Rotating(Lab):
    """A bridge that holds these steps and sends the one after the keyset that a check-in names."""

    steps = ()
    named = False

    def _report(self, payload):
        super()._report(payload)
        report = self.reports[-1]
        if report["type"] == "report_version" and report["keys"] - 1 < len(self.steps):
            self.send_step(report["keys"] + 1, self.steps[report["keys"] - 1])

    def send_step(self, version, signed):
        piece = signed
        if self.named:
            self.serve(sha(signed), signed)
            piece = [sha(signed), len(signed)]
        self.send({"type": "update_keys", "version": version, "keyset": piece})

    @property
    def keys(self):
        return self.device._session.trust.version


@pytest.fixture
def lab(tmp_path):
    made = []

    def make(*steps, named=False, **options):
        kind = type("Lab", (Rotating,), {"steps": steps, "named": named})
        config = DeviceConfig(
            product="p", device="d1", hw="r1", slot_bytes=SLOT_BYTES, block_bytes=options.pop("block_bytes", 1024)
        )
        made.append(kind(tmp_path / f"flash{len(made)}", IMAGE, config=config, **options))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def alone(author, version, *signers, **more):
    return step(keyset(author, version=version, threshold=1, online=(), **more), *signers)


TO_2, TO_3 = alone(B, 2, A, B), alone(C, 3, B, C)


@pytest.mark.parametrize("block_bytes", [64, 1024])
@pytest.mark.parametrize("named", [False, True])
def test_two_missed_keysets_are_taken_one_by_one_before_the_image_of_the_newest_key(lab, named, block_bytes):
    bench = lab(TO_2, TO_3, named=named, block_bytes=block_bytes, offering=False)
    bench.envelope = C.envelope(bench.payload)
    bench.serve(sha(bench.envelope), bench.envelope)
    bench.run(lambda: bench.keys == 3)
    assert [1, 2] == [report["keys"] for report in bench.check_ins()]
    bench.offering = True
    bench.run_settled()
    assert Result.CONFIRMED is bench.device.snapshot().result
    assert {3} == {report["keys"] for report in bench.check_ins()[2:]}


def test_a_keyset_stays_over_restarts_and_power_cycles(lab):
    bench = lab(TO_2, offering=False)
    bench.run(lambda: bench.keys == 2)
    bench.kill()
    bench.power_on()
    assert 2 == bench.keys
    assert {B.kid} == set(bench.device._session.trust.authors)


@pytest.mark.parametrize(
    ("signed", "code"),
    [
        (alone(B, 2, B), KeysetRefusal.OLD),
        (alone(B, 2, A), KeysetRefusal.NEW),
        (alone(B, 2, A, A, B), KeysetRefusal.TWICE),
        (alone(B, 3, A, B), KeysetRefusal.STEP),
        (alone(B, 1, A, B), KeysetRefusal.ROLLBACK),
        (bytes(1025), KeysetRefusal.SIZE),
        (b"\x80", KeysetRefusal.FORM),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_refused_keyset_writes_nothing_and_the_next_check_in_says_why(lab, named, signed, code):
    bench = lab(signed, named=named, offering=False)
    bench.run(lambda: bench.reports)
    before = bench.flash.ops
    bench.run(lambda: len(bench.check_ins()) == 2)
    assert (1, code, before) == (bench.keys, bench.check_ins()[-1]["keys_refused"], bench.flash.ops)
    assert "keys_refused" not in bench.check_ins()[0]
    told = bench.now
    bench.run(lambda: len(bench.check_ins()) == 3)
    assert bench.now - told > 20, "what is refused again and again is not said at once again and again"


def test_a_keyset_that_skips_one_is_not_even_fetched(lab):
    bench = lab(named=True, offering=False)
    bench.run(lambda: bench.reports)
    bench.send_step(3, TO_3)
    bench.run(lambda: len(bench.check_ins()) == 2)
    assert (KeysetRefusal.STEP, []) == (bench.check_ins()[-1]["keys_refused"], bench.requests)


def test_a_repeat_is_dropped(lab):
    bench = lab(TO_2, offering=False)
    bench.run(lambda: bench.keys == 2 and not bench.queue)
    before, dropped = bench.flash.ops, bench.device.stats.dropped
    for version in (1, 2):
        bench.send_step(version, TO_2)
    bench.run(lambda: not bench.queue)
    assert (before, dropped + 2, "") == (
        bench.flash.ops,
        bench.device.stats.dropped,
        bench.device._session.keyset_refused,
    )


def test_a_keyset_that_is_not_what_was_named_is_fetched_again_and_then_refused(lab):
    bench = lab(TO_2, named=True, offering=False)
    bench.mangle = lambda block: [block[0], block[1], bytes(len(block[2]))]
    bench.run(lambda: len(bench.check_ins()) == 2)
    assert KeysetRefusal.FORM == bench.check_ins()[-1]["keys_refused"]
    assert 4 == len(bench.requests)
    bench.mangle = lambda block: block
    bench.run(lambda: bench.keys == 2)


@pytest.mark.parametrize(("code", "again"), [(1, 1), (4, 0), (3, 0)])
def test_refused_blocks_of_a_keyset_are_obeyed(lab, code, again):
    bench = lab(TO_2, named=True, offering=False)
    refusals = [(code, 1, 100, 1)]
    bench.refuse = lambda request: refusals.pop() if refusals else None
    bench.run(lambda: bench.keys == 2)
    assert again == len(bench.check_ins()) - 1
    if code == 3:
        assert {100} == {size for _, _, size, _ in bench.requests[1:-1]}


def test_no_keyset_is_taken_while_an_image_is_installed_or_on_trial(lab):
    bench = lab()
    notice = msgpack.packb({"type": "update_keys", "version": 2, "keyset": TO_2})
    for phase in (Phase.INSTALLING, Phase.TRIAL):
        bench.run(lambda phase=phase: bench.device.snapshot().phase is phase)
        bench._do(bench.device.update(notice, bench.now))
        assert 1 == bench.keys
    bench.run_settled()
    assert Result.CONFIRMED is bench.device.snapshot().result


def test_a_keyset_that_is_only_named_is_not_fetched_while_an_image_is_on_trial(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().phase is Phase.TRIAL)
    asked = len(bench.requests)
    bench._do(
        bench.device.update(msgpack.packb({"type": "update_keys", "version": 2, "keyset": [sha(TO_2), 235]}), bench.now)
    )
    bench.run_settled()
    assert asked == len(bench.requests)


def test_a_download_is_not_gone_on_with_when_the_factory_put_in_a_newer_keyset(lab):
    bench = lab(apply="on_command")
    bench.run(lambda: bench.device.snapshot().phase is Phase.DOWNLOADED)
    bench.kill()
    bench.trust, bench.offering = follow(bench.trust, alone(A, 2, A, epoch=2))[0], False
    bench.power_on()
    bench.run(lambda: bench.storage.settings.download is None)
    assert 2 == bench.keys


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.DOWNLOADED])
def test_a_download_that_the_new_keyset_would_not_take_ends(lab, phase):
    bench = lab(apply="on_command")
    bench.run(lambda: bench.device.snapshot().phase is phase)
    bench.offering = False
    bench.send_step(2, TO_2)
    bench.run(lambda: bench.keys == 2)
    assert (None, Phase.IDLE) == (bench.storage.settings.download, bench.device.snapshot().phase)
    bench.run(lambda: len(bench.check_ins()) == 2)
    assert [] == bench.check_ins()[-1]["have"]


def test_a_download_that_the_new_keyset_takes_goes_on(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().phase is Phase.DOWNLOADING)
    bench.send_step(2, step(keyset(A, B, threshold=1, online=()), A))
    bench.run_settled()
    assert (2, Result.CONFIRMED) == (bench.keys, bench.device.snapshot().result)
    assert len(IMAGE) + 5 * 32 == bench.payload_bytes


def test_what_runs_goes_on_running_when_its_author_is_revoked(lab):
    bench = lab()
    bench.run_settled()
    bench.send_step(2, TO_2)
    bench.run(lambda: bench.keys == 2)
    bench.kill()
    bench.power_on()
    assert "1.1.0" == bench.device.snapshot().version
    assert sha(IMAGE) == bench.slot_digest()


def test_an_image_of_a_revoked_author_is_refused(lab):
    bench = lab(TO_2, offering=False)
    bench.run(lambda: bench.keys == 2 and bench.check_ins()[-1]["keys"] == 2)
    erases = bench.storage.image_erases
    bench.offer(bench.check_ins()[-1])
    bench.run(lambda: "fail" in bench.states())
    assert ("REFUSED_SIG", erases) == (
        bench.reports[-1]["report"]["progress"]["result_code"],
        bench.storage.image_erases,
    )


def test_a_factory_reset_does_not_bring_revoked_keys_back(lab):
    bench = lab(step(keyset(A, B, threshold=1, online=()), A), fault=Fault.parse("factory_reset"))
    bench.run_settled()
    assert 2 == bench.keys
    assert {2} == {report["keys"] for report in bench.check_ins() if report["boot"] > 1}


def test_at_most_256_steps_in_one_boot(lab, monkeypatch):
    monkeypatch.setattr(rotation, "MAX_STEPS", 3)
    bench = lab(*(alone(A, version, A) for version in range(2, 8)), offering=False)
    bench.run(lambda: len(bench.check_ins()) == 6)
    assert 4 == bench.keys
    bench.kill()
    bench.power_on()
    bench.run(lambda: bench.keys == 7)
    assert 256 == MAX_STEPS


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_after_a_new_epoch_seqs_count_anew_and_older_manifests_are_void(lab):
    bench = lab(payload=payload_for(IMAGE, seq=2**32 - 1))
    bench.run_settled()
    assert {"firmware": 2**32 - 1} == bench.storage.settings.seqs
    bench.send_step(2, alone(A, 2, A, epoch=2))
    bench.run(lambda: bench.keys == 2)
    bench.run(lambda: bench.check_ins()[-1]["keys"] == 2)
    assert ["1.1.0", 0, sha(IMAGE)[:8], 0] == bench.check_ins()[-1]["parts"]["firmware"]
    other = IMAGE[:9000]
    for number, (changes, code) in enumerate(
        [
            ({"seq": 7}, "REFUSED_ROLLBACK"),
            ({"seq": 7, "k22": 3}, "REFUSED_DEP"),
            ({"seq": 0, "k22": 2}, "REFUSED_ROLLBACK"),
        ]
    ):
        bench.offer(bench.check_ins()[-1], manifests=[A.envelope(payload_for(other, **changes))], id=f"bad{number}")
        bench.run(lambda number=number: len([one for one in bench.states() if one == "fail"]) == number + 1)
        assert (
            code
            == [one for one in bench.reports if one["type"] == "report_progress"][-1]["report"]["progress"][
                "result_code"
            ]
        )
    bench.kill()
    bench.power_on()
    assert "1.1.0" == bench.device.snapshot().version
    bench.image, bench.digest, bench.payload = other, sha(other), payload_for(other, seq=1, version="1.2.0", k22=2)
    bench.envelope, bench.deployment = A.envelope(bench.payload), "0123456789ac"
    bench.serve(sha(other), other)
    bench.serve(bench.payload[11], b"".join(sha(b"\x00" + other[at : at + 4096]) for at in range(0, 9000, 4096)))
    bench.run(lambda: bench.storage.settings.version == "1.2.0", limit_s=2000)
    assert {"firmware": 1} == bench.storage.settings.seqs


def test_an_epoch_that_the_factory_put_in_sets_the_seqs_back_once(lab):
    bench = lab(payload=payload_for(IMAGE, seq=9))
    bench.run_settled()
    assert {"firmware": 9} == bench.storage.settings.seqs
    bench.trust, bench.offering = follow(bench.trust, alone(A, 2, A, epoch=2))[0], False
    bench.kill()
    bench.power_on()
    assert ("1.1.0", {}, 2) == (
        bench.device.snapshot().version,
        bench.storage.settings.seqs,
        bench.storage.settings.epoch,
    )
    bench.storage.save(seqs={"firmware": 1})
    bench.kill()
    bench.power_on()
    assert {"firmware": 1} == bench.storage.settings.seqs


def test_a_factory_reset_keeps_the_epoch_with_its_keyset(lab):
    bench = lab(alone(A, 2, A, epoch=2), fault=Fault.parse("factory_reset"))
    bench.run(lambda: bench.keys == 2)
    bench.device._factory_reset()
    assert 2 == bench.storage.settings.epoch


def test_a_download_of_the_epoch_before_is_not_gone_on_with(lab):
    bench = lab(apply="on_command")
    bench.run(lambda: bench.device.snapshot().phase is Phase.DOWNLOADED)
    bench.offering = False
    bench.send_step(2, alone(A, 2, A, epoch=2))
    bench.run(lambda: bench.keys == 2)
    assert bench.storage.settings.download is None


# --- power ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", Cut)
@pytest.mark.parametrize("erased", [0xFF, 0x00])
def test_a_power_cut_at_any_operation_of_a_keyset_leaves_the_old_or_the_new_one(erased, how):
    old, payload = Settings(version="1.0.0", boot=3, seqs={"firmware": 9}), follow(FIRST, step(SECOND, B, C))[1]
    new = Settings(version="1.0.0", boot=3, keyset=payload)
    seen = []
    for filler in range(0, 3600, 150):  # so that some records begin another sector
        for cut in range(1, 6):
            chip = Flash(None, Chip(runs=((2, 4096),), page_bytes=256, erased_value=erased))
            journal = Journal(chip, 0)
            journal.write(bytes(filler))
            journal.write(old.pack())
            chip.cut_power_at(cut, how, Random(filler + cut))
            try:
                journal.write(new.pack())
            except FlashPowerCut:
                seen.append("cut")
            chip.power_on()
            found = Settings.unpack(Journal(chip, 0).body)
            assert found in (old, new)
            seen.append("new" if found == new else "old")
            chip.close()
    assert {"cut", "new", "old"} == set(seen)


@pytest.mark.parametrize("how", Cut)
def test_a_device_that_loses_power_while_it_takes_a_keyset_takes_it_after_the_restart(lab, how):
    cuts = 0
    for cut in (1, 2, 3):
        bench = lab(TO_2, offering=False)
        bench.run(lambda bench=bench: bench.reports)
        bench.flash.cut_power_at(cut, how, Random(cut))
        try:
            bench.run(lambda bench=bench: bench.keys == 2 and not bench.queue, limit_s=5)
        except FlashPowerCut:
            cuts += 1
        bench.kill()
        bench.power_on()
        assert bench.keys in {1, 2}
        bench.run(lambda bench=bench: bench.keys == 2)
    assert cuts >= 1


def test_a_new_epoch_its_seqs_and_the_end_of_a_download_are_one_write(lab, monkeypatch):
    bench = lab(apply="on_command")
    bench.run(lambda: bench.device.snapshot().phase is Phase.DOWNLOADED)
    bench.offering, writes, save = False, [], Storage.save

    def counted(storage, **changes):
        writes.append(set(changes))
        save(storage, **changes)

    monkeypatch.setattr(Storage, "save", counted)
    bench.send_step(2, alone(B, 2, A, B, epoch=2))
    bench.run(lambda: bench.keys == 2)
    assert [{"keyset", "epoch", "seqs", "download"}] == writes
    assert ({}, 2) == (bench.storage.settings.seqs, kept(bench.trust, bench.storage.settings.keyset).epoch)


def test_keys_are_equal_when_they_are_the_same_key():
    assert Key.of("ed25519", A.raw) == Key.of("ed25519", A.raw) != Key.of("ed25519", B.raw)
    with pytest.raises(ValueError, match="no key of 'ed25519' has 65 bytes"):
        Key.of("ed25519", bytes(65))
    assert VENDOR == FIRST.vendor
