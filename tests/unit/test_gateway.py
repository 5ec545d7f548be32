"""The gateway over fakes: order of release, what happens when the store or the core fails, and the clock."""

import asyncio
import contextlib
import json
import logging

import msgpack
import pytest
from core_world import World

from ota_bridge import gateway
from ota_bridge.block_gateway import BlockGateway
from ota_bridge.block_plane import LocalPlane
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.errors import Conflict, Forbidden, InvalidInput, NotFound, StoreError
from ota_bridge.core.fleet import ReportLimit
from ota_bridge.core.messages import GrantsChanged, GrantState, LimitsChanged, RolloutHeld
from ota_bridge.core.people import Caller
from ota_bridge.core.shares import WINDOW_S, Wait
from ota_bridge.core.steering import holds
from ota_bridge.core.values import DeviceId, Limits, Share, StandingLimits
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.gateway import Gateway
from ota_bridge.mqtt.control import AckToken, Incoming
from ota_bridge.outlet import nothing
from ota_bridge.store.memory import MemoryStore
from ota_bridge.switch import Switch
from ota_bridge.wire import MqttMessage

NATIVE = NativeDialect("$ota")
ANN = Caller(user="ann")


class Wire:
    """A control link and the block table, both writing what happens into one list."""

    def __init__(self):
        self.log = []
        self.up = True
        self.queued = 0

    def publish(self, message):
        kind = message.topic.split("/")[1]
        body = json.loads(message.payload)
        self.log.append(body.get("type") if kind == "update" else kind)
        self.last = message
        return self.up

    def ack(self, token):
        self.log.append(f"puback {token.mid}")


class FaultyStore(MemoryStore):
    """A store that fails when it is told to, at once or at the commit."""

    def __init__(self, **options):
        super().__init__(**options)
        self.refuses = self.fails = 0
        self.committed_at = None
        self.commits = []

    def last_commit_wall(self):
        return self.committed_at

    def submit(self, work, on_done):
        if self.refuses:
            self.refuses -= 1
            raise StoreError("the queue is full")
        if self.fails:
            self.fails -= 1

            def failing(unit):
                raise StoreError("the disk is full")

            super().submit(failing, on_done)
            return
        super().submit(work, on_done)


class Delayed:
    """Delivers outcomes when the test says so."""

    def __init__(self):
        self.waiting = []

    def __call__(self, run):
        self.waiting.append(run)

    def flush(self):
        waiting, self.waiting = self.waiting, []
        for run in waiting:
            run()


class Harness:
    """A gateway with everything around it faked but the core and the dialect."""

    def __init__(self, *, deliver=None, store=None, **rules):
        self.world = World(**rules)
        self.store = store or FaultyStore(deliver=deliver or (lambda run: run()))
        self.world.store = self.store
        self.wire = Wire()
        self.gateway = Gateway(
            bridge=self.world.bridge,
            store=self.store,
            switch=Switch(NATIVE),
            blocks=LocalPlane(self.world.server, wall=lambda: self.world.wall, mono=lambda: self.world.mono),
            link=self.wire,
            wall=lambda: self.world.wall,
            mono=lambda: self.world.mono,
            soon=lambda run: run(),
        )
        apply = self.world.server.apply

        def logged(change, **clocks):
            self.wire.log.append("grants")
            apply(change, **clocks)

        self.world.server.apply = logged
        self.seq = 0

    @classmethod
    def over(cls, before, *, wall):
        """Another process over the same store, started at this time."""
        again = cls(store=before.store)
        again.world.facts, again.world.wall, again.world.mono = before.world.facts, wall, 3.0
        return again

    def report(self, name="d1", *, boot=7, seq=None, topic=None, payload=None, retain=False, **fields):
        """A check-in arrives; returns what went out because of it, events left out."""
        self.seq += 1
        number = self.seq if seq is None else seq
        body = {
            "type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": boot,
            "seq": number, **fields,
        }  # fmt: skip
        raw = json.dumps(body).encode() if payload is None else payload
        message = MqttMessage(topic=topic or f"$ota/report/prod/{name}", payload=raw, qos=1, retain=retain)
        before = len(self.wire.log)
        self.gateway.hear(Incoming(message=message, token=AckToken(generation=1, mid=self.seq, qos=1)))
        self.gateway.take(nothing)
        return [what for what in self.wire.log[before:] if what != "event"]

    def release(self):
        self.world.release()
        self.world.rollout()


@pytest.fixture
def harness():
    return Harness()


def quiet(log):
    return [what for what in log if what != "event"]


# --- the order of things -----------------------------------------------------------------------------------------


