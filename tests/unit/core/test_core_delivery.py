"""When a deployment has to be looked at again: the table of deadlines."""

import pytest
from test_core_deployment import deployment

from ota_bridge.core.delivery import Due, Pacing, is_served
from ota_bridge.core.deployment import FETCHING, State


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": State.QUEUED, "created_wall": 3.0}, (2.0, Due.OFFER)),
        ({"state": State.QUEUED, "retry_wall": 90.0}, (90.0, Due.OFFER)),
        ({"state": State.OFFERED, "offered_wall": 100.0}, (160.0, Due.OFFER)),
        ({"state": State.OFFERED, "offered_wall": 100.0, "resent": True}, (2.0 + 604_800, Due.TIME_OUT)),
        ({"state": State.OFFERED, "offered_wall": 100.0, "retry_wall": 120.0}, (120.0, Due.OFFER)),
        ({"state": State.DEFERRED, "retry_wall": 500.0}, (500.0, Due.OFFER)),
        ({"state": State.DEFERRED}, (62.0, Due.OFFER)),
        ({"state": State.DOWNLOADING, "last_block_wall": 100.0}, (160.0, Due.STALL)),
        ({"state": State.DOWNLOADING}, (62.0, Due.STALL)),
        ({"state": State.DOWNLOADING, "last_block_wall": 100.0, "stalled": True}, (86_500.0, Due.TIME_OUT)),
        ({"state": State.DOWNLOADING, "last_block_wall": 100.0, "offered_wall": 200.0}, (260.0, Due.OFFER)),
        (
            {"state": State.DOWNLOADING, "last_block_wall": 100.0, "offered_wall": 200.0, "resent": True},
            (160.0, Due.STALL),
        ),
        ({"state": State.DOWNLOADED}, (86_402.0, Due.TIME_OUT)),
        ({"state": State.INSTALLING}, (3_602.0, Due.TIME_OUT)),
        ({"state": State.INSTALLING, "retry_wall": 9.0}, (3_602.0, Due.TIME_OUT)),
        ({"state": State.TRIAL}, (3_602.0, Due.TIME_OUT)),
        ({"state": State.CANCELING}, (86_402.0, Due.TIME_OUT)),
        ({"state": State.CONFIRMED}, None),
        ({"state": State.FAILED}, None),
    ],
)
def test_what_a_deployment_needs_next(changes, expected):
    assert expected == Pacing().next_due(deployment(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": State.OFFERED, "offered_wall": 2.0}, (22.0, Due.TIME_OUT)),
        ({"state": State.OFFERED, "offered_wall": 2.0, "resent": True}, (22.0, Due.TIME_OUT)),
        ({"state": State.DOWNLOADING, "last_block_wall": 100.0}, (115.0, Due.TIME_OUT)),
        ({"state": State.DOWNLOADING, "last_block_wall": 100.0, "stalled": True}, (115.0, Due.TIME_OUT)),
        ({"state": State.DOWNLOADING, "last_block_wall": 100.0, "offered_wall": 105.0}, (115.0, Due.TIME_OUT)),
    ],
)
def test_a_time_out_that_is_shorter_than_the_wait_before_it_is_kept(changes, expected):
    assert expected == Pacing(offered_s=20, downloading_s=15).next_due(deployment(**changes))


def test_a_sleeper_that_is_waited_for_gets_its_second_notice_whatever_the_time_out():
    sleeper = deployment(state=State.OFFERED, offered_wall=100.0)
    assert (160.0, Due.OFFER) == Pacing(offered_s=20, sleepers_wait=True).next_due(sleeper)


@pytest.mark.parametrize(
    ("last", "now", "expected"), [(None, 5.0, 5.0), (0.0, 5.0, 30.0), (0.0, 50.0, 50.0), (100.0, 5.0, 5.0)]
)
def test_the_next_notice_is_thirty_seconds_after_the_last_unless_the_clock_went_back(last, now, expected):
    assert expected == Pacing().earliest_offer_wall(last, now)


@pytest.mark.parametrize("state", list(State))
def test_blocks_are_served_before_the_point_of_no_return(state):
    assert (state in FETCHING) is is_served(deployment(state))
