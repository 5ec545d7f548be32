"""Downloads share what the site carries, and none gets more than its own pace."""

import random
from math import inf

import pytest

from ota_bridge.rehearsal.flows import Flows


def ends(flows):
    """When each is whole."""
    found = {}
    while (at_s := flows.next_end_s()) < inf:
        found |= dict.fromkeys(flows.whole(at_s), round(at_s, 6))
    return found


def test_without_a_limit_each_has_its_own_pace():
    flows = Flows()
    flows.begin("a", 1000, 100, 0.0)
    flows.begin("b", 1000, 10, 5.0)
    assert {"a": 10.0, "b": 105.0} == ends(flows)


def test_those_who_cannot_use_their_part_leave_it_to_the_others():
    flows = Flows(110)
    flows.begin("slow", 100, 10, 0.0)
    flows.begin("fast", 500, 80, 0.0)
    flows.begin("other", 500, 80, 0.0)  # 50 each for the two
    assert {"slow": 10.0, "fast": 10.0, "other": 10.0} == ends(flows)


def test_who_is_left_alone_gets_faster():
    flows = Flows(100)
    flows.begin("a", 500, 100, 0.0)
    flows.begin("b", 1000, 100, 0.0)
    assert {"a": 10.0, "b": 15.0} == ends(flows)


def test_a_download_that_is_stopped_says_what_it_lacks_and_never_ends():
    flows = Flows()
    flows.begin("a", 1000, 100, 0.0)
    flows.begin("b", 1000, 100, 0.0)
    assert 600.0 == pytest.approx(flows.stop("a", 4.0))
    assert 0.0 == flows.stop("a", 4.0)
    assert {"b": 10.0} == ends(flows)
    flows.begin("a", 600, 100, 20.0)
    assert {"a": 26.0} == ends(flows)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_told_is_what_was_asked_for_and_never_above_the_capacity(seed):
    chance, told = random.Random(seed), []
    flows = Flows(300.0, lambda begin, end, rate: told.append((begin, end, rate)))
    at_s, lacking, whole = 0.0, 0.0, 0.0
    for number in range(60):
        at_s += chance.random() * 3
        while flows.next_end_s() <= at_s:
            flows.whole(flows.next_end_s())
        size = chance.randrange(50, 900)
        flows.begin(number, size, chance.choice((20.0, 50.0, 200.0)), at_s)
        whole += size
        if chance.random() < 0.2:
            lacking += flows.stop(chance.randrange(number + 1), at_s)
    ends(flows)
    assert 0 == len(flows)
    assert all(rate <= 300.0 + 1e-9 for _, _, rate in told)
    assert whole - lacking == pytest.approx(sum((end - begin) * rate for begin, end, rate in told), rel=1e-6)