def test_grants_then_acknowledgement_then_offer_then_the_brokers_acknowledgement(harness):
    harness.release()
    assert ["grants", "report_ack", "update_firmware", "puback 1"] == harness.report()


def test_nothing_is_let_out_before_the_commit_is_told():
    deliver = Delayed()
    harness = Harness(deliver=deliver)
    assert [] == harness.report()
    assert [] == harness.report("d2")
    deliver.flush()
    assert ["report_ack", "puback 1", "report_ack", "puback 2"] == quiet(harness.wire.log)


def heard(harness, name, seq, *, qos=1):
    body = {
        "type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": 7, "seq": seq,
    }  # fmt: skip
    message = MqttMessage(topic=f"$ota/report/prod/{name}", payload=json.dumps(body).encode(), qos=qos, retain=False)
    harness.gateway.hear(Incoming(message=message, token=AckToken(generation=1, mid=seq, qos=qos)))


def test_a_bundle_is_taken_in_as_a_whole_and_done_with_when_its_answers_are_out():
    deliver = Delayed()
    harness = Harness(deliver=deliver)
    for seq in (1, 2):
        heard(harness, f"d{seq}", seq)
    deliver.flush()
    assert [] == quiet(harness.wire.log)
    harness.gateway.take(lambda: harness.wire.log.append("done"))
    assert [] == quiet(harness.wire.log)
    deliver.flush()
    assert ["report_ack", "puback 1", "report_ack", "puback 2", "done"] == quiet(harness.wire.log)


@pytest.mark.parametrize("how", ["refuses", "fails"])
async def test_a_bundle_whose_last_is_not_committed_is_done_with(harness, how):
    setattr(harness.store, how, 1)
    heard(harness, "d1", 1)
    harness.gateway.take(lambda: harness.wire.log.append("done"))
    assert ["done"] == quiet(harness.wire.log)


async def test_a_bundle_that_waits_for_the_store_is_done_with(harness):
    harness.store.refuses = 1
    for seq in (1, 2):
        heard(harness, f"d{seq}", seq)
    harness.gateway.take(lambda: harness.wire.log.append("done"))
    assert ["done"] == quiet(harness.wire.log)


def test_a_bundle_is_done_with_behind_its_answers_though_they_go_out_in_turns():
    deliver, later = Delayed(), []
    harness = Harness(deliver=deliver)
    harness.gateway._outlet._soon = later.append
    heard(harness, "d1", 1)
    harness.gateway.take(lambda: harness.wire.log.append("done"))
    deliver.flush()
    assert [] == quiet(harness.wire.log)
    while later:
        later.pop(0)()
    assert ["report_ack", "puback 1", "done"] == quiet(harness.wire.log)


async def test_what_nobody_sends_again_and_nobody_bounds_waits_for_the_store_up_to_a_limit(harness, monkeypatch):
    monkeypatch.setattr(gateway, "WAITING_MAX", 3)
    harness.store.refuses = 1
    for seq in range(1, 9):
        heard(harness, f"d{seq}", seq, qos=seq % 2)
    harness.gateway.take(lambda: None)
    assert [1, 2, 3, 5, 7] == [uplink.key.seq for uplink, _, _ in harness.gateway._waiting]


def test_an_empty_bundle_is_done_with_at_once(harness):
    harness.gateway.take(lambda: harness.wire.log.append("done"))
    assert ["done"] == harness.wire.log


def test_a_message_that_finds_the_link_down_is_counted_and_not_kept(harness):
    harness.wire.up = False
    harness.report()
    assert harness.gateway.counters.unsent >= 1
    harness.gateway.link = None
    harness.report()


# --- what does not come to the core ------------------------------------------------------------------------------


def test_a_retained_report_is_dropped_counted_and_acknowledged(harness):
    assert ["puback 1"] == harness.report(retain=True)
    assert 1 == harness.gateway.counters.retained_dropped
    assert 0 == harness.gateway.counters.committed


def test_a_message_on_a_topic_without_a_device_is_dropped_counted_and_acknowledged(harness, caplog):
    assert ["puback 1"] == harness.report(topic="$ota/report/prod/d1/x")
    assert 1 == harness.gateway.counters.strangers
    assert "dropped a message" in caplog.text


def test_a_report_that_does_not_decode_is_counted_told_in_why_and_acknowledged(harness, caplog):
    harness.report()
    assert ["puback 2"] == harness.report(payload=b"nonsense")
    assert 1 == harness.gateway.counters.rejected
    record = harness.store.read(lambda unit: unit.devices.get(DeviceId("prod", "d1")))
    assert (1, "JSON") == (record.trouble.rejected, record.trouble.rejected_reason.partition(":")[0])
    assert "rejected a report" in caplog.text


