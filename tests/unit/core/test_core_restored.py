"""A database of yesterday under devices of today: what devices report wins, nobody goes back, nothing stays half-way."""

import copy

import pytest
from core_world import FACTORY, World

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.messages import BlockTrouble, CancelUpdate, GrantsChanged, Offer, ReportAck
from ota_bridge.core.values import DeviceId
from ota_bridge.store.memory import MemoryStore
from ota_bridge.store.memory_tables import MemoryTables


@pytest.fixture
def world():
    return World()


def backup(world):
    return copy.deepcopy(world.store._state)


def restore(world, state):
    """The database of then; devices, their flash and the clock are those of now. Nothing that was sent is remembered."""
    store = MemoryStore()
    store._state = copy.deepcopy(state)
    store._unit = MemoryTables.over(store._state)
    world.store = store
    world.outputs.clear()
    world.jump(86_400)


def updated(world, device, version, *, seq):
    """The device goes the whole way to a release that was started."""
    device.asks()
    device.says("downloaded")
    device.says("burning")
    world.jump(40)
    device.runs(version, seq=seq, trial=True).restarts()
    device.runs(version, seq=seq).check_in()
    assert State.CONFIRMED is device.state
    return device


def release(world, version, *, seq):
    world.jump(40)
    world.release(version, seq=seq)
    world.rollout(version)


@pytest.fixture
def device(world):
    """It runs 2.0.0."""
    made = world.device()
    release(world, "2.0.0", seq=2)
    return updated(world, made, "2.0.0", seq=2)


def offers(world):
    return world.sent(Offer) + world.notices()


# --- what runs something that is not known any more -------------------------------------------------------------------


def test_a_device_that_went_on_after_the_backup_is_recorded_and_left_alone(world, device):
    state = backup(world)
    release(world, "3.0.0", seq=3)
    updated(world, device, "3.0.0", seq=3)
    restore(world, state)
    outputs = device.check_in()
    assert 1 == len(world.sent(ReportAck, outputs))
    assert ("3.0.0", 3) == ((part := device.record.parts["firmware"]).version, part.seq)
    world.passes(7 * 86_400)
    device.check_in()
    device.restarts()
    assert [] == offers(world)
    assert [State.CONFIRMED] == [one.state for one in device.all]


def test_why_says_what_it_runs_and_what_to_do(world, device):
    state = backup(world)
    release(world, "3.0.0", seq=3)
    updated(world, device, "3.0.0", seq=3)
    restore(world, state)
    device.check_in()
    code, sentence = device.why()
    assert "anti_rollback" == code
    assert sentence == (
        "prod/d1: firmware prod/2.0.0 (seq 2) does not go there: the device runs 3.0.0 (seq 3), which is not in the "
        "catalog, and takes only a higher seq; add that release again, or sign a higher one."
    )


def test_going_on_is_no_regression(world, device):
    state = backup(world)
    release(world, "3.0.0", seq=3)
    updated(world, device, "3.0.0", seq=3)
    restore(world, state)
    outputs = device.check_in()
    assert [("2.0.0", "3.0.0")] == [(one["before"], one["after"]) for one in world.events("version_changed", outputs)]
    assert [] == world.events("regressed", outputs)


def test_a_device_that_appeared_after_the_backup_appears_again_and_is_left_alone(world, device):
    state = backup(world)
    newcomer = world.device("d2")
    updated(world, newcomer, "2.0.0", seq=2)
    release(world, "3.0.0", seq=3)
    updated(world, newcomer, "3.0.0", seq=3)
    restore(world, state)
    newcomer.check_in()
    assert [] == offers(world)
    assert "anti_rollback" == newcomer.why()[0]


def test_once_the_release_is_there_again_its_devices_are_where_they_belong(world, device):
    state = backup(world)
    release(world, "3.0.0", seq=3)
    updated(world, device, "3.0.0", seq=3)
    restore(world, state)
    device.check_in()
    release(world, "3.0.0", seq=3)
    device.check_in()
    assert ("confirmed", []) == (device.why()[0], offers(world))


def test_a_device_that_was_set_back_to_the_factory_meanwhile_is_still_healed(world, device):
    state = backup(world)
    restore(world, state)
    device.runs(FACTORY, seq=1).restarts()
    assert 1 == len(offers(world))


