"""Fleet-wide caps against what somebody outside counts, and who gets what when they are reached."""

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import mean

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.shares import (
    LANE_STEP_S,
    PATIENCE_MAX_S,
    REST_S,
    WAIT_MAX_S,
    WINDOW_S,
    FairShares,
    SlidingWindow,
    Usage,
    Wait,
)
from ota_bridge.core.values import Limits, Share

LEASE_S = 6.0
NONE = 10**12
LANE_PACKET = 300
LARGEST = 1_000


class Outside:
    """Serves what is admitted, and counts it as somebody outside does."""

    def __init__(self, limits, mono=0.0, lease_s=LEASE_S):
        self.mono = mono
        self.shares = FairShares(limits, lease_s=lease_s, mono=mono, packet_max_bytes=LARGEST)
        self.in_force = [(mono, limits)]
        self.gone = []

    def ask(self, device, sizes):
        admitted = self.shares.admit(device, sizes, self.mono)
        if isinstance(admitted, Wait):
            assert 1 <= admitted.retry_after_s <= WAIT_MAX_S
            return 0
        assert 1 <= admitted <= len(sizes)
        self.shares.take(sizes[:admitted], self.mono)
        self.gone.append((self.mono, device, sizes[:admitted]))
        return admitted

    def streams(self, device):
        """A packet in the device's lane, if there is one to be had."""
        lane = ("lane", device)
        if self.shares.open_lane(lane, device, LANE_PACKET, self.mono) is not None or not self.shares.has_lane(lane):
            return 0
        admitted = self.shares.admit(device, [LANE_PACKET], self.mono, lane=lane)
        if isinstance(admitted, Wait):
            return 0
        self.shares.take([LANE_PACKET], self.mono, lane=lane)
        self.gone.append((self.mono, device, [LANE_PACKET]))
        return admitted

    def ends_stream(self, device):
        self.shares.close_lane(("lane", device), self.mono)

    def kill(self):
        """All memory is lost; what the database knew comes back."""
        limits = self.in_force[-1][1]
        known = {device: when for when, device, _ in self.gone if self.mono - when < LEASE_S and when < self.mono - 1.0}
        self.shares = FairShares(limits, lease_s=LEASE_S, mono=self.mono, packet_max_bytes=LARGEST)
        for device, when in sorted(known.items(), key=lambda item: item[1]):
            self.shares.seed(device, when)

    def change(self, limits):
        if limits.are_any:
            self.shares.change(limits, self.mono)
            self.in_force.append((self.mono, limits))

    def highest(self, name, since, until):
        """The highest of these caps that was in force at any time in between."""
        ends = [*(when for when, _ in self.in_force[1:]), float("inf")]
        return max(
            getattr(limits, name) or NONE
            for (begin, limits), end in zip(self.in_force, ends, strict=True)
            if begin <= until and end > since
        )

    def check(self):
        """No window of a second shows more than the highest cap in force within it."""
        window, devices, blocks, size = deque(), Counter(), 0, 0
        for when, device, sizes in self.gone:
            window.append((when, device, sizes))
            devices[device] += 1
            blocks, size = blocks + len(sizes), size + sum(sizes)
            while window[0][0] <= when - 1.0:
                _, past, old = window.popleft()
                devices -= Counter([past])
                blocks, size = blocks - len(old), size - sum(old)
            assert blocks <= self.highest("blocks_per_s", when - 1.0, when)
            assert size <= self.highest("bytes_per_s", when - 1.0, when)
            assert len(devices) <= self.highest("downloads", when - 1.0, when)


LIMITS = st.builds(
    Limits,
    blocks_per_s=st.sampled_from([0, 0, 1, 5, 20]),
    bytes_per_s=st.sampled_from([0, 0, 4_096, 10_000]),
    downloads=st.sampled_from([0, 0, 1, 2, 4]),
)
TIMES = st.sampled_from([0.0, 0.0, 0.0, 0.003, 0.1, 0.4, 0.95, 0.98, 1.0, 1.3, 2.0, 7.0])
ASKS = st.tuples(st.just("ask"), st.integers(0, 7), st.lists(st.integers(1, 3_000), min_size=1, max_size=6))
STEPS = st.one_of(
    ASKS,
    ASKS,
    ASKS,
    st.tuples(st.just("streams"), st.integers(0, 7)),
    st.tuples(st.just("ends_stream"), st.integers(0, 7)),
    st.tuples(st.just("end"), st.integers(0, 7)),
    st.tuples(st.just("change"), LIMITS),
    st.tuples(st.just("kill")),
)