async def test_what_a_device_says_faster_than_its_rate_is_dropped_counted_and_told_once(harness, caplog):
    harness.gateway.limit = ReportLimit(per_s=10.0, burst=5)
    for _ in range(5):
        assert "report_ack" in harness.report()
    for _ in range(7):
        assert [f"puback {harness.seq + 1}"] == harness.report(payload=b"never decoded")
    assert "report_ack" in harness.report("d2")
    counters = harness.gateway.counters
    assert (7, 6, 0) == (counters.flooded, counters.committed, counters.rejected)
    await harness.gateway.pump()
    record = harness.store.read(lambda unit: unit.devices.get(DeviceId("prod", "d1")))
    assert (1, "7 reports were dropped: more than 10 a second") == (
        record.trouble.rejected,
        record.trouble.rejected_reason,
    )
    await harness.gateway.pump()
    assert 1 == harness.store.read(lambda unit: unit.devices.get(DeviceId("prod", "d1"))).trouble.rejected
    harness.world.jump(1.0)
    assert "report_ack" in harness.report()


async def test_a_flood_on_a_topic_without_a_device_is_counted_and_told_to_nobody(harness):
    harness.gateway.limit = ReportLimit(per_s=10.0, burst=1)
    for _ in range(3):
        harness.report(topic="$ota/report/prod/d1/x")
    await harness.gateway.pump()
    assert (2, 1) == (harness.gateway.counters.flooded, harness.gateway.counters.strangers)


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_retry(monkeypatch):
    monkeypatch.setattr("ota_bridge.gateway.RETRY_S", 0.001)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["refuses", "fails"])
@pytest.mark.usefixtures("fast_retry")
async def test_a_store_that_fails_gets_the_report_again_and_it_is_acknowledged_only_then(harness, how):
    setattr(harness.store, how, 3)
    assert [] == harness.report()
    await until(lambda: "puback 1" in harness.wire.log)
    assert ["report_ack", "puback 1"] == quiet(harness.wire.log)
    assert (3, 1) == (harness.gateway.counters.store_failures, harness.gateway.counters.committed)


@pytest.mark.parametrize("how", ["refuses", "fails"])
@pytest.mark.usefixtures("fast_retry")
async def test_what_comes_after_a_report_that_waits_does_not_overtake_it(harness, how):
    setattr(harness.store, how, 1)
    harness.report(boot=7, seq=1)
    harness.report(boot=8, seq=1)
    harness.report(boot=8, seq=2)
    await until(lambda: "puback 3" in harness.wire.log)
    assert ["puback 1", "puback 2", "puback 3"] == [what for what in harness.wire.log if what.startswith("puback")]
    assert 8 == harness.store.read(lambda unit: unit.devices.get(DeviceId("prod", "d1"))).boot


@pytest.mark.usefixtures("fast_retry")
async def test_what_waits_for_the_store_is_bounded_by_dropping_counts_and_never_reports(harness, monkeypatch):
    monkeypatch.setattr("ota_bridge.gateway.WAITING_MAX", 2)
    harness.store.refuses = 10**9
    for _ in range(5):
        harness.report()
    for _ in range(5):
        harness.gateway._submit(harness.world.device(check_in=False), None, "block plane")
    assert 5 == len(harness.gateway._waiting)
    harness.store.refuses = 0
    await until(lambda: "puback 5" in harness.wire.log)


def test_a_message_on_which_the_core_fails_is_logged_acknowledged_counted_and_leaves_nothing(
    harness, caplog, monkeypatch
):
    def broken(unit, message, now):
        unit.devices.put(harness.world.device(check_in=False))
        raise RuntimeError("a bug")

    monkeypatch.setattr(harness.world.bridge, "receive", broken)
    with caplog.at_level(logging.ERROR):
        assert ["puback 1"] == harness.report()
    assert 1 == harness.gateway.counters.core_failures
    assert "the core failed on a message of $ota/report/prod/d1" in caplog.text
    assert 0 == harness.store.read(lambda unit: unit.devices.count())


async def test_a_tick_that_fails_is_tried_again(harness, monkeypatch):
    harness.release()
    harness.report()
    harness.world.jump(61)
    real = harness.world.bridge.tick
    monkeypatch.setattr(harness.world.bridge, "tick", lambda unit, now: 1 / 0)
    await harness.gateway.pump()
    monkeypatch.setattr(harness.world.bridge, "tick", real)
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert ["update_firmware"] == quiet(harness.wire.log)


