"""The block server against a naive oracle, and each refusal."""

from dataclasses import replace

import pytest
from core_world import MemorySource, facts_of, image_of, tree_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.blocks import TOLD_WITHIN_S, BlockServer, Cold, Refused, Served
from ota_bridge.core.errors import ArtifactCold, ArtifactDamaged, BlockRefusal, StoreError
from ota_bridge.core.messages import (
    BlockActivity,
    BlockRequest,
    BlockTrouble,
    Grant,
    GrantsChanged,
    GrantState,
)
from ota_bridge.core.shares import REST_S, WINDOW_S, Usage
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, RolloutId, Sha256, Share

DEVICE = DeviceId("prod", "d1")
IMAGE = image_of("1.1.0")
FACTS = facts_of()


def grant(**changes):
    plain = Grant(
        deployment=DeploymentId("0123456789ab"), rollout=RolloutId("r-000001"), state=GrantState.OPEN, manifest=FACTS
    )
    return replace(plain, **changes)


def server(*grants, image=IMAGE, loaded=True, **options):
    source = MemorySource()
    source.put(image)
    made = BlockServer(source, **({"block_max": 16_384, "window_max": 16, "refusals_per_s": 1000} | options))
    made.is_loaded = loaded
    made.apply(GrantsChanged(device=DEVICE, grants=grants or (grant(),)))
    return made, source


def ask(made, artifact=None, offset=0, size=1000, count=1, missing=None, device=DEVICE, mono=10.0):
    request = BlockRequest(
        artifact=FACTS.sha256[:8] if artifact is None else artifact,
        offset=offset,
        size=size,
        count=count,
        missing=missing,
    )
    return made.answer(made.client(device), request, mono=mono)


def blocks_of(answer):
    assert isinstance(answer, Served), answer
    return [(offset, bytes(data)) for offset, data in answer.blocks]


def code_of(answer):
    assert isinstance(answer, Refused), answer
    return answer.code


def oracle(data, offset, size, count, missing):
    """What §5 says, without cleverness: bit j of byte k is block 8k+j, counted from `offset` in units of `size`."""
    if missing is None:
        wanted = list(range(count))
    else:
        bits = [byte >> j & 1 for byte in missing for j in range(8)]
        wanted = [index for index, bit in enumerate(bits) if bit][:count]
    found = [(offset + i * size, data[offset + i * size : offset + i * size + size]) for i in wanted]
    return [(start, piece) for start, piece in found if start < len(data)]


SERVER, _ = server(window_max=64)


@given(
    offset=st.integers(0, 11_000) | st.sampled_from([9_999, 10_000, 2**31, 2**32, 2**63, 2**64 - 1]),
    size=st.integers(1, 4096) | st.sampled_from([1, 64, 1000, 16_384]),
    count=st.integers(1, 64),
    missing=st.none() | st.binary(min_size=1, max_size=24),
)
def test_every_legal_request_is_answered_as_the_protocol_says(offset, size, count, missing):
    expected = oracle(IMAGE, offset, size, count, missing)
    answer = ask(SERVER, offset=offset, size=size, count=count, missing=missing)
    if expected:
        assert expected == blocks_of(answer)
    else:
        assert BlockRefusal.PAST_END is code_of(answer)


def test_the_last_block_is_short_and_what_lies_past_the_end_is_left_out():
    made, _ = server()
    assert [(9_000, IMAGE[9_000:9_600]), (9_600, IMAGE[9_600:])] == blocks_of(
        ask(made, offset=9_000, size=600, count=5)
    )


def test_an_answer_is_idempotent():
    made, _ = server()
    assert blocks_of(ask(made, offset=7, size=3, count=4)) == blocks_of(ask(made, offset=7, size=3, count=4))


def test_the_smallest_and_the_largest_pace_are_both_legal():
    made, _ = server()
    small = b"".join(blocks_of(ask(made, offset=offset, size=64))[0][1] for offset in range(0, len(IMAGE), 64))
    assert IMAGE == small
    assert IMAGE == blocks_of(ask(made, size=16_384, count=16))[0][1]


