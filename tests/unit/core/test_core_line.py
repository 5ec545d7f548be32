"""The line of those who wait: places, times to come back, and what is kept for whom."""

import pytest

from ota_bridge.core.line import AT_HAND_S, KEPT_FOR_S, WaitingLine


@pytest.fixture
def line():
    return WaitingLine(100.0)


def test_each_is_told_about_half_of_what_those_before_it_will_take(line):
    assert [1, 5, 10, 15, 20] == [line.wait(name, 1, 10.0, 0.0) for name in "abcde"]


def test_one_that_asks_again_keeps_its_place(line):
    for name in "abc":
        line.wait(name, 1, 10.0, 0.0)
    assert [5, 10] == [line.wait(name, 1, 10.0, 3.0) for name in "bc"]
    assert [0, 1, 2] == [line.ahead(name) for name in "abc"]


def test_one_that_comes_late_keeps_its_place(line):
    for name in "abc":
        line.wait(name, 1, 10.0, 0.0)  # told 1, 5, 10
    line.wait("c", 1, 10.0, 10.0)
    line.wait("b", 1, 10.0, 11.0)
    assert [0, 1] == [line.ahead(name) for name in "bc"]


def test_one_that_comes_far_too_late_has_lost_its_place(line):
    for name in "abc":
        line.wait(name, 1, 10.0, 0.0)
    line.wait("c", 1, 10.0, 10.0)
    line.wait("b", 1, 10.0, 13.0)
    assert [1, 0] == [line.ahead(name) for name in "bc"]
    assert 0 == line.waiting(500.0)


def test_who_is_served_makes_those_behind_come_nearer(line):
    for name in "abc":
        line.wait(name, 1, 10.0, 0.0)
    line.leave("a")
    line.leave("a")
    assert [0, 1] == [line.ahead(name) for name in "bc"]
    assert 1 == line.wait("b", 1, 10.0, 1.0)


def test_one_that_has_just_come_stands_behind_all(line):
    for name in "abc":
        line.wait(name, 1, 1.0, 0.0)
    assert 3 == line.ahead("new")


def test_what_is_free_is_kept_for_those_at_hand(line):
    assert line.wait("a", 2, 0.1, 0.0) <= AT_HAND_S
    assert line.may_have("a", 2, 2, 1.0)
    assert not line.may_have("new", 1, 2, 1.0)
    assert line.may_have("new", 1, 3, 1.0)


def test_it_is_not_kept_for_ever(line):
    line.wait("a", 2, 0.1, 0.0)
    assert line.may_have("new", 1, 2, KEPT_FOR_S)


def test_it_is_not_kept_for_one_that_was_told_to_stay_away(line):
    line.wait("a", 1, 10.0, 0.0)
    assert line.wait("b", 1, 10.0, 0.0) > AT_HAND_S
    assert not line.is_at_hand("b")
    assert line.may_have("new", 1, 2, 1.0)


def test_it_is_not_kept_for_one_that_stands_far_back_and_comes_soon_all_the_same():
    line = WaitingLine(2.0)
    for number in range(50):
        assert line.wait(number, 1, 1.0, 0.0) <= AT_HAND_S
    assert 5 == sum(line.is_at_hand(number) for number in range(50))


def test_nothing_is_kept_once_it_was_had(line):
    line.wait("a", 2, 0.1, 0.0)
    line.leave("a")
    assert line.may_have("new", 1, 1, 0.5)


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.7])
def test_parts_of_a_share_add_up_and_leave_no_rest(line, share):
    for _ in range(1000):
        for name in "abc":
            line.wait(name, share, 0.1, 0.0)
        for name in "abc":
            line.leave(name)
    assert line.may_have("new", 1.0, 1.0, 0.0)


def test_those_who_stand_too_far_back_come_before_the_longest_time_and_not_together(line):
    told = [line.wait(number, 1, 10.0, 0.0) for number in range(1000)][100:]
    assert 50 <= min(told) <= max(told) <= 100
    assert max(told.count(wait) for wait in set(told)) <= 2 * len(told) / 50