async def test_a_store_that_refuses_a_tick_is_asked_again(harness):
    harness.release()
    harness.report()
    harness.world.jump(61)
    harness.store.refuses = 1
    await harness.gateway.pump()
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert ["update_firmware"] == quiet(harness.wire.log)


# --- operators ---------------------------------------------------------------------------------------------------


async def test_an_operation_returns_after_its_outputs_are_out(harness):
    harness.world.release()
    harness.report()
    harness.wire.log.clear()
    result = await harness.gateway.operate(ANN, "rollout.start", {"release": "1.1.0"})
    assert 1 == result["total"]
    assert ["grants", "update_firmware"] == quiet(harness.wire.log)


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("nonsense", {}, NotFound),
        ("why", {"device": "d9"}, NotFound),
        ("why", {}, InvalidInput),
        ("rollout.pause", {}, InvalidInput),
        ("rollout.pause", {"rollout": "r-x"}, NotFound),
        ("device.retire", {"device": 7}, InvalidInput),
    ],
)
async def test_an_operation_that_cannot_be_says_so(harness, name, args, error):
    with pytest.raises(error):
        await harness.gateway.operate(ANN, name, args)


async def test_the_log_names_who_did_what_and_stays_short(harness, caplog):
    rows = [{"device": f"prod/d{number}"} for number in range(1000)]
    with caplog.at_level(logging.INFO):
        await harness.gateway.operate(ANN, "device.import", {"rows": rows})
    told = next(record.getMessage() for record in caplog.records if "device.import" in record.getMessage())
    assert told.startswith("ann: device.import {'rows': [{'device': 'prod/d0'}")
    assert len(told) < 400


@pytest.mark.parametrize(
    ("operation", "state"), [("rollout.pause", GrantState.PAUSED), ("release.withdraw", GrantState.WITHDRAWN)]
)
async def test_pause_and_withdrawal_reach_the_block_plane_before_their_commit(harness, operation, state):
    harness.release()
    harness.report()
    rollout = harness.world.do("rollout.list")[0]["id"]
    held = []
    real = harness.store.submit

    def watched(work, on_done):
        held.append(harness.world.server.held)
        real(work, on_done)

    async def settled():
        held.append("settled")

    harness.store.submit = watched
    harness.gateway.blocks.settled = settled  # a plane in a process of its own hears of it late
    args = {"rollout": rollout} if operation == "rollout.pause" else {"release": "1.1.0"}
    await harness.gateway.operate(ANN, operation, args)
    assert ["settled", {rollout: state}] == held
    assert {rollout: state} == harness.world.server.held
    assert [state] == list(harness.world.granted(DeviceId("prod", "d1")).values())


async def test_a_pause_that_is_refused_leaves_the_block_plane_as_it_was(harness):
    harness.release()
    rollout = harness.world.do("rollout.list")[0]["id"]
    for held in ({rollout: GrantState.PAUSED}, {}):
        await harness.gateway.operate(ANN, "rollout.pause" if held else "rollout.cancel", {"rollout": rollout})
        before = harness.world.server.held
        with pytest.raises(Conflict):
            await harness.gateway.operate(ANN, "rollout.pause", {"rollout": rollout})
        assert held == before == harness.world.server.held
    await asyncio.sleep(0)


async def test_a_table_that_is_loaded_anew_holds_what_is_paused_or_withdrawn(harness):
    harness.release()
    rollout = harness.world.do("rollout.list")[0]["id"]
    await harness.gateway.operate(ANN, "rollout.pause", {"rollout": rollout})
    harness.world.server.hold(rollout, None)
    await harness.gateway.load()
    assert {rollout: GrantState.PAUSED} == harness.world.server.held


@pytest.mark.parametrize("pauses", [True, False], ids=["pause", "resume"])
async def test_a_hold_that_changes_while_the_table_is_loaded_is_not_overwritten_by_that_of_before(
    harness, monkeypatch, pauses
):
    harness.release()
    rollout = harness.world.do("rollout.list")[0]["id"]
    if not pauses:
        await harness.gateway.operate(ANN, "rollout.pause", {"rollout": rollout})
    now = GrantState.PAUSED if pauses else None
    real = harness.store.read

    def read(work):
        found = real(work)
        if work is holds:  # committed after what was read
            harness.gateway._let_out(RolloutHeld(rollout=rollout, state=now))
        return found

    monkeypatch.setattr(harness.store, "read", read)
    await harness.gateway.load()
    assert ({rollout: now} if pauses else {}) == harness.world.server.held


