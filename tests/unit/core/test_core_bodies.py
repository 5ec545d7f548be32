"""Bodies: the same rights, caps and accounts as blocks, and no gaps once they have begun."""

import random
from dataclasses import replace

import pytest
from core_world import MemorySource, facts_of, image_of

from ota_bridge.core.blocks import FRAME_MAX_BYTES, BlockServer, Cold
from ota_bridge.core.bodies import ASK_AGAIN_S, FRAME_BYTES, LANE_PACKET_BYTES, Bodies, Later, Over
from ota_bridge.core.errors import ArtifactCold, BlockRefusal
from ota_bridge.core.messages import BlockActivity, BlockRequest, BlockTrouble, Grant, GrantsChanged, GrantState
from ota_bridge.core.shares import LANE_STEP_S, WINDOW_S
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, RolloutId, Share

IMAGE = image_of("1.1.0", size=300_000)
FACTS = facts_of(image=IMAGE)
NAME = FACTS.sha256[:8]
DEVICE = DeviceId("prod", "d1")
ROLLOUT = RolloutId("r-000001")


def grants_of(device, number=0, **changes):
    plain = Grant(deployment=DeploymentId(f"{number:012x}"), rollout=ROLLOUT, state=GrantState.OPEN, manifest=FACTS)
    return GrantsChanged(device=device, grants=(replace(plain, **changes),))


class Site:
    """A block server whose devices download in streams, with a clock that tests move."""

    def __init__(self, *, limits=None, devices=1, image=IMAGE, **options):
        self.source = MemorySource()
        self.source.put(image)
        self.server = BlockServer(
            self.source, **({"block_max": 16_384, "window_max": 16, "refusals_per_s": 2} | options)
        )
        self.mono = 10.0
        self.devices = [DeviceId("prod", f"d{number + 1}") for number in range(devices)]
        for number, device in enumerate(self.devices):
            self.server.apply(grants_of(device, number))
        self.server.is_loaded = True
        if limits is not None:
            self.server.set_limits(limits, self.mono)
            self.mono += 2 * WINDOW_S
        self.bodies = Bodies(self.server)

    def body(self, device=DEVICE, offset=0, end=300_000):
        return self.bodies.open(self.server.client(device), NAME, offset, end)

    def whole(self, body):
        """All pieces of a body, as the clock lets them go, with their times."""
        pieces = []
        while body.offset < body.end:
            found = body.next(self.mono)
            if isinstance(found, Later):
                assert 0 < found.after_s
                self.mono += found.after_s
                assert self.mono < 10_000
                continue
            assert isinstance(found, bytes), found
            assert found
            pieces.append((self.mono, found))
        body.close(self.mono)
        return pieces

    def blocks(self, device, count=4):
        """One request of a device that speaks MQTT."""
        request = BlockRequest(artifact=NAME, offset=0, size=4096, count=count)
        return self.server.answer(self.server.client(device), request, mono=self.mono)


def data_of(pieces):
    return b"".join(data for _, data in pieces)


@pytest.mark.parametrize(("offset", "end"), [(0, 300_000), (204_959, 300_000), (299_999, 300_000), (0, 1), (7, 70_001)])
@pytest.mark.parametrize("limits", [None, Limits(downloads=1), Limits(bytes_per_s=200_000), Limits(blocks_per_s=50)])
def test_a_body_brings_exactly_its_range_under_any_caps(limits, offset, end):
    site = Site(limits=limits)
    assert IMAGE[offset:end] == data_of(site.whole(site.body(offset=offset, end=end)))


def test_what_it_brings_is_progress_of_its_deployment():
    site = Site()
    site.whole(site.body(offset=100_000))
    (told,) = site.server.drain(1_000.0, site.mono, whole=True)
    assert isinstance(told, BlockActivity)
    assert (DEVICE, "000000000000", 200_000, 300_000) == (
        told.device,
        told.deployment,
        told.bytes_sent,
        told.high_water_bytes,
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (GrantState.WITHDRAWN, Over(BlockRefusal.WITHDRAWN)),
        (GrantState.PAUSED, Later(ASK_AGAIN_S, BlockRefusal.PAUSED)),
    ],
)
def test_what_is_withdrawn_is_over_and_what_is_paused_may_go_on(state, expected):
    site = Site()
    body = site.body()
    assert isinstance(body.next(site.mono), bytes)
    site.server.hold(ROLLOUT, state)
    assert expected == body.next(site.mono)
    site.server.hold(ROLLOUT, None)
    assert isinstance(body.next(site.mono), bytes)


