"""Who holds the bridge with its online key, the broker, or fewer authors' keys than needed, against a simulated device.

Each attack of the threat model on the device's verification (T1 to T23, as docs/security.md names them) is refused with
its own code before anything is erased or asked for; what is attacked later never becomes bootable.
"""

import uuid
from dataclasses import dataclass
from random import Random

import cbor2
import pytest
from unit.device_sim.device_sim_bridge import (
    SLOT_BYTES,
    Author,
    Lab,
    leaves_of,
    merkle,
    payload_for,
    sha,
    trust_document,
)

from device_sim.model import DeviceConfig, Phase, Result
from device_sim.trust import parse_trust

IMAGE = Random(66).randbytes(30_000)
EVIL = Random(67).randbytes(30_000)
AUTHOR, ONLINE, STRANGER, SECOND, THIRD = (Author(seed) for seed in (1, 2, 3, 4, 5))
CHUNK = 4096
DAY_S = 86_400


@pytest.fixture
def lab(tmp_path):
    made = []

    def make(*, authors=(AUTHOR,), threshold=1, device="d1", **options):
        config = DeviceConfig(
            product="p",
            device=device,
            hw="r1",
            slot_bytes=SLOT_BYTES,
            level=options.pop("level", "L1"),
            block_bytes=options.pop("block_bytes", 1024),
            check_in_every_s=options.pop("check_in_every_s", 30.0),
            stale_after_s=options.pop("stale_after_s", 30.0 * DAY_S),
        )
        options = {"offering": False, "online_key": ONLINE, **options}
        bench = Lab(tmp_path / f"flash{len(made)}", IMAGE, config=config, **options)
        made.append(bench)
        if threshold > 1:
            bench.trust = parse_trust(trust_document(authors, [ONLINE], threshold=threshold))
            bench.kill()
            bench.power_on()
        return bench

    yield make
    for one in made:
        one.kill()


def outcome(bench):
    """The code that the device answered with, and what it cost: image erases, block requests, reboots."""
    progress = [one for one in bench.reports if one["type"] == "report_progress"]
    code = progress[-1]["report"]["progress"]["result_code"] if progress else ""
    return code, bench.storage.image_erases, len(bench.requests), bench.reboots


def strike(bench, **changes):
    """Offer `bench.envelope`, with a ticket that fits unless the attack says otherwise; run until it is answered."""
    bench.run(lambda: bench.check_ins())
    bench.offer(bench.check_ins()[-1], **changes)
    told = len(bench.states())
    bench.run(lambda: len(bench.states()) > told or not bench.queue)


def evil(**changes):
    """A manifest of the attacker's image; fields as in `payload_for`."""
    return payload_for(EVIL, **{"seq": 9, "version": "6.6.6", **changes})


def sealed(payload, *keys):
    """As an envelope, whoever the keys belong to."""
    data = payload if isinstance(payload, bytes) else cbor2.dumps(payload, canonical=True)
    return cbor2.dumps([data, [key.signature(data) for key in keys]])


def flipped(envelope, at):
    changed = bytearray(envelope)
    changed[at] ^= 1
    return bytes(changed)


GOOD = sealed(payload_for(IMAGE), AUTHOR)
OTHER_VENDOR = uuid.uuid5(uuid.NAMESPACE_DNS, "evil.example").bytes


@dataclass(frozen=True)
class Attack:
    name: str
    envelope: bytes
    code: str