# --- time, tables, summaries -------------------------------------------------------------------------------------


async def test_the_block_plane_is_loaded_from_the_database_and_only_then_open(harness):
    harness.release()
    harness.report()
    server, seen = harness.world.server, []
    server._clients.clear()
    server.is_loaded = False
    apply = server.apply

    def watched(change, **clocks):
        seen.append((change.device.name, server.is_loaded))
        apply(change, **clocks)

    server.apply = watched
    await harness.gateway.load()
    assert [("d1", False)] == seen
    assert server.is_loaded
    assert [DeviceId("prod", "d1")] == list(server._clients)


async def test_grants_that_change_while_the_table_is_loaded_are_not_overwritten_by_those_of_before(
    harness, monkeypatch
):
    harness.release()
    harness.report("d1")
    harness.report("d2")
    real, news = harness.world.bridge.grants_page, [GrantsChanged(device=DeviceId("prod", "d1"), grants=())]

    def page(_bridge, *args):
        found = real(*args)
        while news:  # committed after what was read
            harness.gateway._let_out(news.pop())
        return found

    monkeypatch.setattr(Bridge, "grants_page", page)
    await harness.gateway.load()
    clients = harness.world.server._clients
    assert () == clients[DeviceId("prod", "d1")].grants
    assert 1 == len(clients[DeviceId("prod", "d2")].grants)


async def test_the_caps_are_in_force_before_the_table_is_open(harness, monkeypatch):
    await harness.gateway.commit(lambda unit: (unit.limits.put(StandingLimits(limits=Limits(downloads=7))), []))
    server, seen = harness.world.server, []
    monkeypatch.setattr(server, "open", lambda _mono: seen.append(server.shares and server.shares.limits))
    await harness.gateway.load()
    assert [Limits(downloads=7)] == seen


async def test_caps_that_change_while_the_table_is_loaded_are_not_overwritten_by_those_of_before(harness, monkeypatch):
    await harness.gateway.commit(lambda unit: (unit.limits.put(StandingLimits(limits=Limits(downloads=7))), []))
    real, news = harness.store.read, [LimitsChanged(limits=Limits(downloads=3))]

    def read(work):
        found = real(work)
        while news:  # committed after what was read
            harness.gateway._let_out(news.pop())
        return found

    monkeypatch.setattr(harness.store, "read", read)
    await harness.gateway.load()
    assert Limits(downloads=3) == harness.world.server.shares.limits


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr("ota_bridge.gateway.SETTLE_S", 0.0)


@pytest.mark.usefixtures("settled")
async def test_limits_reach_the_block_plane_after_their_commit_and_before_the_answer(harness):
    seen = []
    real = harness.store.submit

    def watched(work, on_done):
        seen.append(harness.world.server.shares)
        real(work, on_done)

    harness.store.submit = watched
    await harness.gateway.operate(ANN, "limits.set", {"downloads": 7})
    assert [None] == seen
    assert Limits(downloads=7) == harness.world.server.shares.limits
    await harness.gateway.operate(ANN, "limits.set", {"downloads": 0})
    assert harness.world.server.shares is None


async def test_limits_are_answered_when_they_have_settled(harness, monkeypatch):
    steps = []

    async def settled():
        steps.append("settled")

    async def sleep(seconds):
        steps.append((seconds, harness.world.server.shares is not None))

    harness.gateway.blocks.settled = settled
    monkeypatch.setattr("ota_bridge.gateway.asyncio.sleep", sleep)
    await harness.gateway.operate(ANN, "limits.set", {"downloads": 7})
    assert ["settled", (WINDOW_S, True)] == steps


@pytest.mark.usefixtures("settled")
async def test_after_a_restart_the_limits_hold_and_who_downloaded_last_keeps_its_slot(harness):
    harness.release()
    asked = msgpack.packb([next(iter(harness.world.facts.values())).sha256[:8], 0, 1000, 2])
    server, names = harness.world.server, [f"d{number}" for number in range(9)]
    for name in names:
        harness.report(name)
    for name in names:
        harness.world.jump(1)
        BlockGateway(server, NATIVE).handle(b"$ota/get/prod/" + name.encode(), asked, harness.world.mono, [])
    harness.gateway.on_served(server.drain(harness.world.wall, harness.world.mono, whole=True))
    await harness.gateway.operate(ANN, "limits.set", {"downloads": 4})
    server.shares, server.is_loaded = None, False
    server._clients.clear()
    harness.world.jump(20)
    await harness.gateway.load()
    harness.world.jump(10)
    assert [1] * 4 == [server.shares.admit(DeviceId("prod", name), [1], harness.world.mono) for name in names[5:]]
    assert Wait(Share.SLOT, 1) == server.shares.admit(DeviceId("prod", "d0"), [1], harness.world.mono)