# --- counters that are ahead ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boots", [0, 1, 5])
def test_reports_whose_boot_and_seq_are_ahead_count_as_any_other(world, device, boots):
    state = backup(world)
    for _ in range(boots):
        device.restarts()
    for _ in range(10):
        device.check_in()
    restore(world, state)
    device.runs("2.0.0+local", seq=2)
    outputs = device.check_in()
    assert [(device.boot, (device.seq,))] == [(ack.boot, ack.seqs) for ack in world.sent(ReportAck, outputs)]
    assert (device.boot, "2.0.0+local") == (device.record.boot, device.record.parts["firmware"].version)
    assert 0 == device.record.trouble.clashes


# --- what was open in the backup --------------------------------------------------------------------------------------

WAY = {
    State.OFFERED: [],
    State.DOWNLOADING: ["asks"],
    State.DOWNLOADED: ["asks", "downloaded"],
    State.INSTALLING: ["asks", "downloaded", "burning"],
    State.TRIAL: ["asks", "downloaded", "burning", "boots"],
}


def bring(world, device, version, seq, state):
    for step in WAY[state]:
        if step == "asks":
            device.asks()
        elif step == "boots":
            device.runs(version, seq=seq, trial=True).restarts()
        else:
            device.says(step)
    assert state is device.state


@pytest.mark.parametrize("then", list(WAY))
def test_what_was_open_then_is_confirmed_if_it_runs_now(world, then):
    device = world.device()
    release(world, "2.0.0", seq=2)
    bring(world, device, "2.0.0", 2, then)
    state = backup(world)
    device.runs("2.0.0", seq=2).restarts()
    restore(world, state)
    device.check_in()
    assert State.CONFIRMED is device.state
    assert [] == offers(world)


@pytest.mark.parametrize("then", list(WAY))
def test_what_was_open_then_ends_canceled_if_something_newer_runs_now(world, then):
    device = world.device()
    release(world, "2.0.0", seq=2)
    bring(world, device, "2.0.0", 2, then)
    state = backup(world)
    device.runs("3.0.0", seq=3).restarts()
    restore(world, state)
    device.check_in()
    assert (State.CANCELED, "checked in with firmware 3.0.0 (seq 3), which is newer") == (
        device.state, device.latest.cause,
    )  # fmt: skip
    assert [] == offers(world)
    assert [] == [grant for one in world.sent(GrantsChanged)[-1:] for grant in one.grants]
    status = world.do("rollout.status", rollout=device.latest.rollout)
    assert {"CANCELED": 1} == status["counts"]
    assert "anti_rollback" == device.why()[0]


def test_a_cancel_that_was_asked_for_then_ends_too(world):
    device = world.device()
    release(world, "2.0.0", seq=2)
    device.asks()
    world.do("rollout.cancel", rollout=device.open.rollout)
    state = backup(world)
    device.runs("3.0.0", seq=3)
    restore(world, state)
    device.check_in()
    assert State.CANCELED is device.state


# --- devices in the middle of what is forgotten -----------------------------------------------------------------------


@pytest.mark.parametrize("said", ["downloading", "downloaded", "burning", "defer"])
def test_a_device_in_the_middle_of_a_forgotten_update_is_told_to_end_it(world, device, said):
    state = backup(world)
    release(world, "3.0.0", seq=3)
    forgotten = device.open.id
    restore(world, state)
    outputs = device.says(said, forgotten)
    kinds = [type(output) for output in outputs if isinstance(output, ReportAck | CancelUpdate)]
    assert [ReportAck, CancelUpdate] == kinds
    assert [forgotten] == [cancel.deployment for cancel in world.sent(CancelUpdate, outputs)]
    assert ((forgotten,) if said == "burning" else ()) == world.sent(ReportAck, outputs)[0].stop
    assert [forgotten] == [one["id"] for one in world.events("forgotten", outputs)]
    answer = device.says("canceled", forgotten)
    assert [] == world.sent(CancelUpdate, answer)
    assert 1 == len(world.sent(ReportAck, answer))
    assert [State.CONFIRMED] == [one.state for one in device.all]


@pytest.mark.parametrize("said", ["done", "fail", "rolled_back", "canceled", "too_late", "reject"])
def test_an_end_of_a_forgotten_update_is_acknowledged_and_no_more(world, device, said):
    state = backup(world)
    release(world, "3.0.0", seq=3)
    forgotten = device.open.id
    restore(world, state)
    outputs = device.says(said, forgotten)
    assert 1 == len(world.sent(ReportAck, outputs))
    assert [] == world.sent(CancelUpdate, outputs)


