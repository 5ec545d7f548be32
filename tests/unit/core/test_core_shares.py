"""Fleet-wide caps against what somebody outside counts."""

import random

import pytest

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.shares import WAIT_MAX_S, WINDOW_S, FairShares, WaitingLine
from ota_bridge.core.values import Limits


def most_in_a_second(events):
    """The largest sum of units in any window of one second."""
    most = used = first = 0
    for when, units in events:
        used += units
        while events[first][0] <= when - 1.0:
            used -= events[first][1]
            first += 1
        most = max(most, used)
    return most


@pytest.mark.parametrize("seed", range(20))
def test_no_second_ever_shows_more_than_the_caps_across_restarts_and_changes(seed):
    rng = random.Random(seed)
    print("seed", seed)
    limits, mono = Limits(blocks_per_s=50, bytes_per_s=100_000, downloads=5), 0.0
    shares = FairShares(limits, lease_s=3.0, mono=mono)
    gone = []
    for _ in range(20_000):
        mono += rng.expovariate(400)
        if rng.random() < 0.0005:  # a kill: all memory is lost
            shares = FairShares(limits, lease_s=3.0, mono=mono)
        if rng.random() < 0.0005:  # a change to other caps that are no higher
            lower = Limits(blocks_per_s=rng.randint(20, 50), bytes_per_s=100_000, downloads=rng.randint(2, 5))
            shares = FairShares(lower, lease_s=3.0, mono=mono, before=shares)
        sizes = [rng.randint(1, 4_000) for _ in range(rng.randint(1, 16))]
        device = rng.randrange(40)
        count, retry_after_s = shares.admit(device, sizes, mono)
        assert (count == 0) is (1 <= retry_after_s <= WAIT_MAX_S + 1)
        if count:
            gone.append((mono, device, sizes[:count]))
    assert most_in_a_second([(when, len(sizes)) for when, _, sizes in gone]) <= 50
    assert most_in_a_second([(when, sum(sizes)) for when, _, sizes in gone]) <= 100_000
    for index, (when, _, _) in enumerate(gone):
        in_window = {device for at, device, _ in gone[max(0, index - 60) : index + 1] if at > when - 1.0}
        assert len(in_window) <= 5
    assert len(gone) > 100


def test_a_full_share_is_used():
    shares = FairShares(Limits(blocks_per_s=50), lease_s=60, mono=0.0)
    gone = sum(shares.admit(1, [10], 2 + tick / 1000)[0] for tick in range(11_000))
    assert 50 * 10 <= gone <= 50 * 11


def test_after_a_start_nothing_passes_for_a_window():
    shares = FairShares(Limits(blocks_per_s=50), lease_s=60, mono=100.0)
    assert (0, 1) == shares.admit(1, [10], 100.0 + WINDOW_S - 0.02)
    assert (1, 0) == shares.admit(1, [10], 100.0 + WINDOW_S + 0.02)


def test_a_lease_ends_when_its_device_asks_no_more():
    shares = FairShares(Limits(downloads=1), lease_s=5, mono=0.0)
    assert (1, 0) == shares.admit("a", [1], 10.0)
    assert 0 == shares.admit("b", [1], 14.9)[0]
    assert (1, 0) == shares.admit("b", [1], 15.0)
    assert 0 == shares.admit("a", [1], 15.1)[0]
    assert 1 == shares.downloads(15.1)


def test_when_the_slots_become_fewer_the_latest_lose_theirs_at_once():
    shares = FairShares(Limits(downloads=3), lease_s=60, mono=0.0)
    for device in "abc":
        shares.admit(device, [1], 10.0)
    fewer = FairShares(Limits(downloads=1), lease_s=60, mono=10.0, before=shares)
    assert [1, 0, 0] == [fewer.admit(device, [1], 10.1)[0] for device in "abc"]


def test_waiters_are_spread_over_the_time_it_takes_to_serve_them():
    line = WaitingLine()
    waits = [line.ticket(1 / 10, 5.0) for _ in range(600)]
    assert waits == sorted(waits)
    assert 60 <= max(waits) <= 61
    assert max(waits.count(wait) for wait in set(waits)) <= 11


def test_no_wait_is_longer_than_the_longest():
    line = WaitingLine()
    assert max(line.ticket(1.0, 0.0) for _ in range(2_000)) <= WAIT_MAX_S


@pytest.mark.parametrize(
    "wrong", [{"blocks_per_s": -1}, {"bytes_per_s": 65_535}, {"downloads": -5}, {"blocks_per_s": 10**13}]
)
def test_a_cap_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidInput, match="allowed is 0"):
        Limits(**wrong)