async def test_limits_that_change_while_the_table_is_loaded_are_not_overwritten_by_those_of_before(
    harness, monkeypatch
):
    real = harness.store.read

    def read(work):
        found = real(work)
        harness.gateway._let_out(LimitsChanged(limits=Limits(downloads=7)))
        return found

    monkeypatch.setattr(harness.store, "read", read)
    await harness.gateway.load()
    assert Limits(downloads=7) == harness.world.server.shares.limits


def test_what_was_served_is_written(harness):
    harness.release()
    harness.report()
    facts = next(iter(harness.world.facts.values()))
    BlockGateway(harness.world.server, NATIVE).handle(
        b"$ota/get/prod/d1", msgpack.packb([facts.sha256[:8], 0, 1000, 2]), 60.0, []
    )
    harness.gateway.on_served(harness.world.server.drain(harness.world.wall, 60.0))
    deployment = harness.store.read(lambda unit: unit.deployments.open_of(DeviceId("prod", "d1")))[0]
    assert ("DOWNLOADING", 2000) == (deployment.state, deployment.bytes_sent)


@pytest.mark.parametrize("by_s", [86_400, -86_400])
async def test_deadlines_follow_a_wall_clock_that_was_set(harness, by_s):
    harness.release()
    harness.report()
    await harness.gateway.pump()
    before = harness.store.read(lambda unit: unit.deployments.next_due_wall())
    harness.world.wall += by_s
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert before + by_s == harness.store.read(lambda unit: unit.deployments.next_due_wall())
    assert [] == quiet(harness.wire.log)
    assert 1 == harness.gateway.counters.clock_steps


async def test_a_clock_that_is_slewed_is_no_step(harness):
    for _ in range(100):
        await harness.gateway.pump()
        harness.world.wall += 1.0
    assert 0 == harness.gateway.counters.clock_steps


async def test_a_step_that_the_store_refused_is_followed_later(harness):
    harness.release()
    harness.report()
    await harness.gateway.pump()
    before = harness.store.read(lambda unit: unit.deployments.next_due_wall())
    harness.world.wall += 86_400
    harness.store.refuses = 1
    with contextlib.suppress(StoreError):
        await harness.gateway.pump()
    await harness.gateway.pump()
    assert before + 86_400 == harness.store.read(lambda unit: unit.deployments.next_due_wall())


async def test_the_pump_tells_once_of_a_device_that_is_not_heard_any_more(harness):
    told = []
    harness.wire.publish = lambda message: told.append(json.loads(message.payload)) or True
    harness.report()
    await harness.gateway.pump()
    for _ in range(100):
        harness.world.jump(3600)
        await harness.gateway.pump()
        while harness.gateway._is_working:
            await asyncio.sleep(0)
    assert ["d1"] == [one["device"] for one in told if one.get("event") == "silent"]


YEAR_S = 365 * 86_400


@pytest.mark.parametrize("by_s", [3600, -3600, 10 * YEAR_S, -10 * YEAR_S])
async def test_a_slice_between_the_setting_of_the_clock_and_the_next_beat_ends_nothing(harness, by_s):
    harness.release()
    harness.report()
    await harness.gateway.pump()
    harness.world.jump(61)
    await harness.gateway.pump()
    harness.wire.log.clear()
    harness.world.wall += by_s
    harness.gateway._work()
    assert [] == quiet(harness.wire.log)
    deployment = harness.store.read(lambda unit: unit.deployments.recent_of(DeviceId("prod", "d1")))[0]
    assert "OFFERED" == deployment.state
    await harness.gateway.pump()
    harness.gateway._work()
    deployment = harness.store.read(lambda unit: unit.deployments.recent_of(DeviceId("prod", "d1")))[0]
    assert ("OFFERED", harness.world.wall - 61) == (deployment.state, deployment.changed_wall)


@pytest.mark.parametrize("how", ["fails", "refuses"])
async def test_a_step_that_is_not_committed_is_followed_later_and_nothing_ends_until_then(harness, how):
    harness.release()
    harness.report()
    await harness.gateway.pump()
    before = harness.store.read(lambda unit: unit.deployments.next_due_wall())
    harness.world.wall += 10 * YEAR_S
    for _ in range(3):
        setattr(harness.store, how, 1)
        with contextlib.suppress(StoreError):
            await harness.gateway.pump()
        deployment = harness.store.read(lambda unit: unit.deployments.open_of(DeviceId("prod", "d1")))[0]
        assert ("OFFERED", before) == (deployment.state, deployment.due_wall)
    await harness.gateway.pump()
    assert before + 10 * YEAR_S == harness.store.read(lambda unit: unit.deployments.next_due_wall())
    assert 1 == harness.gateway.counters.clock_steps