class Huge:
    """An image of more than 2^32 bytes that nobody has to hold."""

    size_bytes = 2**32 + 100

    def view(self, offset, length):
        return memoryview(offset.to_bytes(8, "big") * (length // 8 + 1))[:length]

    def close(self):
        pass


@pytest.mark.parametrize("offset", [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 99])
def test_offsets_are_64_bit(offset):
    made, source = server()
    source.open = lambda manifest: Huge()
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(),)))
    start, data = blocks_of(ask(made, offset=offset, size=16))[0]
    assert (offset, min(16, 2**32 + 100 - offset)) == (start, len(data))


def test_an_offset_past_the_end_of_a_huge_image_is_refused():
    made, source = server()
    source.open = lambda manifest: Huge()
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(),)))
    assert BlockRefusal.PAST_END is code_of(ask(made, offset=2**32 + 100))


# --- what may be asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [8, 9, 16, 31, 32])
def test_an_image_is_named_by_8_to_32_bytes_of_its_digest(length):
    made, _ = server()
    assert IMAGE[:1000] == blocks_of(ask(made, FACTS.sha256[:length]))[0][1]


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_shorter_name_is_nobodys(length):
    made, _ = server()
    assert BlockRefusal.NOT_OPEN is code_of(ask(made, FACTS.sha256[:length]))


def test_a_name_that_goes_on_wrongly_is_nobodys():
    made, _ = server()
    assert BlockRefusal.NOT_OPEN is code_of(ask(made, FACTS.sha256[:31] + b"\0"))


def test_the_chunk_list_is_named_by_the_root_and_is_no_progress():
    made, _ = server()
    assert tree_of(IMAGE, 4096)[1] == blocks_of(ask(made, FACTS.merkle_root[:8]))[0][1]
    assert [0] == [seen.high_water_bytes for seen in made.drain(5.0, 10.0)]


def test_manifest_and_ticket_are_served_from_memory():
    made, _ = server(grant(inline=((Sha256(b"m" * 32), b"manifest"), (Sha256(b"t" * 32), b"ticket"))))
    assert [(0, b"manifest")] == blocks_of(ask(made, b"m" * 8))
    assert [(0, b"tick"), (4, b"et")] == blocks_of(ask(made, b"t" * 8, size=4, count=9))


def test_a_name_that_fits_two_artifacts_is_refused_rather_than_guessed():
    made, _ = server(grant(inline=((Sha256(b"m" * 32), b"one"), (Sha256(b"m" * 31 + b"x"), b"two"))))
    assert BlockRefusal.NOT_OPEN is code_of(ask(made, b"m" * 8))
    assert [(0, b"two")] == blocks_of(ask(made, b"m" * 31 + b"x"))


def test_a_device_gets_only_what_is_open_for_it():
    made, _ = server()
    assert BlockRefusal.NOT_OPEN is code_of(ask(made, device=DeviceId("prod", "d2")))


# --- refusals ----------------------------------------------------------------------------------------------------


def test_until_the_table_is_loaded_everything_is_busy_and_never_not_open():
    made, _ = server(loaded=False)
    assert {BlockRefusal.BUSY} == {
        code_of(ask(made)), code_of(ask(made, b"nonsense")), code_of(ask(made, device=DeviceId("x", "y")))
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "grants", "code", "retry_after_s"),
    [
        ({"artifact": b"nonsense"}, (), BlockRefusal.NOT_OPEN, 30),
        ({"offset": 10_000}, (), BlockRefusal.PAST_END, 0),
        ({"size": 16_385}, (), BlockRefusal.ABOVE_LIMIT, 0),
        ({"count": 17}, (), BlockRefusal.ABOVE_LIMIT, 0),
        ({"count": 17, "missing": b"\1"}, (), BlockRefusal.ABOVE_LIMIT, 0),
        ({}, (grant(state=GrantState.PAUSED),), BlockRefusal.PAUSED, 30),
        ({}, (grant(state=GrantState.WITHDRAWN),), BlockRefusal.WITHDRAWN, 30),
        ({"missing": b"\0"}, (), BlockRefusal.PAST_END, 0),
    ],
)
def test_each_refusal_has_its_code_and_says_when_to_come_back(request_, grants, code, retry_after_s):
    made, _ = server(*grants)
    assert Refused(code, retry_after_s) == ask(made, **request_)
    assert 0 == made.counters.blocks