ATTACKS = [
    Attack("T1 unsigned", sealed(evil()), "REFUSED_SIG"),
    Attack("T1 signed by nobody known", sealed(evil(), STRANGER), "REFUSED_SIG"),
    Attack("T1 signed by the bridge's own key", sealed(evil(), ONLINE), "REFUSED_SIG"),
    Attack("T1 not an envelope", b"\x80", "REFUSED_SIG"),
    Attack("T1 the payload alone", cbor2.dumps(evil()), "REFUSED_SIG"),
    Attack(
        "T1 a good signature over another manifest",
        cbor2.dumps([cbor2.dumps(evil(), canonical=True), cbor2.loads(GOOD)[1]]),
        "REFUSED_SIG",
    ),
    *(Attack(f"T1 bit flipped at {at}", flipped(GOOD, at), "REFUSED_SIG") for at in range(0, len(GOOD), 9)),
    Attack("T2 the seq of the factory", sealed(evil(seq=0), AUTHOR), "REFUSED_ROLLBACK"),
    Attack("T6 without the radio it needs", sealed(evil(k20=[["radio", 3]]), AUTHOR), "REFUSED_DEP"),
    Attack("T6 from a later seq than ours", sealed(evil(k12=8), AUTHOR), "REFUSED_DEP"),
    Attack("T7 for other hardware", sealed(evil(hw="r2"), AUTHOR), "REFUSED_CLASS"),
    Attack("T7 for another product", sealed(evil(product="q"), AUTHOR), "REFUSED_CLASS"),
    Attack("T7 of another vendor", sealed(evil(k3=OTHER_VENDOR), AUTHOR), "REFUSED_CLASS"),
    Attack("T7 for one other device", sealed(evil(k18=sha(b"p/d2")[:16]), AUTHOR), "REFUSED_CLASS"),
    Attack("T8 a manifest of 513 bytes", sealed(evil(k20=[["radio", 1]] * 40), AUTHOR), "REFUSED_SIZE"),
    Attack("T8 a manifest of 60 KB", bytes(60_000), "REFUSED_SIZE"),
    Attack("T8 larger than the slot", sealed(evil(k8=SLOT_BYTES + 1), AUTHOR), "REFUSED_SIZE"),
    Attack("T8 nothing", sealed(evil(k8=0), AUTHOR), "REFUSED_SIZE"),
    *(
        Attack(f"T17 {size} bytes", sealed(evil(k8=size), AUTHOR), "REFUSED_SIZE")
        for size in (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
    ),
    Attack("T17 installed size of 2^32", sealed(evil(k15=2**32), AUTHOR), "REFUSED_SIZE"),
    Attack("T10 dependencies taken out", flipped(sealed(evil(k20=[["radio", 3]]), AUTHOR), 20), "REFUSED_SIG"),
    Attack("T11 a configuration as firmware", sealed(evil(k7=3), AUTHOR), "REFUSED_TYPE"),
    Attack("T11 a delta as an image", sealed(evil(k7=2), AUTHOR), "REFUSED_TYPE"),
    Attack("T11 for another component", sealed(evil(k6="radio"), AUTHOR), "REFUSED_TYPE"),
    Attack("T11 a keyset as a manifest", sealed(b"\xa1\x01\x01", AUTHOR), "REFUSED_TYPE"),
    Attack("T12 the highest seq, signed by the bridge", sealed(evil(seq=2**32 - 1), ONLINE), "REFUSED_SIG"),
    Attack("T12 of an epoch to come", sealed(evil(k22=2), AUTHOR), "REFUSED_DEP"),
    Attack("T23 a precursor that is not installed", sealed(evil(k17=sha(b"another")), AUTHOR), "REFUSED_PRECURSOR"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_each_attack_by_offer_is_refused_with_its_code_and_nothing_is_touched(lab, attack):
    bench = lab(envelope=attack.envelope)
    strike(bench)
    assert (attack.code, 0, 0, 0) == outcome(bench)
    assert "1.0.0" == bench.device.snapshot().version


def test_the_same_offer_without_an_attack_is_taken(lab):
    bench = lab(envelope=GOOD)
    bench.offering = True
    bench.run_settled()
    assert Result.CONFIRMED is bench.device.snapshot().result


@pytest.mark.parametrize("name", ["T8 a manifest of 60 KB", "T8 a manifest of 513 bytes"])
def test_t8_a_large_manifest_is_not_even_fetched(lab, name):
    attack = next(one for one in ATTACKS if one.name == name)
    bench = lab(envelope=attack.envelope, short_form=True)
    strike(bench)
    assert ("REFUSED_SIZE", 0, 0, 0) == outcome(bench)


# --- T2, T3, T5: old things ---------------------------------------------------------------------------------------------


def updated(lab, seq=5):
    bench = lab(payload=payload_for(IMAGE, seq=seq, version="1.5.0"))
    bench.offering = True
    bench.run_settled()
    bench.offering = False
    bench.run(lambda: not bench.queue)
    bench.deployment = "replayed"
    return bench


@pytest.mark.parametrize("seq", [1, 4, 5])
def test_t2_an_older_manifest_is_refused_after_a_newer_one_was_confirmed(lab, seq):
    bench = updated(lab)
    erases, requests = bench.storage.image_erases, len(bench.requests)
    bench.envelope = sealed(evil(seq=seq), AUTHOR)
    strike(bench)
    assert ("REFUSED_ROLLBACK", erases, requests) == outcome(bench)[:3]


def test_t2_a_lower_security_counter_is_refused_at_a_higher_seq(lab):
    bench = lab(payload=payload_for(IMAGE, seq=5, version="1.5.0", k14=3))
    bench.offering = True
    bench.run_settled()
    bench.offering, erases = False, bench.storage.image_erases
    bench.envelope, bench.deployment = sealed(evil(seq=6, k14=2), AUTHOR), "lower"
    strike(bench)
    assert ("REFUSED_ROLLBACK", erases) == outcome(bench)[:2]


def test_t2_an_operators_return_to_an_old_image_is_taken_when_it_is_signed_anew(lab):
    bench = updated(lab)
    old = IMAGE[:9000]
    bench.image, bench.digest, bench.payload = old, sha(old), payload_for(old, seq=6, version="1.4.0")
    bench.envelope = sealed(bench.payload, AUTHOR)
    bench.serve(sha(old), old)
    bench.serve(merkle(leaves_of(old, CHUNK)), b"".join(leaves_of(old, CHUNK)))
    bench.offering = True
    bench.run(lambda: bench.storage.settings.version == "1.4.0", limit_s=1000)


@pytest.mark.parametrize(
    "ticket",
    [
        lambda bench, nonce: None,
        lambda bench, nonce: b"",
        lambda bench, nonce: bytes(300),
        lambda bench, nonce: bench.ticket(bytes(16)),
        lambda bench, nonce: bench.ticket(nonce, device=b"p/d2"),
        lambda bench, nonce: bench.ticket(nonce, digest=sha(b"another manifest")),
        lambda bench, nonce: STRANGER.envelope(cbor2.loads(cbor2.loads(bench.ticket(nonce))[0])),
        lambda bench, nonce: AUTHOR.envelope(cbor2.loads(cbor2.loads(bench.ticket(nonce))[0])),
        lambda bench, nonce: flipped(bench.ticket(nonce), 40),
    ],
    ids=["none", "empty", "too long", "old nonce", "other device", "other manifest", "stranger", "author", "flipped"],
)
def test_t3_newer_than_installed_but_not_vouched_for_now_is_stale(lab, ticket):
    bench = lab(envelope=GOOD)
    bench.run(lambda: bench.check_ins())
    strike(bench, ticket=ticket(bench, bench.check_ins()[-1]["nonce"]))
    assert ("REFUSED_STALE", 0, 0, 0) == outcome(bench)
    assert "defer" == bench.states()[-1]


def test_t3_a_manifest_that_has_expired_by_the_tickets_time_is_stale(lab):
    bench = lab(envelope=sealed(evil(k13=999), AUTHOR))
    strike(bench)
    assert ("REFUSED_STALE", 0, 0, 0) == outcome(bench)


class Recorded(Lab):
    """Keeps everything that was sent to the device."""

    def _push(self, kind, payload, after_s):
        self.__dict__.setdefault("sent", []).append((kind, payload))
        super()._push(kind, payload, after_s)


@pytest.mark.parametrize("device", ["d1", "d2"])
def test_t5_all_traffic_of_an_update_replayed_to_it_or_to_another_moves_nothing(tmp_path, lab, device):
    recorded = Recorded(tmp_path / "recorded", IMAGE, online_key=ONLINE)
    recorded.run_settled()
    recorded.kill()
    victim = lab(device=device, seed=77, acking=False)
    victim.run(lambda: not victim.queue)
    for kind, payload in recorded.sent:
        event = victim.device.update if kind == "update" else victim.device.block
        victim._do(event(payload, victim.now))
    assert (0, 0, 0) == outcome(victim)[1:]
    assert Phase.IDLE is victim.device.snapshot().phase


@pytest.mark.parametrize("device", ["d1", "d2"])
def test_t5_a_recorded_manifest_and_ticket_in_a_fresh_offer_are_stale(lab, device):
    first = lab(envelope=GOOD)
    first.run(lambda: first.check_ins())
    ticket = first.ticket(first.check_ins()[-1]["nonce"])
    victim = lab(envelope=GOOD, device=device, seed=78)
    strike(victim, ticket=ticket)
    assert ("REFUSED_STALE", 0, 0, 0) == outcome(victim)


@pytest.mark.parametrize("restarted", [False, True])
def test_t5_a_recorded_offer_is_dropped(lab, restarted):
    bench = lab(envelope=GOOD)
    bench.run(lambda: bench.check_ins())
    old = bench.check_ins()[-1]
    if restarted:
        bench.kill()
        bench.power_on()
    else:
        bench.send({"type": "check_in"}, after_s=1.5)
    bench.run(lambda: len(bench.check_ins()) == 2)
    bench.run(lambda: not bench.queue)
    dropped = bench.device.stats.dropped
    bench.offer(old)
    bench.run(lambda: not bench.queue)
    assert ("", 0, 0, 0, dropped + 1) == (*outcome(bench), bench.device.stats.dropped)


# --- T4: kept from updates -----------------------------------------------------------------------------------------------


def test_t4_a_device_that_is_told_to_wait_for_each_block_checks_in_meanwhile_and_boots_no_half(lab):
    bench = lab(envelope=GOOD)
    bench.offering = True
    bench.refuse = lambda request: (4, 3600, 1, 1)
    bench.run(lambda: bench.now > DAY_S, limit_s=2 * DAY_S)
    assert len(bench.check_ins()) > DAY_S / (4 * 30.0) / 2
    assert (0, "1.0.0") == (bench.reboots, bench.device.snapshot().version)
    bench.refuse = lambda request: None
    bench.run_settled(limit_s=2 * DAY_S)
    assert (Result.CONFIRMED, sha(IMAGE)) == (bench.device.snapshot().result, bench.slot_digest())


def stale_lab(lab, **options):
    return lab(envelope=GOOD, check_in_every_s=3600.0, **options)


def run_days(bench, days):
    end = bench.now + days * DAY_S
    bench.run(lambda: bench.now > end, limit_s=(days + 1) * DAY_S)


def is_stale(bench):
    return bench.device.snapshot().stale


def test_t4_a_device_that_hears_nothing_for_thirty_days_raises_stale_and_says_so_when_it_checks_in(lab):
    bench = stale_lab(lab, acking=False)
    run_days(bench, 29)
    assert (False, False) == (is_stale(bench), any("stale_s" in one for one in bench.check_ins()))
    run_days(bench, 2)
    assert is_stale(bench)
    told = [one["stale_s"] for one in bench.check_ins() if "stale_s" in one]
    assert told
    assert 30 * DAY_S <= min(told) <= max(told) <= 31 * DAY_S + 3600
    assert (0, 0, 0) == outcome(bench)[1:]
    bench.acking = bench.offering = True
    bench.run_settled(limit_s=DAY_S)
    assert (False, Result.CONFIRMED) == (is_stale(bench), bench.device.snapshot().result)


def test_t4_a_restart_does_not_begin_the_time_anew(lab):
    bench = stale_lab(lab, acking=False, stale_after_s=3.0 * DAY_S)
    run_days(bench, 2)
    bench.device.boot(bench.now)
    bench.device.connected(bench.now)
    run_days(bench, 2)
    assert is_stale(bench)


def test_t4_replayed_tickets_do_not_keep_a_device_from_raising_stale(lab):
    bench = stale_lab(lab, stale_after_s=4.0 * DAY_S)
    old = bench.ticket(b"\0" * 16)
    bench.on_report = lambda report: report["type"] == "report_version" and bench.offer(report, ticket=old)
    run_days(bench, 5)
    assert bench.states().count("defer") > 1024  # an exponent beyond what a number holds
    assert (True, "REFUSED_STALE") == (is_stale(bench), outcome(bench)[0])
    bench.on_report, bench.offering = lambda report: None, True
    bench.run_settled(limit_s=DAY_S)
    assert (False, Result.CONFIRMED) == (is_stale(bench), bench.device.snapshot().result)


def test_t4_acknowledgements_alone_hide_a_freeze_from_a_device_for_nobody_signs_them(lab):
    bench = stale_lab(lab)
    run_days(bench, 60)
    assert len({one["nonce"] for one in bench.check_ins()}) > 1000
    assert ((0, 0, 0), False) == (outcome(bench)[1:], is_stale(bench))


# --- T13: stolen keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        [AUTHOR],
        [AUTHOR, AUTHOR],
        [AUTHOR, STRANGER],
        [AUTHOR, ONLINE],
        [STRANGER, ONLINE],
    ],
    ids=["one of two", "one of two, twice", "one and a stranger", "one and the online key", "neither"],
)
def test_t13_fewer_authors_than_the_threshold_install_nothing(lab, keys):
    bench = lab(authors=(AUTHOR, SECOND, THIRD), threshold=2, envelope=sealed(evil(), *keys))
    strike(bench)
    assert ("REFUSED_SIG", 0, 0, 0) == outcome(bench)


def test_t13_a_key_in_anothers_name_does_not_count(lab):
    payload = cbor2.dumps(evil(), canonical=True)
    real, renamed = AUTHOR.signature(payload), AUTHOR.signature(payload)
    renamed[1] = {4: SECOND.kid}
    bench = lab(authors=(AUTHOR, SECOND, THIRD), threshold=2, envelope=cbor2.dumps([payload, [real, renamed]]))
    strike(bench)
    assert ("REFUSED_SIG", 0, 0, 0) == outcome(bench)


def keyset_step(bench, *signers, version=2, authors=(STRANGER,), threshold=1, epoch=1, online=ONLINE, renamed=()):
    """A signed step; `renamed`: pairs of who signs and in whose name."""
    payload = cbor2.dumps(
        {
            1: 1,
            2: version,
            3: bench.trust.vendor_id,
            4: epoch,
            5: threshold,
            6: sorted(one.raw for one in authors),
            7: [online.raw],
        }
    )
    protected = b"\xa1\x01\x32"
    signed = cbor2.dumps(["Signature1", protected, b"keyset", payload])
    made = [(one, one.kid) for one in signers] + [(one, other.kid) for one, other in renamed]
    return cbor2.dumps([payload, [[protected, {4: kid}, None, one.private.sign(signed)] for one, kid in made]])


@pytest.mark.parametrize(
    ("signers", "changes", "code"),
    [
        ([STRANGER], {}, "REFUSED_KEYS_OLD"),
        ([ONLINE, STRANGER], {}, "REFUSED_KEYS_OLD"),
        ([AUTHOR, STRANGER], {}, "REFUSED_KEYS_OLD"),
        ([AUTHOR, AUTHOR, STRANGER], {}, "REFUSED_KEYS_TWICE"),
        ([AUTHOR, STRANGER], {"renamed": [(AUTHOR, SECOND)]}, "REFUSED_KEYS_SIG"),
        ([AUTHOR, SECOND], {}, "REFUSED_KEYS_NEW"),
        ([AUTHOR, SECOND], {"renamed": [(AUTHOR, STRANGER)]}, "REFUSED_KEYS_SIG"),
        ([AUTHOR, SECOND, STRANGER], {"authors": (STRANGER, STRANGER), "threshold": 2}, "REFUSED_KEYS_FORM"),
        ([AUTHOR, SECOND, STRANGER], {"version": 3}, "REFUSED_KEYS_STEP"),
        ([AUTHOR, SECOND, STRANGER], {"version": 1}, "REFUSED_KEYS_ROLLBACK"),
        ([AUTHOR, SECOND, STRANGER], {"threshold": 2}, "REFUSED_KEYS_FORM"),
        ([AUTHOR, SECOND, STRANGER], {"authors": (STRANGER, ONLINE)}, "REFUSED_KEYS_FORM"),
        ([AUTHOR, SECOND, STRANGER], {"epoch": 3}, "REFUSED_KEYS_FORM"),
    ],
)
def test_t13_a_keyset_without_enough_of_the_old_and_of_the_new_changes_nobodys_mind(lab, signers, changes, code):
    bench = lab(authors=(AUTHOR, SECOND, THIRD), threshold=2)
    bench.run(lambda: not bench.queue)
    ops, told = bench.flash.ops, len(bench.check_ins())
    bench.send({"type": "update_keys", "version": 2, "keyset": keyset_step(bench, *signers, **changes)})
    bench.run(lambda: len(bench.check_ins()) > told)
    assert (1, code) == (bench.check_ins()[-1]["keys"], bench.check_ins()[-1]["keys_refused"])
    assert ops == bench.flash.ops


def test_t13_a_revoked_key_installs_nothing_nor_brings_itself_back(lab):
    bench = lab()
    bench.run(lambda: bench.check_ins())
    bench.send({"type": "update_keys", "version": 2, "keyset": keyset_step(bench, AUTHOR, SECOND, authors=(SECOND,))})
    bench.run(lambda: bench.check_ins()[-1]["keys"] == 2)
    ops = bench.flash.ops
    for version in (2, 3):
        back = keyset_step(bench, AUTHOR, version=version, authors=(AUTHOR,))
        bench.send({"type": "update_keys", "version": 3, "keyset": back}, after_s=version)
    bench.run(lambda: bench.check_ins()[-1].get("keys_refused"))
    assert ("REFUSED_KEYS_OLD", ops) == (bench.check_ins()[-1]["keys_refused"], bench.flash.ops)
    bench.envelope = sealed(evil(), AUTHOR)
    strike(bench)
    assert ("REFUSED_SIG", 0, 0, 0) == outcome(bench)


def test_t13_an_online_key_that_was_replaced_vouches_for_nothing(lab):
    bench = lab(envelope=GOOD)
    bench.run(lambda: bench.check_ins())
    bench.send(
        {"type": "update_keys", "version": 2, "keyset": keyset_step(bench, AUTHOR, authors=(AUTHOR,), online=THIRD)}
    )
    bench.run(lambda: bench.check_ins()[-1]["keys"] == 2)
    strike(bench)
    assert ("REFUSED_STALE", 0, 0, 0) == outcome(bench)
    bench.online_key, bench.offering = THIRD, True
    bench.run_settled()
    assert Result.CONFIRMED is bench.device.snapshot().result


def test_t12_the_highest_seq_by_a_stolen_key_is_void_in_a_new_epoch(lab):
    bench = lab(payload=payload_for(IMAGE, seq=2**32 - 1, version="6.6.6"))
    bench.offering = True
    bench.run_settled()
    bench.offering = False
    fresh = keyset_step(bench, AUTHOR, SECOND, authors=(SECOND,), epoch=2)
    bench.send({"type": "update_keys", "version": 2, "keyset": fresh})
    bench.run(lambda: bench.check_ins()[-1]["keys"] == 2)
    back = IMAGE[:9000]
    for name, key, changes, code in (
        ("stolen", AUTHOR, {"k22": 2}, "REFUSED_SIG"),
        ("before", SECOND, {}, "REFUSED_ROLLBACK"),
    ):
        erases, bench.deployment = bench.storage.image_erases, name
        bench.envelope = sealed(evil(seq=2**32 - 1, **changes), key)
        strike(bench)
        assert (code, erases) == outcome(bench)[:2]
    bench.image, bench.digest, bench.payload = back, sha(back), payload_for(back, seq=1, version="1.2.0", k22=2)
    bench.envelope, bench.deployment, bench.offering = sealed(bench.payload, SECOND), "good", True
    bench.serve(sha(back), back)
    bench.serve(merkle(leaves_of(back, CHUNK)), b"".join(leaves_of(back, CHUNK)))
    bench.run(lambda: bench.storage.settings.version == "1.2.0", limit_s=2000)


# --- T8, T9, T16: blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mangle",
    [
        lambda block: [block[0], block[1], block[2] + b"x"],
        lambda block: [block[0], block[1], block[2][:-1]],
        lambda block: [block[0], block[1], b""],
        lambda block: [block[0], block[1], bytes(60_000)],
        lambda block: [block[0], block[1] + 1, block[2]],
        lambda block: [block[0], block[1] + len(IMAGE), block[2]],
        lambda block: [block[0], 2**32 - 1, block[2]],
        lambda block: [block[0], 2**63, block[2]],
        lambda block: [block[0], -1, block[2]],
        lambda block: [sha(EVIL)[:8], block[1], block[2]],
        lambda block: [block[0][:7], block[1], block[2]],
        lambda block: [block[0], block[1], "text"],
        lambda block: [block[0], block[1]],
    ],
    ids=[
        "longer", "shorter", "empty", "endless", "shifted", "past the end", "at 2^32-1", "at 2^63", "below zero",
        "of another artifact", "short name", "text", "without data",
    ],
)  # fmt: skip
def test_t8_blocks_that_nobody_asked_for_are_dropped_and_the_update_goes_on_without_them(lab, mangle):
    bench = lab(envelope=GOOD)
    bench.mangle = mangle
    bench.offering = True
    bench.run(lambda: len(bench.requests) >= 6)
    assert 0 == bench.device.snapshot().position
    bench.mangle = lambda block: block
    bench.run_settled()
    assert (Result.CONFIRMED, sha(IMAGE)) == (bench.device.snapshot().result, bench.slot_digest())