async def test_a_clock_that_strobes_moves_each_deadline_as_often_as_itself(harness):
    harness.release()
    harness.report()
    await harness.gateway.pump()
    before = harness.store.read(lambda unit: unit.deployments.next_due_wall())
    for number in range(20):
        harness.world.wall += (1 if number % 2 else -1) * 10 * YEAR_S
        await harness.gateway.pump()
    assert before == harness.store.read(lambda unit: unit.deployments.next_due_wall())
    assert 20 == harness.gateway.counters.clock_steps


async def test_steps_of_a_second_that_come_back_leave_all_as_it_was(harness):
    harness.release()
    harness.report()
    await harness.gateway.pump()
    before = harness.store.read(lambda unit: unit.deployments.next_due_wall())
    for number in range(100):
        harness.world.wall += 1 if number % 2 else -1
        await harness.gateway.pump()
    assert before == harness.store.read(lambda unit: unit.deployments.next_due_wall())
    assert 0 == harness.gateway.counters.clock_steps


async def test_a_clock_that_was_set_back_while_nothing_ran_takes_the_deadlines_with_it(harness):
    """A small computer without a battery starts in the past, and is set right by the network later."""
    harness.release()
    harness.report()
    left = harness.store.read(lambda unit: unit.deployments.next_due_wall()) - harness.world.wall
    harness.store.committed_at = harness.world.wall
    again = Harness.over(harness, wall=harness.world.wall - 10 * YEAR_S)
    await again.gateway.begin()
    await again.gateway.pump()
    assert again.world.wall + left == again.store.read(lambda unit: unit.deployments.next_due_wall())
    again.world.wall += 10 * YEAR_S
    await again.gateway.pump()
    assert again.world.wall + left == again.store.read(lambda unit: unit.deployments.next_due_wall())
    assert [] == again.store.read(lambda unit: [one for one in unit.deployments.all_open() if one.state != "OFFERED"])


async def test_time_that_went_by_while_nothing_ran_counts(harness):
    harness.release()
    harness.report()
    due = harness.store.read(lambda unit: unit.deployments.next_due_wall())
    harness.store.committed_at = harness.world.wall
    again = Harness.over(harness, wall=harness.world.wall + 61)
    await again.gateway.begin()
    again.wire.log.clear()
    await again.gateway.pump()
    assert due < again.world.wall
    assert ["update_firmware"] == quiet(again.wire.log)
    assert 0 == again.gateway.counters.clock_steps


async def test_each_changed_rollout_is_published_once_a_beat_and_retained(harness):
    harness.gateway.set_plane(control=True)
    harness.release()
    harness.report()
    harness.report("d2")
    await harness.gateway._head.news()  # of the audit log; it is another's test
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert ["state"] == quiet(harness.wire.log)
    assert harness.wire.last.retain
    assert 2 == json.loads(harness.wire.last.payload)["total"]
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert [] == quiet(harness.wire.log)


async def test_what_a_broker_may_have_lost_is_published_again_once_it_is_back(harness):
    harness.gateway.set_plane(control=True)
    harness.release()
    harness.report()
    await harness.gateway.pump()
    harness.gateway.set_plane(control=False)
    harness.gateway.set_plane(control=True)
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert ["state", "state"] == quiet(harness.wire.log)  # the first is the head of the audit log
    assert harness.wire.last.topic.startswith("$ota/state/rollout/")