@pytest.mark.parametrize("error", [ArtifactDamaged, StoreError])
def test_a_damaged_or_unreadable_artifact_is_busy_counted_and_heals(error):
    made, source = server()
    source.damaged, source.error = True, error
    assert Refused(BlockRefusal.BUSY, 2) == ask(made)
    assert 1 == made.counters.damaged
    source.damaged = False
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]


def test_a_missing_artifact_is_busy_until_it_is_there():
    made, source = server()
    data = source.images.pop(FACTS.sha256)
    assert BlockRefusal.BUSY is code_of(ask(made))
    source.put(data)
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(),)))
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]


def test_what_has_to_be_read_first_is_said_and_nothing_is_counted():
    made, source = server()
    source.error, source.damaged = ArtifactCold, True
    answer = ask(made, offset=500, size=1000, count=2)
    assert isinstance(answer, Cold)
    assert (500, 1000) == (answer.offset, answer.length)
    assert (0, {}) == (made.counters.requests, made.counters.refused)
    assert [] == made.drain(5.0, 10.0)


def test_refusals_are_limited_for_each_device_and_silent_above_it():
    made, _ = server(refusals_per_s=1, refusals_burst=4)
    asked = [ask(made, b"nonsense", mono=10.0).silent for _ in range(6)]
    assert [False, False, False, False, True, True] == asked
    assert not ask(made, b"nonsense", mono=10.0, device=DeviceId("prod", "d2")).silent
    assert [False, True] == [ask(made, b"nonsense", mono=11.0).silent for _ in range(2)]
    assert 3 == made.counters.silent


def test_silence_does_not_keep_blocks_from_a_device():
    made, _ = server(refusals_per_s=1, refusals_burst=1)
    for _ in range(3):
        ask(made, b"nonsense")
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]


@pytest.mark.parametrize(
    ("state", "code"), [(GrantState.PAUSED, BlockRefusal.PAUSED), (GrantState.WITHDRAWN, BlockRefusal.WITHDRAWN)]
)
def test_a_whole_rollout_is_held_before_its_commit_and_let_go(state, code):
    made, _ = server()
    made.hold(RolloutId("r-000001"), state)
    assert code is code_of(ask(made))
    made.hold(RolloutId("r-000001"), None)
    made.hold(RolloutId("r-000001"), None)
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]


def test_another_rollout_is_not_held():
    made, _ = server()
    made.hold(RolloutId("r-other"), GrantState.PAUSED)
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]


# --- the table and the counts ------------------------------------------------------------------------------------


def test_a_change_replaces_what_was_there_and_closes_it():
    made, source = server()
    assert 0 == source.open_now, "nothing is opened before it is asked for"
    ask(made)
    ask(made, FACTS.merkle_root)
    assert 2 == source.open_now
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(),)))
    assert 0 == source.open_now
    ask(made)
    assert 1 == source.open_now
    made.apply(GrantsChanged(device=DEVICE, grants=()))
    assert 0 == source.open_now
    assert BlockRefusal.NOT_OPEN is code_of(ask(made))


def test_two_grants_of_one_image_leave_nothing_open_behind():
    made, source = server(grant(), grant(deployment=DeploymentId("ba9876543210")))
    ask(made)
    made.apply(GrantsChanged(device=DEVICE, grants=()))
    assert 0 == source.open_now


def test_what_was_served_is_drained_once_in_one_batch():
    made, _ = server()
    ask(made, offset=0, size=1000, count=2)
    ask(made, offset=5000, size=500)
    ask(made, b"nonsense", mono=10.25)
    expected = [
        BlockActivity(
            device=DEVICE,
            deployment=DeploymentId("0123456789ab"),
            wall=5.0,
            bytes_sent=2500,
            blocks_sent=3,
            requests=2,
            high_water_bytes=5500,
        ),
        BlockTrouble(device=DEVICE, wall=5.25, refusal=BlockRefusal.NOT_OPEN, count=1),
    ]
    assert expected == made.drain(6.0, 11.0)
    assert [] == made.drain(7.0, 12.0)
    assert (3, 3, 2500) == (made.counters.requests, made.counters.blocks, made.counters.bytes)


