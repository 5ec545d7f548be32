"""When a link pings and when it gives up, by the clock in the call; what opening a connection says goes wrong."""

import asyncio

import pytest

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt.opening import KeepAlive, open_connection
from ota_bridge.wire import BrokerAddress

KEEPALIVE_S = 30


@pytest.fixture
def alive():
    return KeepAlive(KEEPALIVE_S, 0.0)


@pytest.mark.parametrize(("now_s", "expected"), [(0, False), (14.9, False), (15, True)])
def test_a_ping_is_due_after_half_a_keep_alive_of_silence(alive, now_s, expected):
    assert expected is alive.look(now_s, 0, may_ping=True)


def test_who_only_sends_pings_too_for_the_broker_might_be_gone(alive):
    alive.sent_s = 14.0
    assert alive.look(15.0, 0, may_ping=True)


def test_one_ping_is_enough_until_it_is_answered(alive):
    assert alive.look(15.0, 0, may_ping=True)
    assert not alive.look(22.0, 0, may_ping=True)
    alive.heard_s, alive.pinged_s, alive.sent_s = 23.0, None, 23.0
    assert not alive.look(30.0, 0, may_ping=True)
    assert alive.look(38.0, 0, may_ping=True)


def test_a_silent_broker_is_given_up_after_one_and_a_half_keep_alives(alive):
    assert alive.look(15.0, 0, may_ping=True)
    assert not alive.look(44.0, 0, may_ping=True)
    with pytest.raises(BrokerError, match="silent for 45 s"):
        alive.look(45.0, 0, may_ping=True)


def test_after_a_stall_of_this_process_the_ping_gets_its_time_first(alive):
    assert alive.look(600.0, 0, may_ping=True)
    assert not alive.look(614.0, 0, may_ping=True)
    with pytest.raises(BrokerError, match="silent"):
        alive.look(615.0, 0, may_ping=True)


def test_a_broker_that_takes_nothing_is_given_up_and_one_that_takes_a_little_is_not(alive):
    for now_s, unsent_bytes in [(10, 500), (40, 400), (70, 300)]:
        assert not alive.look(now_s, unsent_bytes, may_ping=False)
    assert not alive.look(100, 300, may_ping=False)
    with pytest.raises(BrokerError, match="taken nothing for 45 s"):
        alive.look(115, 300, may_ping=False)


def test_who_may_not_ping_does_not(alive):
    assert not alive.look(20.0, 1, may_ping=False)


async def test_a_refusal_is_said_as_the_system_says_it():
    with pytest.raises(BrokerError, match=r"^cannot connect to mqtt://127.0.0.1:1: Connection refused$"):
        await open_connection(asyncio.Protocol, BrokerAddress(host="127.0.0.1", port=1))