@settings(max_examples=300, deadline=None)
@given(limits=LIMITS.filter(lambda limits: limits.are_any), steps=st.lists(st.tuples(TIMES, STEPS), max_size=80))
@example(  # those who lost their slots and those who got them anew, within one second
    limits=Limits(downloads=2),
    steps=[
        (0.0, ("ask", 0, [1])),
        (0.0, ("ask", 1, [1])),
        (0.1, ("change", Limits(downloads=1))),
        (0.1, ("change", Limits(downloads=2))),
        (0.1, ("ask", 2, [1])),
        (0.1, ("ask", 0, [1])),
    ],
)
@example(  # a lane, and others who take all that is left beside it
    limits=Limits(blocks_per_s=20),
    steps=[
        (0.0, ("streams", 0)),
        *[(0.0, ("ask", 1, [1] * 5))] * 4,
        *[(0.3, ("streams", 0))] * 3,
    ],
)
def test_no_second_ever_shows_more_than_the_caps_whatever_comes(limits, steps):
    outside = Outside(limits)
    outside.mono = 2.0
    for after_s, (what, *arguments) in steps:
        outside.mono += after_s
        if what == "end":
            outside.shares.end(arguments[0], outside.mono)
        else:
            getattr(outside, what)(*arguments)
    outside.check()


@pytest.mark.parametrize("seed", range(6))
def test_no_second_ever_shows_more_than_the_caps_in_a_crowd(seed):
    rng = random.Random(seed)
    print("seed", seed)
    outside = Outside(Limits(blocks_per_s=50, bytes_per_s=100_000, downloads=5))
    for _ in range(20_000):
        outside.mono += rng.expovariate(400)
        if rng.random() < 0.0005:
            outside.kill()
        if rng.random() < 0.001:
            outside.change(
                Limits(blocks_per_s=rng.randint(20, 60), bytes_per_s=100_000, downloads=rng.choice([2, 5, 8]))
            )
        if rng.random() < 0.002:
            outside.shares.end(rng.randrange(40), outside.mono)
        if rng.random() < 0.3:
            outside.streams(rng.randrange(5))
        if rng.random() < 0.003:
            outside.ends_stream(rng.randrange(5))
        outside.ask(rng.randrange(40), [rng.randint(1, 4_000)] * rng.randint(1, 16))
    outside.check()
    assert len(outside.gone) > 100


# --- blocks and bytes ----------------------------------------------------------------------------------------


def test_a_full_share_is_used():
    outside = Outside(Limits(blocks_per_s=50), mono=-WINDOW_S)
    gone = 0
    for _ in range(10_000):
        outside.mono += 0.001
        gone += outside.ask(1, [10])
    assert 7 * 50 <= gone <= 50 * 10 / WINDOW_S


def test_what_a_new_cap_has_not_seen_counts_as_used_up():
    outside = Outside(Limits(blocks_per_s=50), mono=100.0)
    outside.mono += WINDOW_S - 0.02
    assert 0 == outside.ask(1, [10])
    outside.mono += 0.04
    assert 1 == outside.ask(1, [10])


def test_a_cap_that_is_raised_lets_more_through_at_once():
    outside = Outside(Limits(blocks_per_s=2))
    outside.mono = 10.0
    assert [2, 0] == [outside.ask(1, [10, 10]), outside.ask(1, [10, 10])]
    outside.change(Limits(blocks_per_s=4))
    assert 2 == outside.ask(1, [10, 10])


def test_a_cap_that_is_lowered_counts_what_has_gone():
    window = SlidingWindow(10, 0.0)
    window.take(8, 10.0)
    window.limit = 5
    assert -3 == window.left(10.5)
    assert 5 == window.left(10.0 + WINDOW_S + 0.02)