@pytest.mark.parametrize("level", ["L0", "L1"])
def test_t1_other_bytes_than_those_that_were_signed_are_never_bootable(lab, level):
    bench = lab(envelope=GOOD, level=level)
    bench.offering = True
    bench.serve(sha(IMAGE), EVIL)
    bench.run(lambda: "fail" in bench.states())
    assert "REFUSED_DIGEST" == outcome(bench)[0]
    assert ("1.0.0", True, 0) == (bench.device.snapshot().version, bench.storage.settings.factory, bench.reboots)


def test_t1_another_chunk_list_is_not_believed(lab):
    bench = lab(envelope=GOOD)
    bench.offering = True
    bench.serve(merkle(leaves_of(IMAGE, CHUNK)), b"".join(leaves_of(EVIL, CHUNK)))
    bench.serve(sha(IMAGE), EVIL)
    bench.run(lambda: "fail" in bench.states())
    assert "REFUSED_DIGEST" == outcome(bench)[0]
    assert set() == {artifact for artifact, *_ in bench.requests if sha(IMAGE).startswith(artifact)}


def test_t9_what_follows_the_image_is_not_asked_for_and_never_written(lab):
    bench = lab(envelope=GOOD, block_bytes=1000)
    bench.offering = True
    bench.serve(sha(IMAGE), IMAGE + EVIL)
    bench.run_settled()
    area = bench.storage.layout.slots[bench.storage.settings.active]
    end = len(IMAGE) + -len(IMAGE) % 4
    assert bench.flash.is_erased(area.offset + end, area.size_bytes - end)
    asked = [(offset, size, count) for name, offset, size, count in bench.requests if sha(IMAGE).startswith(name)]
    assert len(IMAGE) == max(offset + size * count for offset, size, count in asked)