def many(count):
    """A server on which so many devices have fetched their first block, at 10.0 s."""
    made, _ = server()
    for number in range(count):
        device = DeviceId("prod", f"n{number:04d}")
        made.apply(GrantsChanged(device=device, grants=(grant(deployment=DeploymentId(f"{number:012d}")),)))
    fetch(made, count)
    return made


def fetch(made, count, mono=10.0):
    request = BlockRequest(artifact=FACTS.sha256, offset=0, size=100, count=1)
    for number in range(count):
        made.answer(made.client(DeviceId("prod", f"n{number:04d}")), request, mono=mono)


@pytest.mark.parametrize(("active", "told_again_s"), [(10, 1), (100, 5), (1000, 10)])
def test_that_a_device_fetches_is_told_at_once_and_how_far_it_is_the_less_often_the_more_do(active, told_again_s):
    made = many(active)
    assert active == len(made.drain(10.0, 10.0))
    told = {}
    for second in range(1, 21):
        fetch(made, active, 10.0 + second)
        told[second] = len(made.drain(10.0 + second, 10.0 + second))
    expected = {second: active if second % told_again_s == 0 else 0 for second in told}
    assert expected == told


def test_nothing_is_lost_between_two_tellings_and_a_whole_one_holds_nothing_back():
    made = many(100)
    made.drain(10.0, 10.0)
    for second in (11.0, 12.0, 13.0):
        fetch(made, 100, second)
    assert [] == made.drain(13.0, 13.0)
    assert 400 == made.counters.blocks
    told = made.drain(13.5, 13.5, whole=True)
    assert ({300}, {3}, {13.0}) == tuple(
        {getattr(one, name) for one in told} for name in ("bytes_sent", "blocks_sent", "wall")
    )
    assert 400 == made.counters.blocks
    assert [] == made.drain(100.0, 100.0)


def test_strangers_are_forgotten_once_they_were_told_of():
    made, _ = server()
    for number in range(100):
        ask(made, device=DeviceId("prod", f"s{number}"))
    assert 100 == len(made.drain(5.0, 10.0))
    made.drain(6.0, 10.0)
    assert {DEVICE} == set(made._clients)


def test_a_device_is_known_again_after_it_was_forgotten():
    made, _ = server()
    before = made.client(DeviceId("prod", "s1"))
    ask(made, device=before.device)
    made.drain(5.0, 10.0)
    made.drain(6.0, 11.0)
    assert before.is_gone
    assert made.client(before.device) is not before


# --- fleet-wide caps ---------------------------------------------------------------------------------------------


OTHER = DeviceId("prod", "d2")


def capped(mono=0.0, **limits):
    """A server under these caps since `mono`, with two devices that may fetch."""
    made, source = server()
    made.apply(GrantsChanged(device=OTHER, grants=(grant(deployment=DeploymentId("ba9876543210")),)))
    made.set_limits(Limits(**limits), mono)
    return made, source


def test_a_cap_that_is_reached_is_busy_with_a_time_to_come_back():
    made, _ = capped(blocks_per_s=4)
    assert 4 == len(blocks_of(ask(made, size=10, count=4)))
    refused = ask(made, size=10, count=2)
    assert BlockRefusal.BUSY is code_of(refused)
    assert 1 == refused.retry_after_s
    assert 4 == made.counters.blocks
    assert 2 == len(blocks_of(ask(made, size=10, count=2, mono=10.02 + WINDOW_S)))


def test_a_request_for_more_than_a_whole_share_gets_the_share():
    made, _ = capped(blocks_per_s=4)
    assert [0, 10, 20, 30] == [offset for offset, _ in blocks_of(ask(made, size=10, count=16))]


def test_blocks_of_every_artifact_count_and_need_a_slot():
    made, _ = capped(blocks_per_s=1, downloads=1)
    leaves = tree_of(IMAGE, FACTS.chunk_bytes)[1]
    assert leaves == blocks_of(ask(made, FACTS.merkle_root[:8], size=4096))[0][1]
    assert BlockRefusal.BUSY is code_of(ask(made, mono=10.5))
    assert BlockRefusal.BUSY is code_of(ask(made, FACTS.merkle_root[:8], device=OTHER, mono=10.5 + WINDOW_S))


