"""When a simulated device is STALE."""

from device_sim.freshness import Freshness


def switched_on(after_s=100.0):
    fresh = Freshness(after_s)
    fresh.began(0.0)
    return fresh


def test_it_is_stale_once_the_time_is_over_and_says_so_once():
    fresh = switched_on()
    assert [False, True, False] == [fresh.look(at_s) for at_s in (99.9, 100.0, 100.1)]
    assert (True, None, 130.0) == (fresh.stale, fresh.deadline_s(), fresh.without_s(130.0))


def test_a_restart_is_no_sign():
    fresh = switched_on()
    fresh.began(90.0)
    assert fresh.look(100.0)


def test_an_acknowledged_check_in_is_a_sign():
    fresh = switched_on()
    fresh.acknowledged(60.0)
    assert (False, 160.0) == (fresh.look(159.0), fresh.deadline_s())


def test_it_is_none_after_a_ticket_that_did_not_hold():
    fresh = switched_on()
    for at_s in (20.0, 60.0):
        fresh.failed()
        fresh.acknowledged(at_s)
    assert 100.0 == fresh.deadline_s()


def test_one_ticket_that_did_not_hold_does_not_spoil_the_check_ins_after_the_next():
    fresh = switched_on()
    fresh.failed()
    fresh.acknowledged(20.0)
    fresh.acknowledged(60.0)
    assert 160.0 == fresh.deadline_s()


def test_a_ticket_that_holds_ends_it():
    fresh = switched_on()
    fresh.failed()
    fresh.look(100.0)
    fresh.held(150.0)
    assert (False, 250.0) == (fresh.stale, fresh.deadline_s())


def test_before_it_was_switched_on_it_is_not_stale():
    assert (False, None, 0.0) == ((fresh := Freshness(1.0)).look(9.0), fresh.deadline_s(), fresh.without_s(9.0))