@pytest.mark.parametrize("late_s", [0.05, 0.1, 0.19])
def test_what_a_broker_delivers_late_and_then_at_once_shows_no_second_above_the_cap(late_s):
    window = SlidingWindow(10, 0.0)
    window.take(10, 10.0)  # seen outside at 10.0 + late_s, and what goes within a second of that is seen beside it
    assert 0 == window.left(10.0 + late_s + 1.0)


def test_more_than_a_whole_share_is_cut_to_it():
    outside = Outside(Limits(blocks_per_s=3, bytes_per_s=16_000))
    outside.mono = 10.0
    assert 3 == outside.ask(1, [10] * 9)
    outside.mono = 20.0
    assert 2 == outside.ask(1, [7_000] * 3)  # one part in sixteen is for refusals


def test_less_than_asked_for_is_not_given_piece_by_piece():
    outside = Outside(Limits(blocks_per_s=10))
    outside.mono = 10.0
    outside.ask(1, [10] * 7)
    assert isinstance(outside.shares.admit(2, [10] * 4, 10.0), Wait)


def test_nothing_is_counted_before_it_goes():
    outside = Outside(Limits(blocks_per_s=4))
    assert [4, 4, 4] == [outside.shares.admit(1, [10] * 4, 10.0) for _ in range(3)]


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        (Limits(blocks_per_s=4, bytes_per_s=1_000_000), Share.BLOCKS),
        (Limits(blocks_per_s=1000, bytes_per_s=5_000), Share.BYTES),
        (Limits(blocks_per_s=4), Share.BLOCKS),
        (Limits(bytes_per_s=5_000), Share.BYTES),
    ],
)
def test_who_waits_is_told_for_what(limits, share):
    outside = Outside(limits)
    outside.mono = 10.0
    outside.ask(1, [1_000] * 4)
    assert Wait(share, 1) == outside.shares.admit(2, [1_000] * 4, 10.0)


def test_refusals_have_a_part_of_the_bytes_and_no_more():
    shares = FairShares(Limits(bytes_per_s=16_000), lease_s=60, mono=0.0)
    assert not shares.may_tell(100, 0.5)
    assert [True] * 10 + [False] == [shares.may_tell(100, 10.0) for _ in range(11)]
    assert shares.may_tell(100, 10.0 + WINDOW_S + 0.02)
    assert FairShares(Limits(downloads=1), lease_s=60, mono=0.0).may_tell(100, 0.0)


def test_a_device_that_does_not_wait_gets_nothing_that_is_kept_for_one_that_does():
    outside = Outside(Limits(blocks_per_s=4))
    outside.mono = 10.0
    outside.ask("greedy", [1] * 4)
    assert 0 == outside.ask("honest", [1] * 4)
    outside.mono += WINDOW_S + 0.02
    assert 0 == outside.ask("greedy", [1] * 4)
    assert 4 == outside.ask("honest", [1] * 4)


# --- lanes ---------------------------------------------------------------------------------------------------


def lanes_of(limits, number, *, mono=10.0, packet=LANE_PACKET):
    outside = Outside(limits)
    outside.mono = mono
    return outside, [outside.shares.open_lane(one, one, packet, mono) for one in range(number)]


def test_in_a_lane_one_packet_goes_at_each_step_whatever_the_others_take():
    outside, opened = lanes_of(Limits(bytes_per_s=20_000), 1)
    assert [None] == opened
    gaps, last = [], outside.mono
    while outside.mono < 30.0:
        while outside.ask("greedy", [1_000]):
            pass
        if outside.streams(0):
            gaps.append(outside.mono - last)
            last = outside.mono
        outside.mono += 0.01
    assert max(gaps[2:]) <= LANE_STEP_S + 0.02
    assert 20.0 / (LANE_STEP_S + 0.01) - 3 <= len(gaps) <= 20.0 / LANE_STEP_S + 1
    outside.check()


