"""A local reader of events: in order, of its device alone, and never more than so many behind."""

import asyncio

from ota_bridge import subscriber
from ota_bridge.core.messages import Event
from ota_bridge.core.values import DeviceId
from ota_bridge.subscriber import Subscriber


def event(kind, device="d1"):
    return Event(device=DeviceId("prod", device), wall=0.0, kind=kind, data={})


async def kinds(reader, count):
    async with asyncio.timeout(5):
        return [(await reader.next()).kind for _ in range(count)]


async def test_events_are_read_in_order_and_waited_for():
    reader = Subscriber(None)
    reading = asyncio.create_task(kinds(reader, 3))
    await asyncio.sleep(0)
    for kind in ("a", "b", "c"):
        reader.offer(event(kind, device=kind))
    assert ["a", "b", "c"] == await reading


async def test_who_asks_for_one_device_hears_of_no_other():
    reader = Subscriber(DeviceId("prod", "d1"))
    for device in ("d2", "d1", "d3"):
        reader.offer(event(device, device))
    reader.offer(event("last"))
    assert ["d1", "last"] == await kinds(reader, 2)


async def test_a_slow_reader_misses_the_oldest(monkeypatch):
    monkeypatch.setattr(subscriber, "EVENTS_MAX", 3)
    reader = Subscriber(None)
    for number in range(5):
        reader.offer(event(str(number)))
    assert ["2", "3", "4"] == await kinds(reader, 3)
