"""The block plane in one process: what it is told, and what it tells."""

import asyncio
import contextlib

import msgpack
from core_world import World

from ota_bridge import block_plane
from ota_bridge.block_gateway import BlockGateway
from ota_bridge.block_plane import LocalPlane
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.messages import BlockActivity, GrantsChanged, GrantState
from ota_bridge.core.shares import Usage
from ota_bridge.core.values import Limits
from ota_bridge.dialects.native import NativeDialect


class Listener:
    def __init__(self):
        self.served, self.states = [], []

    async def load(self):
        raise AssertionError("nobody asked for it")

    def on_served(self, served):
        self.served += served

    def set_plane(self, *, blocks):
        self.states.append(blocks)


def granted():
    """A plane with one device that may fetch, and a way to ask it."""
    world, listener = World(), Listener()
    world.release()
    world.rollout()
    world.device()
    plane = LocalPlane(world.server, listener=listener, wall=lambda: world.wall, mono=lambda: world.mono)
    gateway = BlockGateway(world.server, NativeDialect("$ota"))
    name = next(iter(world.facts.values())).sha256[:8]

    def ask():
        out = []
        gateway.handle(b"$ota/get/prod/d1", msgpack.packb([name, 0, 1000, 2]), world.mono, out)
        return out

    return world, plane, listener, ask


def test_what_was_served_is_told_once():
    _, plane, listener, ask = granted()
    ask()
    plane.tell()
    plane.tell()
    assert [(2000, 2)] == [(one.bytes_sent, one.blocks_sent) for one in listener.served]
    assert 2 == plane.counters.served.blocks


def test_a_hold_holds_at_once_and_ends_with_none():
    world, plane, _, ask = granted()
    rollout = world.server.client(next(iter(world.server._clients))).grants[0].rollout
    plane.hold(rollout, GrantState.PAUSED)
    refused = b"".join(ask())
    assert refused.endswith(msgpack.packb(16_384) + msgpack.packb(16))
    assert 1 == plane.counters.served.refused[BlockRefusal.PAUSED]
    plane.hold(rollout, None)
    ask()
    assert 2 == plane.counters.served.blocks


def test_grants_are_replaced_and_an_unopened_table_is_busy():
    world, plane, _, ask = granted()
    plane.apply(GrantsChanged(device=next(iter(world.server._clients)), grants=()))
    ask()
    world.server.is_loaded = False
    ask()
    plane.open()
    ask()
    assert {BlockRefusal.NOT_OPEN: 2, BlockRefusal.BUSY: 1} == plane.counters.served.refused


def test_limits_hold_at_once_and_how_they_are_used_is_told():
    world, plane, _, ask = granted()
    plane.set_limits(Limits(downloads=1))
    ask()
    world.jump(10)
    ask()
    assert {BlockRefusal.BUSY: 1} == plane.counters.served.refused
    assert Usage(slots_held=1) == plane.counters.usage


async def test_it_tells_while_it_runs_and_once_more_at_its_end(monkeypatch):
    monkeypatch.setattr(block_plane, "TELL_S", 0.001)
    _, plane, listener, ask = granted()
    running = asyncio.create_task(plane.run())
    ask()
    async with asyncio.timeout(10):
        while not listener.served:
            await asyncio.sleep(0)
    monkeypatch.setattr(block_plane, "TELL_S", 1000)
    await asyncio.sleep(0.005)
    ask()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert 2 == len([one for one in listener.served if isinstance(one, BlockActivity)])


def test_a_damaged_artifact_is_logged_once_for_each_time_it_is_met(caplog):
    world, plane, _, ask = granted()
    world.source.damaged = True
    ask()
    plane.tell()
    plane.tell()
    assert [
        "not what its name says: its devices are told busy until the file is back (release add, signed as it was)"
    ] == [record.message for record in caplog.records]