def test_lanes_take_at_most_half_and_the_next_waits_until_one_is_closed():
    limits = Limits(blocks_per_s=32)
    outside, opened = lanes_of(limits, 3)
    assert [None, None] == opened[:2]
    assert isinstance(opened[2], Wait)
    outside.shares.close_lane(0, 10.0)
    assert None is outside.shares.open_lane(2, 2, LANE_PACKET, 10.1)
    assert [False, True, True] == [outside.shares.has_lane(one) for one in range(3)]


@pytest.mark.parametrize(
    "limits",
    [
        Limits(blocks_per_s=13),
        Limits(bytes_per_s=4_400),  # two lanes would be more than what there is without the part for refusals
        Limits(downloads=3),
    ],
)
def test_where_caps_are_too_small_or_no_rates_are_capped_there_is_no_lane_and_nobody_waits_for_one(limits):
    outside, opened = lanes_of(limits, 1)
    assert [None] == opened
    assert not outside.shares.has_lane(0)


def test_lanes_leave_the_largest_packet_its_room():
    shares = FairShares(Limits(bytes_per_s=20_000), lease_s=60, mono=0.0, packet_max_bytes=17_000)
    assert None is shares.open_lane("lane", "d", LANE_PACKET, 10.0)
    assert not shares.has_lane("lane")
    assert 1 == shares.admit("other", [17_000], 10.0)


def test_a_lane_is_not_opened_before_those_who_wait_have_had_their_turn():
    outside, _ = lanes_of(Limits(blocks_per_s=20), 0)
    outside.ask("greedy", [1] * 20)
    assert 0 == outside.ask("honest", [1] * 18)
    late_mono = 10.0 + WINDOW_S + 0.02
    assert Wait(Share.BLOCKS, 1) == outside.shares.open_lane("lane", "stream", LANE_PACKET, late_mono)
    outside.mono = late_mono
    assert 18 == outside.ask("honest", [1] * 18)


def test_what_a_lane_was_counts_as_used_when_it_is_closed():
    outside, _ = lanes_of(Limits(blocks_per_s=20), 1)
    outside.shares.close_lane(0, 10.0)
    assert [0, 13] == [outside.ask("other", [1] * 14), outside.ask("other", [1] * 13)]


def test_a_change_of_the_caps_closes_all_lanes_and_counts_them_as_used():
    outside, opened = lanes_of(Limits(blocks_per_s=28), 2)
    assert [None, None] == opened
    outside.change(Limits(blocks_per_s=20))
    assert [False, False] == [outside.shares.has_lane(one) for one in range(2)]
    assert 0 == outside.ask("other", [1] * 7)
    assert 6 == outside.ask("other", [1] * 6)


def test_a_lane_needs_a_slot_too():
    outside, _ = lanes_of(Limits(blocks_per_s=50, downloads=1), 0)
    assert 1 == outside.ask("other", [1])
    assert Wait(Share.SLOT, 1) == outside.shares.open_lane("lane", 0, LANE_PACKET, 10.0)
    assert not outside.shares.has_lane("lane")
    assert 43 == outside.ask("other", [1] * 43)


def test_an_even_part_is_what_each_stream_may_send_at_a_step():
    outside, _ = lanes_of(Limits(blocks_per_s=70, bytes_per_s=74_666), 2)
    assert [(10, 10_000), (10, 10_000), (5, 5_000)] == [outside.shares.even(streams) for streams in (0, 1, 2)]
    assert (None, None) == FairShares(Limits(downloads=1), lease_s=60, mono=0.0).even(1)


# --- slots ---------------------------------------------------------------------------------------------------


def slots(number, mono=10.0):
    """So many slots, none of them taken, some time after the start."""
    outside = Outside(Limits(downloads=number))
    outside.mono = mono
    return outside


def test_after_a_start_no_slot_is_given_until_no_second_shows_what_was_before():
    outside = Outside(Limits(downloads=1))
    outside.shares.seed("a", -1.0)
    assert Wait(Share.SLOT, 2) == outside.shares.admit("a", [1], 0.0)
    outside.mono = REST_S
    assert [0, 1] == [outside.ask(device, [1]) for device in "ba"]