def test_t16_a_slot_that_changes_between_the_check_and_the_boot_is_not_booted(lab):
    bench = lab(envelope=GOOD)
    bench.offering = True
    bench.run(lambda: bench.device.snapshot().phase is Phase.INSTALLING)
    area = bench.storage.layout.slots[1 - bench.storage.settings.active]
    bench.flash.erase(area.offset, 4096)
    bench.offering = False
    bench.run(lambda: "rolled_back" in bench.states())
    assert ("1.0.0", True) == (bench.device.snapshot().version, bench.storage.settings.factory)


# --- what a hostile bridge says besides offers --------------------------------------------------------------------------


def test_a_go_that_the_device_did_not_ask_for_installs_nothing(lab):
    bench = lab(envelope=GOOD, apply="on_command")
    bench.offering = True
    bench.run(lambda: bench.device.snapshot().phase is Phase.DOWNLOADED)
    for seqs in ([], [1], list(range(1, 60))):
        bench.send({"type": "report_ack", "boot": 1, "seqs": seqs, "go": [bench.deployment]})
    bench.run(lambda: not bench.queue)
    assert (Phase.DOWNLOADED, 0) == (bench.device.snapshot().phase, bench.reboots)


def test_a_device_that_is_asked_to_check_in_all_the_time_does_so_once_a_second(lab):
    bench = lab()
    bench.run(lambda: bench.check_ins())
    began = bench.now
    for number in range(1000):
        bench.send({"type": "check_in"}, after_s=number / 100)
    bench.run(lambda: not bench.queue)
    assert len(bench.check_ins()) <= 2 + (bench.now - began)
    assert (0, 0) == (bench.storage.image_erases, len(bench.requests))