def test_it_ends_in_the_middle_when_its_deployment_does():
    site = Site()
    body = site.body()
    assert isinstance(body.next(site.mono), bytes)
    site.server.apply(GrantsChanged(device=DEVICE, grants=()))
    assert Over(BlockRefusal.NOT_OPEN) == body.next(site.mono)


def test_until_the_table_is_whole_it_waits():
    site = Site()
    site.server.is_loaded = False
    assert Later(ASK_AGAIN_S, BlockRefusal.BUSY) == site.body().next(site.mono)


def test_what_was_altered_on_disk_is_never_handed_out():
    site = Site()
    body = site.body()
    assert isinstance(body.next(site.mono), bytes)
    site.source.damaged = True
    assert Later(ASK_AGAIN_S, BlockRefusal.BUSY) == body.next(site.mono)
    assert 1 == site.server.counters.damaged
    site.source.damaged = False
    assert isinstance(body.next(site.mono), bytes)


def test_what_is_not_in_memory_is_told_to_be_fetched_and_nothing_is_counted():
    site = Site(limits=Limits(bytes_per_s=100_000))
    site.source.damaged, site.source.error = True, ArtifactCold
    body = site.body()
    found = body.next(site.mono)
    assert isinstance(found, Cold)
    assert (0, False) == (found.offset, body.has_begun)
    site.source.damaged = False
    assert isinstance(body.next(site.mono), bytes)


def test_it_keeps_to_the_rate_of_one_device():
    site = Site(device_blocks_per_s=10, device_burst_blocks=10)
    pieces = site.whole(site.body())
    assert 0.9 * (300_000 / 16_384 - 10) / 10 <= pieces[-1][0] - pieces[0][0] <= 1.0
    assert 300_000 == len(data_of(pieces))


# --- slots ---------------------------------------------------------------------------------------------------


def test_a_body_takes_a_slot_as_blocks_do_and_waits_for_one():
    site = Site(limits=Limits(downloads=1), devices=3)
    first, second = site.body(site.devices[0]), site.body(site.devices[1])
    assert isinstance(first.next(site.mono), bytes)
    assert Later(ASK_AGAIN_S, BlockRefusal.BUSY) == second.next(site.mono)
    assert BlockRefusal.BUSY is site.blocks(site.devices[2]).code
    assert (1, 2) == (site.server.usage(site.mono).slots_held, site.server.usage(site.mono).waiting_for_slot)
    site.server.apply(GrantsChanged(device=site.devices[0], grants=()))
    assert Over(BlockRefusal.NOT_OPEN) == first.next(site.mono)
    site.whole(second)


def test_a_device_with_a_slot_of_blocks_streams_in_the_same_one():
    site = Site(limits=Limits(downloads=1))
    assert not hasattr(site.blocks(DEVICE), "code")
    assert isinstance(site.body().next(site.mono), bytes)


def test_what_it_waits_for_is_noted_for_why_once_a_second():
    site = Site(limits=Limits(downloads=1), devices=2)
    assert isinstance(site.body().next(site.mono), bytes)
    waiting = site.body(site.devices[1])
    for _ in range(11):
        assert isinstance(waiting.next(site.mono), Later)
        site.mono += 0.25
    (trouble,) = [one for one in site.server.drain(1_000.0, site.mono, whole=True) if isinstance(one, BlockTrouble)]
    assert (site.devices[1], BlockRefusal.BUSY, Share.SLOT, 3) == (
        trouble.device,
        trouble.refusal,
        trouble.waits_for,
        trouble.count,
    )


def test_one_that_waits_for_a_slot_holds_no_lane():
    site = Site(limits=Limits(downloads=1, bytes_per_s=40_000), devices=2)
    assert isinstance(site.body().next(site.mono), bytes)
    assert isinstance(site.body(site.devices[1]).next(site.mono), Later)
    assert 1 == len(site.server.shares._lanes)


# --- rates ---------------------------------------------------------------------------------------------------


def test_a_lone_body_uses_its_cap_evenly():
    site = Site(limits=Limits(bytes_per_s=20_000))
    pieces = site.whole(site.body())
    gaps = [later - earlier for (earlier, _), (later, _) in zip(pieces, pieces[1:], strict=False)]
    assert max(gaps) <= LANE_STEP_S + 0.01
    took_s = pieces[-1][0] - pieces[0][0]
    assert 300_000 / 20_000 <= took_s <= 1.7 * 300_000 / 20_000