def test_a_lease_ends_when_its_device_asks_no_more():
    outside = slots(1)
    assert 1 == outside.ask("a", [1])
    outside.mono += LEASE_S - 0.1
    assert [1, 0] == [outside.ask("a", [1]), outside.ask("b", [1])]
    outside.mono += LEASE_S
    assert [1, 0] == [outside.ask("b", [1]), outside.ask("a", [1])]
    assert Usage(slots_held=1, waiting_for_slot=1) == outside.shares.usage(outside.mono)


def test_a_device_that_has_a_slot_and_waits_for_its_share_as_it_was_told_keeps_the_slot():
    outside = Outside(Limits(blocks_per_s=1, downloads=100))
    outside.mono = 10.0
    assert 1 == outside.ask("first", [1])
    waits = [outside.shares.admit(number, [1], outside.mono) for number in range(99)]
    assert {Share.BLOCKS} == {wait.share for wait in waits}
    assert 1.5 * max(wait.retry_after_s for wait in waits) < LEASE_S
    outside.mono += LEASE_S - 0.1
    outside.shares.admit(98, [1], outside.mono)
    outside.mono += 0.2
    assert 1 == outside.shares.usage(outside.mono).slots_held


def test_a_slot_that_was_given_back_rests_before_another_device_has_it():
    outside = slots(1)
    outside.ask("a", [1])
    outside.shares.end("a", outside.mono)
    assert 0 == outside.shares.usage(outside.mono).slots_held
    outside.mono += REST_S - 0.1
    assert 0 == outside.ask("b", [1])
    outside.mono += 0.1
    assert 1 == outside.ask("b", [1])


def test_its_own_device_may_have_it_again_at_once():
    outside = slots(1)
    outside.ask("a", [1])
    outside.shares.end("a", outside.mono)
    assert 1 == outside.ask("a", [1])


def test_when_the_slots_become_fewer_the_youngest_downloads_lose_theirs_at_once():
    outside = slots(3)
    for device in "abc":
        outside.mono += 0.1
        outside.ask(device, [1])
    outside.ask("a", [1])
    outside.change(Limits(downloads=1))
    assert [1, 0, 0] == [outside.ask(device, [1]) for device in "abc"]


def test_when_the_slots_become_more_they_are_given_at_once():
    outside = slots(1)
    assert [1, 0] == [outside.ask(device, [1]) for device in "ab"]
    outside.change(Limits(downloads=2))
    assert 1 == outside.ask("b", [1])


def test_of_the_downloads_that_were_under_way_the_latest_keep_their_slots():
    outside = Outside(Limits(downloads=2), mono=100.0)
    for device, last_mono in (("a", 97.0), ("b", 98.0), ("c", 99.0)):
        outside.shares.seed(device, last_mono)
    outside.mono += REST_S
    assert [0, 1, 1] == [outside.ask(device, [1]) for device in "abc"]


def test_a_slot_that_has_just_become_free_is_for_those_in_front():
    outside = slots(1)
    outside.ask("a", [1])
    told = [outside.shares.admit(device, [1], outside.mono).retry_after_s for device in "bcdef"]
    assert told == sorted(told)
    assert told[0] < 3 < told[-1]
    outside.shares.end("a", outside.mono)
    outside.mono += REST_S
    assert [0, 0, 1] == [outside.ask(device, [1]) for device in ("new", "f", "b")]


def test_a_slot_that_nobody_in_front_takes_is_for_whoever_asks():
    outside = slots(1)
    outside.ask("a", [1])
    for device in "bcdef":
        outside.ask(device, [1])
    outside.mono += LEASE_S + PATIENCE_MAX_S
    assert 1 == outside.ask("new", [1])


@pytest.mark.parametrize(("hold_s", "low_s", "high_s"), [(1.0, 2, 3), (40.0, 35, 50)])
def test_the_times_that_are_told_follow_how_long_downloads_last(hold_s, low_s, high_s):
    outside = slots(1)
    for number in range(30):
        until = outside.mono + hold_s
        while outside.mono < until:
            assert 1 == outside.ask(number, [1])
            outside.mono += 1.0
        outside.shares.end(number, outside.mono)
        outside.mono += REST_S
    outside.ask("a", [1])
    told = [outside.shares.admit(device, [1], outside.mono).retry_after_s for device in "bcd"]
    assert low_s <= told[2] <= high_s