def test_a_deployment_that_is_known_and_over_is_not_canceled_again(world, device):
    outputs = device.says("downloading", device.latest.id)
    assert [] == world.sent(CancelUpdate, outputs)


def test_a_device_that_names_anothers_deployment_ends_only_its_own_idea_of_it(world, device):
    other = world.device("d2")
    release(world, "3.0.0", seq=3)
    before = other.open
    outputs = device.says("downloading", before.id)
    assert [] == world.sent(CancelUpdate, outputs)
    assert before == other.open


def test_why_tells_of_blocks_that_are_asked_for_in_vain(world, device):
    device.check_in()
    world.receive(BlockTrouble(device=DeviceId("prod", "d1"), wall=world.wall, refusal=BlockRefusal.NOT_OPEN, count=3))
    assert "(it asks for blocks of something that is not open for it, and is told to stop)" in device.why()[1]
    world.jump(700)
    assert "asks for blocks" not in device.why()[1]


# --- devices without a counter ----------------------------------------------------------------------------------------


@pytest.fixture
def public():
    return World(public_url="https://dl.example.com/{sha256}")


def counterless(world, version):
    device = world.device(proto=0)
    return device.runs(version, seq=None)


def public_device(world, version):
    device = world.device(proto=0, check_in=False)
    device.runs(version, seq=None).check_in()
    return device


@pytest.mark.parametrize("newer", ["3.0.0", "2.0.1", "2.10", "v3", "2.0.0.1"])
def test_a_device_that_tells_no_counter_is_not_taken_back_from_a_higher_number_that_is_not_known(public, newer):
    device = public_device(public, FACTORY)
    release(public, "2.0.0", seq=2)
    device.runs("2.0.0", seq=None).check_in()
    assert State.CONFIRMED is device.state
    state = backup(public)
    device.runs(newer, seq=None)
    restore(public, state)
    device.check_in()
    public.passes(7 * 86_400)
    device.check_in()
    assert [] == offers(public)
    assert "runs_newer" == device.why()[0]
    assert f"the device runs {newer}, which is not in the catalog, and tells no seq" in device.why()[1]


def test_what_was_open_then_for_it_ends_canceled(public):
    device = public_device(public, FACTORY)
    release(public, "2.0.0", seq=2)
    device.says("downloading", percent=10)
    state = backup(public)
    device.runs("3.0.0", seq=None)
    restore(public, state)
    device.check_in()
    assert State.CANCELED is device.state
    assert [] == offers(public)


@pytest.mark.parametrize("other", [FACTORY, "1.9.9", "factory", "2.0.0-rc1", "dev 7"])
def test_one_that_runs_a_lower_number_or_none_is_brought_back(public, other):
    device = public_device(public, FACTORY)
    release(public, "2.0.0", seq=2)
    device.runs("2.0.0", seq=None).check_in()
    public.jump(40)
    public.outputs.clear()
    device.runs(other, seq=None).check_in()
    assert 1 == len(offers(public))


def test_an_older_release_goes_to_one_whose_newer_one_is_in_the_catalog(public):
    """The operator knows what runs there and wants the other: that is no accident."""
    device = public_device(public, FACTORY)
    release(public, "3.0.0", seq=3)
    device.runs("3.0.0", seq=None).check_in()
    public.outputs.clear()
    release(public, "2.0.0", seq=4)
    assert 1 == len(offers(public))


# --- what is signed next ----------------------------------------------------------------------------------------------


def test_a_release_tells_how_many_devices_are_past_its_seq(world, device):
    other = world.device("d2")
    state = backup(world)
    release(world, "3.0.0", seq=3)
    updated(world, device, "3.0.0", seq=3)
    restore(world, state)
    device.check_in()
    other.check_in()
    world.release("4.0.0", seq=3)
    assert {"release": "prod/4.0.0", "devices": 1, "seq": 3} == world.do("release.ahead", release="4.0.0")
    world.release("4.0.1", seq=4)
    assert {"release": "prod/4.0.1", "devices": 0, "seq": None} == world.do("release.ahead", release="4.0.1")


def test_the_devices_that_run_it_are_not_past_it(world, device):
    assert 0 == world.do("release.ahead", release="2.0.0")["devices"]