async def test_the_pump_goes_on_after_an_error_of_the_store(harness, monkeypatch):
    beats, again = [], asyncio.Event()

    async def pump(gateway):
        beats.append(gateway)
        if len(beats) == 1:
            raise StoreError("the disk is full")
        again.set()

    monkeypatch.setattr("ota_bridge.gateway.PUMP_S", 0.0)
    monkeypatch.setattr(Gateway, "pump", pump)
    running = asyncio.ensure_future(harness.gateway.run())
    async with asyncio.timeout(5):
        await asyncio.wait({running, asyncio.ensure_future(again.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert not running.done()
    running.cancel()


async def test_the_head_of_the_audit_log_is_published_when_it_moved_and_to_every_broker(harness):
    harness.gateway.set_plane(control=True)
    await harness.gateway.pump()
    harness.wire.log.clear()
    await harness.gateway.operate(ANN, "device.add", {"device": "prod/d9"})
    await harness.gateway.pump()
    assert ["state"] == quiet(harness.wire.log)
    assert ("$ota/state/audit", True) == (harness.wire.last.topic, harness.wire.last.retain)
    last = harness.store.read(lambda unit: unit.audit.last())
    told = json.loads(harness.wire.last.payload)
    assert (1, last.digest.hex()) == (told["n"], told["digest"])
    harness.wire.log.clear()
    await harness.gateway.pump()
    assert [] == quiet(harness.wire.log)
    harness.gateway.set_plane(control=False)
    harness.gateway.set_plane(control=True)
    await harness.gateway.pump()
    assert told == json.loads(harness.wire.last.payload)


async def test_who_may_not_pause_holds_no_block_back_and_is_recorded(harness, monkeypatch):
    harness.release()
    rollout = harness.store.read(lambda unit: unit.rollouts.all())[0].id
    held = []
    monkeypatch.setattr(harness.gateway.blocks, "hold", lambda *what: held.append(what))
    owner = Caller(user="root", is_owner=True)
    await harness.gateway.operate(owner, "user.add", {"user": "vic", "roles": ["viewer"]})
    for caller in (Caller(user="vic"), Caller(user="nobody"), Caller(user="root", is_owner=True, token="ota_x")):
        with pytest.raises(Forbidden):
            await harness.gateway.operate(caller, "rollout.pause", {"rollout": rollout})
    assert [] == held
    entries = harness.store.read(lambda unit: unit.audit.latest(limit=3))
    assert [("rollout.pause", f"rollout {rollout}", "forbidden")] * 3 == [
        (one.action, one.subject, one.result) for one in entries
    ]
    assert ["vic", "nobody", "root"] == [one.actor for one in entries]
    assert "peer, with a token that was refused" == entries[-1].how


async def test_a_read_that_is_forbidden_is_recorded_and_one_that_fails_is_not(harness):
    owner = Caller(user="root", is_owner=True)
    await harness.gateway.operate(owner, "user.add", {"user": "vic", "roles": ["viewer"]})
    with pytest.raises(Forbidden):
        await harness.gateway.operate(Caller(user="nobody"), "why", {"device": "d1"})
    with pytest.raises(NotFound):
        await harness.gateway.operate(Caller(user="vic"), "why", {"device": "d1"})
    last = harness.store.read(lambda unit: unit.audit.last())
    assert (2, "nobody", "why", "forbidden") == (last.n, last.actor, last.action, last.result)


def test_the_state_of_both_planes_is_published_when_it_changes_and_control_is_up(harness):
    harness.gateway.set_plane(blocks=True)
    assert [] == harness.wire.log
    harness.gateway.set_plane(control=True)
    summary = json.loads(harness.wire.last.payload)
    assert ("up", "up") == (summary["control"], summary["blocks"])
    assert ("$ota/state/bridge", True) == (harness.wire.last.topic, harness.wire.last.retain)
    harness.gateway.set_plane(blocks=False)
    assert "down" == json.loads(harness.wire.last.payload)["blocks"]


async def test_a_local_reader_sees_events_of_its_device_and_a_slow_one_loses_the_oldest(harness, monkeypatch):
    monkeypatch.setattr("ota_bridge.subscriber.EVENTS_MAX", 3)
    events = harness.gateway.events(DeviceId("prod", "d1"))
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    harness.report("d2")
    harness.report("d1")
    for _ in range(5):
        harness.report("d1")
    lines = [json.loads((await first)["line"])]
    lines += [json.loads((await anext(events))["line"]) for _ in range(2)]
    assert {"d1"} == {line["device"] for line in lines}
    await events.aclose()
    assert set() == harness.gateway._subscribers


async def test_what_looks_at_a_whole_fleet_is_checked_before_the_writer_has_anything_to_do(harness):
    harness.world.release()
    harness.report()
    works = []
    submit = harness.store.submit

    def counted(work, on_done):
        works.append(work)
        submit(work, on_done)

    harness.store.submit = counted
    with pytest.raises(InvalidInput, match="no device of prod has attrs.sight"):
        await harness.gateway.operate(ANN, "rollout.start", {"release": "1.1.0", "where": 'attrs.sight == "x"'})
    assert len(works) == 1  # the audit log's, of the failure
    await harness.gateway.operate(ANN, "rollout.start", {"release": "1.1.0", "where": '"firmware" in versions'})
    assert len(works) > 1