def test_a_cap_on_bytes_counts_whole_packets():
    made, _ = capped(bytes_per_s=16_000)
    made.client(DEVICE).frame_bytes = 600
    assert 15 == len(blocks_of(ask(made, size=400, count=16)))  # 15 of 1,000; the rest is for refusals
    assert BlockRefusal.BUSY is code_of(ask(made, size=1))


def test_a_cap_on_bytes_bounds_the_refusals_of_all_devices_together():
    made, _ = capped(bytes_per_s=16_000)
    for number in range(100):
        made.client(DeviceId("prod", f"s{number}")).frame_bytes = 100
    said = [ask(made, device=DeviceId("prod", f"s{number}")) for number in range(100)]
    assert 10 == sum(not refused.silent for refused in said)
    assert 90 == made.counters.silent


def test_under_a_cap_on_bytes_a_block_that_could_never_pass_is_above_the_limit():
    made, _ = capped(bytes_per_s=8_192)
    assert 7_168 == made.block_max
    assert BlockRefusal.ABOVE_LIMIT is code_of(ask(made, size=7_169))
    assert IMAGE[:7_168] == blocks_of(ask(made, size=7_168))[0][1]
    made.set_limits(Limits(downloads=1), 10.0)
    assert 16_384 == made.block_max


def test_who_must_wait_costs_no_look_at_the_artifact():
    made, source = capped(downloads=1)
    ask(made)
    source.damaged = True
    assert BlockRefusal.BUSY is code_of(ask(made, device=OTHER))
    assert 0 == made.counters.damaged


def test_what_has_to_be_read_from_disk_first_is_counted_when_it_goes():
    made, source = capped(blocks_per_s=1)
    source.damaged, source.error = True, ArtifactCold
    assert isinstance(ask(made), Cold)
    assert isinstance(ask(made), Cold)
    source.damaged = False
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]
    assert BlockRefusal.BUSY is code_of(ask(made))


def test_downloads_that_were_under_way_before_a_restart_keep_their_slots():
    made, _ = server(loaded=False)
    made.set_limits(Limits(downloads=1), 100.0)
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(fetched_wall=995.0),)), wall=1000.0, mono=100.0)
    made.apply(GrantsChanged(device=OTHER, grants=(grant(),)), wall=1000.0, mono=100.0)
    assert BlockRefusal.BUSY is code_of(ask(made, mono=102.0))
    made.open(100.0)
    assert BlockRefusal.BUSY is code_of(ask(made, device=OTHER, mono=102.0))
    assert IMAGE[:1000] == blocks_of(ask(made, mono=102.0))[0][1]


def test_of_more_downloads_than_slots_the_latest_keep_theirs():
    made, _ = server(loaded=False)
    devices = [DeviceId("prod", f"s{number}") for number in range(9)]
    for number in (3, 8, 1, 7, 0, 2, 6, 5, 4):
        change = GrantsChanged(device=devices[number], grants=(grant(fetched_wall=950.0 + number),))
        made.apply(change, wall=1000.0, mono=100.0)
    made.set_limits(Limits(downloads=3), 100.0)
    made.open(100.0)
    assert [False] * 6 + [True] * 3 == [isinstance(ask(made, device=one, mono=102.0), Served) for one in devices]


@pytest.mark.parametrize(
    ("fetched_wall", "held"),
    [(1003.0, 1), (941.0 - TOLD_WITHIN_S, 1), (939.0 - TOLD_WITHIN_S, 0), (None, 0)],  # the database hears of it late
)
def test_a_download_that_was_under_way_too_long_ago_keeps_none(fetched_wall, held):
    made, _ = server(loaded=False)
    made.set_limits(Limits(downloads=1), 100.0)
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(fetched_wall=fetched_wall),)), wall=1000.0, mono=100.0)
    made.open(100.0)
    assert held == made.usage(100.0).slots_held