# --- a fleet -------------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Devices in virtual time that obey what they are told, with the jitter that the protocol asks for."""

    limits: Limits
    devices: int
    requests: int
    pace_s: float
    blocks: int = 4
    seed: int = 1
    refusals: int = 0
    longest_s: float = 0.0
    came: dict = field(default_factory=dict)
    began: dict = field(default_factory=dict)
    ended: dict = field(default_factory=dict)
    told: list = field(default_factory=list)

    def run(self):
        rng = random.Random(self.seed)
        outside = Outside(self.limits, lease_s=60.0)
        left, last = [self.requests] * self.devices, {}
        events = [(2 + rng.uniform(0, 0.5), device) for device in range(self.devices)]
        heapq.heapify(events)
        while events:
            mono, device = heapq.heappop(events)
            outside.mono = mono
            self.came.setdefault(device, len(self.came))
            admitted = outside.shares.admit(device, [1000] * self.blocks, mono)
            if isinstance(admitted, Wait):
                self.refusals += 1
                self.told.append((mono, admitted.retry_after_s))
                heapq.heappush(events, (mono + admitted.retry_after_s * rng.uniform(1.0, 1.5), device))
                continue
            outside.shares.take([1000] * admitted, mono)
            outside.gone.append((mono, device, [1000] * admitted))
            self.longest_s = max(self.longest_s, mono - last.get(device, 2.0))
            last[device] = mono
            self.began.setdefault(device, len(self.began))
            left[device] -= 1
            if left[device]:
                heapq.heappush(events, (mono + self.pace_s * rng.uniform(0.8, 1.2), device))
            else:
                self.ended[device] = mono
                outside.shares.end(device, mono)
        outside.check()
        return self

    @property
    def out_of_turn(self):
        """By how many places a device began sooner or later than it came, on average."""
        return mean(abs(self.began[device] - place) for device, place in self.came.items())


def test_five_hundred_devices_share_fifty_slots_and_all_arrive_in_about_the_order_they_came():
    crowd = Crowd(Limits(downloads=50), devices=500, requests=100, pace_s=0.1).run()
    assert 500 == len(crowd.ended)
    assert crowd.out_of_turn <= 50  # of 500
    assert crowd.refusals <= 500 * 8
    ideal_s = 500 / 50 * (100 * 0.1 + REST_S)
    assert max(crowd.ended.values()) <= 1.5 * ideal_s


@pytest.mark.parametrize("limits", [Limits(blocks_per_s=50), Limits(bytes_per_s=64_000)])
def test_a_hundred_devices_share_a_rate_and_none_is_left_behind(limits):
    crowd = Crowd(limits, devices=100, requests=12, pace_s=0.005).run()
    assert 100 == len(crowd.ended)
    a_round_s = 100 * 4 / 50
    assert crowd.longest_s <= 6 * a_round_s
    assert max(crowd.ended.values()) <= 2 * 12 * a_round_s
    assert min(crowd.ended.values()) >= 0.4 * max(crowd.ended.values())


def test_all_caps_together_let_everyone_arrive():
    limits = Limits(blocks_per_s=500, bytes_per_s=300_000, downloads=20)
    assert 100 == len(Crowd(limits, devices=100, requests=10, pace_s=0.05).run().ended)


def test_the_waiters_do_not_come_back_together():
    crowd = Crowd(Limits(downloads=10), devices=400, requests=50, pace_s=1.0).run()
    first = [retry_after_s for mono, retry_after_s in crowd.told if mono < 2.5]
    assert len(set(first)) >= 50
    by_second = Counter(int(mono) for mono, _ in crowd.told if mono > 10)
    assert max(by_second.values()) <= 40


# --- what can be capped --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"blocks_per_s": -1}, {"bytes_per_s": 4_095}, {"downloads": -5}, {"blocks_per_s": 10**13}]
)
def test_a_cap_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidInput, match="allowed is 0"):
        Limits(**wrong)