def contest(*, limits, streams, greedy, seed, seconds=40.0):
    """Streams and devices that ask for all they can, for a while: the times and sizes of what each got."""
    rng = random.Random(seed)
    print("seed", seed)
    site = Site(limits=limits, devices=streams + greedy, image=IMAGE)
    bodies = {device: site.body(device, end=10**9) for device in site.devices[:streams]}
    for body in bodies.values():
        body.end = 10**9
    gone, end = [], site.mono + seconds
    due = {device: site.mono + rng.uniform(0, 1) for device in site.devices}
    while (mono := min(due.values())) < end:
        device = min(due, key=due.get)
        site.mono = mono
        body = bodies.get(device)
        if body is None:
            answer = site.blocks(device, count=16)
            if not hasattr(answer, "code"):
                gone.append((mono, device, sum(len(data) + FRAME_MAX_BYTES for _, data in answer.blocks)))
            due[device] = mono + (rng.uniform(0.01, 0.1) if not hasattr(answer, "code") else answer.retry_after_s or 2)
            continue
        if body.offset >= len(IMAGE):
            body.offset = 0
        body.end = len(IMAGE)
        found = body.next(mono)
        if isinstance(found, bytes):
            gone.append((mono, device, len(found) + FRAME_BYTES))
            due[device] = mono + 0.001
        else:
            assert isinstance(found, Later), found
            due[device] = mono + found.after_s + rng.uniform(0, 0.005)
    return site, bodies, gone


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("limits", "streams"),
    [
        (Limits(bytes_per_s=120_000), 6),
        (Limits(blocks_per_s=60), 6),
        (Limits(bytes_per_s=200_000, blocks_per_s=80, downloads=8), 5),
    ],
)
def test_no_gap_of_a_body_that_has_begun_is_longer_than_a_second_beside_greedy_devices(limits, streams, seed):
    _, bodies, gone = contest(limits=limits, streams=streams, greedy=4, seed=seed)
    begun = 0
    for device in bodies:
        times = [mono for mono, who, _ in gone if who == device]
        begun += bool(times)
        assert all(later - earlier <= 0.5 for earlier, later in zip(times, times[1:], strict=False))
    assert begun >= 2
    assert {who for _, who, _ in gone} - set(bodies)  # the others are served, too


@pytest.mark.parametrize("seed", range(4))
def test_no_second_shows_more_than_the_caps_with_bodies_and_blocks_side_by_side(seed):
    limits = Limits(bytes_per_s=150_000, downloads=6)
    _, _, gone = contest(limits=limits, streams=5, greedy=5, seed=seed)
    for mono, _, _ in gone:
        within = [one for one in gone if mono - 1.0 < one[0] <= mono]
        assert sum(size for _, _, size in within) <= limits.bytes_per_s
        assert len({who for _, who, _ in within}) <= limits.downloads


def test_the_next_waits_where_one_more_would_starve_the_others():
    site = Site(limits=Limits(bytes_per_s=70_000), devices=5)
    bodies = [site.body(device) for device in site.devices]
    found = [body.next(site.mono) for body in bodies]
    assert [True, True, False, False, False] == [isinstance(one, bytes) for one in found]
    bodies[0].close(site.mono)
    site.mono += WINDOW_S + 0.05
    assert isinstance(bodies[2].next(site.mono), bytes)


def test_a_body_whose_device_takes_nothing_gives_its_lane_back_and_gets_another():
    site = Site(limits=Limits(bytes_per_s=100_000))
    body = site.body()
    assert isinstance(body.next(site.mono), bytes)
    assert site.server.shares.has_lane(body)
    body.rest(site.mono)
    assert not site.server.shares.has_lane(body)
    site.mono += 2.0
    assert isinstance(body.next(site.mono), bytes)
    assert site.server.shares.has_lane(body)
    body.close(site.mono)
    assert (False, False) == (site.server.shares.has_lane(body), body.has_begun)


def test_caps_may_come_and_go_while_it_runs():
    site = Site()
    body = site.body()
    pieces = []
    for limits in (Limits(bytes_per_s=50_000), Limits(blocks_per_s=30), Limits(), Limits(downloads=1)):
        for _ in range(3):
            found = body.next(site.mono)
            pieces += [found] if isinstance(found, bytes) else []
            site.mono += 1.3
        site.server.set_limits(limits, site.mono)
    assert IMAGE.startswith(b"".join(pieces))
    assert len(pieces) >= 7
    body.close(site.mono)


def test_in_a_lane_goes_more_than_what_devices_are_known_to_give_up_below():
    assert (LANE_PACKET_BYTES - 128) / LANE_STEP_S >= 2 * 5_000