def test_what_is_no_longer_granted_when_the_table_is_whole_keeps_no_slot():
    made, _ = server(loaded=False)
    made.set_limits(Limits(downloads=1), 100.0)
    for grants in ((grant(fetched_wall=995.0),), ()):
        made.apply(GrantsChanged(device=DEVICE, grants=grants), wall=1000.0, mono=100.0)
    made.open(100.0)
    assert 0 == made.usage(100.0).slots_held


@pytest.mark.parametrize("grants", [(), (grant(is_whole=True),), (grant(deployment=DeploymentId("000000000009")),)])
def test_a_slot_is_free_once_its_device_has_nothing_more_to_fetch(grants):
    made, _ = capped(downloads=1)
    ask(made)
    assert BlockRefusal.BUSY is code_of(ask(made, device=OTHER, mono=10.5))
    made.apply(GrantsChanged(device=DEVICE, grants=grants), mono=10.5)
    assert BlockRefusal.BUSY is code_of(ask(made, device=OTHER, mono=10.4 + REST_S))
    assert IMAGE[:1000] == blocks_of(ask(made, device=OTHER, mono=10.6 + REST_S))[0][1]


def test_a_slot_is_kept_while_there_is_more_to_fetch():
    made, _ = capped(downloads=1)
    ask(made)
    second = grant(deployment=DeploymentId("000000000009"))
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(), second)), mono=10.5)
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(is_whole=True), second)), mono=10.5)
    assert 1 == made.usage(10.5).slots_held


def test_who_loses_its_slot_loses_it_at_once():
    made, _ = capped(downloads=2)
    assert [True, True] == [isinstance(ask(made, device=one), Served) for one in (DEVICE, OTHER)]
    made.set_limits(Limits(downloads=1), 10.1)
    assert [True, False] == [isinstance(ask(made, device=one, mono=10.2), Served) for one in (DEVICE, OTHER)]


def test_who_gave_its_slot_back_and_fetches_again_holds_one_again():
    made, _ = capped(downloads=1)
    ask(made)
    made.apply(GrantsChanged(device=DEVICE, grants=(grant(is_whole=True),)), mono=10.1)
    assert 0 == made.usage(10.2).slots_held
    assert IMAGE[:1000] == blocks_of(ask(made, mono=10.2))[0][1]
    assert 1 == made.usage(10.2).slots_held


def test_a_slot_is_kept_while_its_device_asks_and_no_longer():
    made, _ = capped(downloads=1)
    for tenth in range(1_000):
        assert isinstance(ask(made, mono=10 + tenth / 10), Served)
    assert 1 == made.usage(10 + 99.9 + 58).slots_held
    assert 0 == made.usage(10 + 99.9 + 61).slots_held


def test_for_want_of_what_a_device_was_refused_is_told_with_the_time():
    made, _ = capped(downloads=1)
    ask(made)
    ask(made, device=OTHER, mono=10.5)
    told = made.drain(6.0, 11.0)[1]
    expected = BlockTrouble(
        device=OTHER, wall=5.5, refusal=BlockRefusal.BUSY, count=1, waits_for=Share.SLOT, retry_after_s=1
    )
    assert expected == told
    ask(made, b"nonsense", device=OTHER, mono=11.5)
    assert None is made.drain(7.0, 12.0)[0].waits_for


def test_how_the_caps_are_used_is_told():
    made, _ = capped(downloads=1)
    ask(made)
    ask(made, device=OTHER)
    assert Usage(slots_held=1, waiting_for_slot=1) == made.usage(10.0)
    made.set_limits(Limits(), 10.0)
    assert Usage() == made.usage(10.0)


def test_lifting_the_caps_serves_at_once():
    made, _ = capped(mono=10.0, blocks_per_s=1)
    assert BlockRefusal.BUSY is code_of(ask(made))
    made.set_limits(Limits(), 10.0)
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]


def test_a_change_of_a_cap_forgets_nothing():
    made, _ = capped(blocks_per_s=1)
    ask(made)
    made.set_limits(Limits(blocks_per_s=2), 10.0)
    assert IMAGE[:1000] == blocks_of(ask(made))[0][1]
    assert BlockRefusal.BUSY is code_of(ask(made))
