"""The operator's commands: what each does, and what each refuses with which sentence."""

import inspect
from dataclasses import replace

import pytest
from core_world import FACTORY, World
from test_core_lifecycle import confirmed, downloading, installing, offered

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.fleet import Enrol
from ota_bridge.core.messages import CancelUpdate, GrantState, LimitsChanged, Offer, RolloutChanged
from ota_bridge.core.operations import OPERATIONS, perform
from ota_bridge.core.values import Limits


@pytest.fixture
def world():
    return World()


# --- calling -----------------------------------------------------------------------------------------------------


def test_an_unknown_operation_is_named_with_what_there_is(world):
    with pytest.raises(NotFound, match=r"no operation 'rollout.stop'; known are .*rollout.cancel"):
        world.do("rollout.stop")


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("why", {}, "argument 'device' is missing"),
        ("why", {"device": 7}, "argument 'device' has the wrong type"),
        ("why", {"device": "d1", "loud": True}, "unknown argument 'loud'"),
        ("rollout.percent", {"rollout": "r", "percent": True}, "'percent' has the wrong type"),
        ("rollout.percent", {"rollout": "r", "percent": "10"}, "'percent' has the wrong type"),
        ("rollout.start", {"release": "x", "devices": "d1"}, "'devices' has the wrong type"),
        ("rollout.start", {"release": "x", "devices": ["d1", 2]}, "'devices' has the wrong type"),
        ("device.import", {"rows": ["d1"]}, "'rows' has the wrong type"),
        ("device.import", {"rows": [{1: "d1"}]}, "'rows' has the wrong type"),
    ],
)
def test_arguments_that_do_not_fit_are_named(world, name, args, says):
    with pytest.raises(InvalidInput) as caught:
        perform(None, world.bridge, name, args, actor="ann", now=world.now)
    assert says in str(caught.value)


def test_a_missing_argument_may_be_null_where_it_has_a_default(world):
    assert [] == world.do("device.list", product=None, state=None)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_says_what_it_does_and_types_its_arguments(name):
    operation = OPERATIONS[name]
    assert operation.summary.endswith(".")
    parameters = list(inspect.signature(operation.function).parameters.values())
    assert "context" == parameters[0].name
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)


READS = {
    "release.list": {},
    "release.show": {"release": "1.1.0"},
    "release.ahead": {"release": "1.1.0"},
    "device.list": {},
    "device.show": {"device": "d1"},
    "rollout.list": {},
    "rollout.status": {"rollout": None},
    "why": {"device": "d1"},
    "fleet": {},
    "limits.show": {},
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_read_runs_where_nothing_can_be_written_and_says_only_plain_values(world, name):
    import json

    operation = OPERATIONS[name]
    assert operation.writes is (name not in READS)
    if operation.writes:
        return
    device = offered(world)
    args = dict(READS[name])
    if "rollout" in args:
        args["rollout"] = device.open.rollout
    result, outputs = world.read(lambda unit: perform(unit, world.bridge, name, args, actor="ann", now=world.now))
    assert [] == outputs
    assert result == json.loads(json.dumps(result))


# --- releases ----------------------------------------------------------------------------------------------------


def test_a_release_is_found_by_version_where_that_is_clear_and_by_id(world):
    world.release()
    assert "prod/1.1.0" == world.do("release.show", release="1.1.0")["id"]
    assert "prod/1.1.0" == world.do("release.show", release="prod/1.1.0")["id"]
    world.release(product="other")
    with pytest.raises(InvalidInput, match="ambiguous: other/1.1.0, prod/1.1.0"):
        world.do("release.show", release="1.1.0")


@pytest.mark.parametrize("name", ["9", "prod/9", "x/", "/", "prod/1.1.0/x"])
def test_a_release_that_is_not_there_is_said_so(world, name):
    world.release()
    with pytest.raises(NotFound, match="no release"):
        world.do("release.show", release=name)


def test_a_seq_is_taken_once_in_a_product_and_component(world):
    world.release("1.1.0", seq=2)
    with pytest.raises(Conflict, match="seq 2 of prod firmware is taken by prod/1.1.0"):
        world.release("1.2.0", seq=2)
    world.release("1.2.0", seq=2, product="other")
    world.release("1.2.0", seq=2, component="config")


def test_a_component_is_added_once_and_not_after_a_rollout(world):
    world.release(seq=2)
    with pytest.raises(Conflict, match="already has"):
        world.release(seq=3, image=b"other bytes")
    world.rollout()
    with pytest.raises(Conflict, match="has a rollout and can no longer change"):
        world.release(component="config")


def test_the_same_manifest_may_be_uploaded_again_to_put_its_file_back(world):
    world.release()
    world.rollout()
    shown = world.do("release.show", release="1.1.0")
    world.release()
    assert shown == world.do("release.show", release="1.1.0")


def test_the_same_image_signed_anew_is_told_how_to_put_its_file_back(world):
    world.release(seq=2)
    world.rollout()
    with pytest.raises(Conflict, match="holds this image, signed with seq 2; to put its file back name --seq 2"):
        world.release(seq=3)


def test_all_components_name_the_same_hardware(world):
    world.release()
    with pytest.raises(Conflict, match="for hardware r1"):
        world.release(component="config", hardware=("r2",))


def test_a_withdrawn_release_is_canceled_everywhere_and_cannot_be_started(world):
    device = downloading(world)
    result = world.do("release.withdraw", release="1.1.0", reason="it burns")
    assert (1, "withdrawn") == (result["canceled"], result["state"])
    assert (State.CANCELING, "withdrawn by ann: it burns") == (device.state, device.latest.cause)
    assert 1 == len(world.sent(CancelUpdate, world.last))
    with pytest.raises(Conflict, match="is withdrawn"):
        world.rollout()
    with pytest.raises(Conflict, match="already withdrawn"):
        world.do("release.withdraw", release="1.1.0")


def test_the_rollouts_of_a_withdrawn_release_are_canceled_with_it(world):
    downloading(world)
    world.release("1.2.0", seq=3)
    world.rollout("1.2.0", percent=0)
    world.do("rollout.pause", rollout=world.rollout(percent=0))
    world.do("release.withdraw", release="1.1.0")
    shown = {rollout["id"]: (rollout["release"], rollout["state"]) for rollout in world.do("rollout.list")}
    expected = [("prod/1.1.0", "canceled"), ("prod/1.1.0", "canceled"), ("prod/1.2.0", "running")]
    assert expected == sorted(shown.values())


# --- devices -----------------------------------------------------------------------------------------------------


def test_devices_are_listed_by_product_state_and_tag(world):
    world.device("d1")
    world.device("d2")
    world.device("e1", product="other")
    world.do("device.tag", device="d2", add=["canary"])
    world.do("device.retire", device="prod/d1")
    ids = lambda **wanted: [row["id"] for row in world.do("device.list", **wanted)]  # noqa: E731
    assert ["other/e1", "prod/d1", "prod/d2"] == ids()
    assert ["prod/d1", "prod/d2"] == ids(product="prod")
    assert ["prod/d1"] == ids(state="retired")
    assert ["prod/d2"] == ids(tag="canary")
    with pytest.raises(InvalidInput, match="one of pending, active, retired"):
        world.do("device.list", state="asleep")


def test_a_device_is_found_by_its_name_its_label_or_in_full(world):
    world.device("d1")
    world.do("device.rename", device="d1", label="pump 3")
    assert {"prod/d1"} == {world.do("device.show", device=name)["id"] for name in ("d1", "prod/d1", "pump 3")}


@pytest.mark.parametrize(
    ("name", "error"), [("d9", NotFound), ("prod/d9", NotFound), ("prod/", InvalidInput), ("a/b/c", InvalidInput)]
)
def test_a_device_that_is_not_there_is_said_so(world, name, error):
    world.device("d1")
    for operation in ("why", "device.show", "device.retire", "device.approve"):
        with pytest.raises(error):
            world.do(operation, device=name)


def test_an_ambiguous_name_lists_what_it_may_mean(world):
    world.device("d1")
    world.device("d1", product="other")
    with pytest.raises(InvalidInput, match="ambiguous: other/d1, prod/d1"):
        world.do("why", device="d1")


def test_a_device_is_added_once_with_hardware_and_tags(world):
    added = world.do("device.add", device="prod/d1", hw="r1", tags=["b", "a", "a"])
    assert ("r1", ["a", "b"], "active") == (added["hw"], added["tags"], added["state"])
    with pytest.raises(Conflict, match="exists already"):
        world.do("device.add", device="prod/d1")


@pytest.mark.parametrize(
    "args",
    [
        {"device": "d1"},
        {"device": "prod/d 1"},
        {"device": "prod/d1", "hw": "r 1"},
        {"device": "prod/d1", "tags": ["a b"]},
    ],
)
def test_a_device_that_cannot_be_is_not_added(world, args):
    with pytest.raises(InvalidInput):
        world.do("device.add", **args)


def test_an_import_is_all_or_nothing_and_names_the_row(world):
    with pytest.raises(InvalidInput, match="row 2: product"):
        world.do("device.import", rows=[{"device": "prod/d1"}, {"device": "pr od/d2"}])
    with pytest.raises(Conflict, match="row 2: device prod/d1 exists"):
        world.do("device.import", rows=[{"device": "prod/d1"}, {"device": "prod/d1"}])
    with pytest.raises(Conflict, match="row 2: label 'x' is taken by prod/d1"):
        world.do("device.import", rows=[{"device": "prod/d1", "label": "x"}, {"device": "prod/d2", "label": "x"}])
    assert [] == world.do("device.list")
    assert {"added": 2} == world.do("device.import", rows=[{"device": "prod/d1", "label": "x"}, {"device": "prod/d2"}])


def test_a_device_is_approved_once(world):
    world = World(enrol=Enrol.APPROVE)
    world.device("d1")
    assert "active" == world.do("device.approve", device="d1")["state"]
    with pytest.raises(Conflict, match="is active, not pending"):
        world.do("device.approve", device="d1")


def test_tags_come_and_go(world):
    world.device("d1")
    assert ["a", "b"] == world.do("device.tag", device="d1", add=["a", "b"])["tags"]
    assert ["b"] == world.do("device.tag", device="d1", remove=["a", "never"])["tags"]
    with pytest.raises(InvalidInput):
        world.do("device.tag", device="d1", add=["a/b"])


@pytest.mark.parametrize("label", ["x" * 65, "a\nb", "\x1b[31m"])
def test_a_label_is_short_and_printable(world, label):
    world.device("d1")
    with pytest.raises(InvalidInput):
        world.do("device.rename", device="d1", label=label)


def test_a_label_is_nobody_elses_name(world):
    world.device("d1")
    world.device("d2")
    with pytest.raises(Conflict, match="taken by prod/d2"):
        world.do("device.rename", device="d1", label="d2")
    world.do("device.rename", device="d1", label="")


def test_a_retired_device_lets_go_of_everything(world):
    device = downloading(world)
    shown = world.do("device.retire", device="d1")
    assert ("retired", {}) == (shown["state"], shown["assigned"])
    assert State.CANCELING is device.state
    with pytest.raises(Conflict, match="already retired"):
        world.do("device.retire", device="d1")


def test_a_successor_takes_over_tags_label_and_assignments(world):
    device = confirmed(world)
    world.do("device.tag", device="d1", add=["a"])
    world.do("device.rename", device="d1", label="pump")
    world.jump(60)
    heir = world.device("d2", check_in=False)
    world.do("device.replace", device="d1", successor="d2")
    outputs = heir.check_in()
    assert 1 == len(world.sent(Offer, outputs))
    record = heir.record
    assert (("a",), "pump", device.latest.release) == (record.tags, record.label, record.assigned["firmware"].release)
    assert ("retired", "") == (device.record.state, device.record.label)


def test_where_names_are_unique_no_second_product_gets_one():
    world = World(unique_names=True)
    world.device("d1")
    with pytest.raises(Conflict, match="d1 is registered as prod/d1"):
        world.do("device.add", device="other/d1")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({}, InvalidInput),
        ({"hw": "r2", "successor": "d2"}, InvalidInput),
        ({"hw": "r 2"}, InvalidInput),
        ({"successor": "d1"}, InvalidInput),
        ({"successor": ""}, InvalidInput),
        ({"successor": "gone"}, Conflict),
        ({"successor": "other/d1"}, InvalidInput),
    ],
)
def test_a_replacement_that_cannot_be_changes_nothing(world, args, error):
    device = world.device("d1")
    world.device("gone")
    world.do("device.retire", device="gone")
    before = device.record
    with pytest.raises(error):
        world.do("device.replace", device="d1", **args)
    assert before == device.record


# --- rollouts ----------------------------------------------------------------------------------------------------


def test_a_rollout_without_a_target_is_for_all(world):
    for number in range(3):
        world.device(f"d{number}")
    world.device("e1", product="other")
    world.release()
    started = world.do("rollout.start", release="1.1.0")
    assert ("all", 3, "running") == (started["target"], started["total"], started["state"])
    assert 3 == len(world.sent(Offer, world.last))
    assert 1 == len(set(world.sent(RolloutChanged, world.last)))


def test_a_rollout_for_named_devices_reaches_those(world):
    for number in range(3):
        world.device(f"d{number}")
    world.release()
    world.rollout(devices=["d1", "prod/d2"])
    assert ["prod/d1", "prod/d2"] == sorted(str(offer.device) for offer in world.sent(Offer))


def test_a_device_named_twice_is_one(world):
    world.device("d1")
    world.release()
    assert "1 named" == world.do("rollout.start", release="1.1.0", devices=["d1", "prod/d1"])["target"]


def test_an_empty_list_of_devices_is_never_taken_for_all(world):
    world.device()
    world.release()
    with pytest.raises(InvalidInput, match="list of devices is empty"):
        world.rollout(devices=[])
    assert [] == world.do("rollout.list")


def test_a_share_reaches_its_share_and_widening_the_rest(world):
    for number in range(100):
        world.device(f"d{number}")
    world.release()
    rollout = world.rollout(percent=10)
    first = {offer.device for offer in world.sent(Offer)}
    assert 1 <= len(first) <= 25
    world.do("rollout.percent", rollout=rollout, percent=100)
    offers = [offer.device for offer in world.sent(Offer)]
    assert 100 == len(offers) == len(set(offers))
    with pytest.raises(InvalidInput, match="can only grow"):
        world.do("rollout.percent", rollout=rollout, percent=10)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"release": "9"}, NotFound),
        ({"devices": ["nobody"]}, NotFound),
        ({"devices": ["other/e1"]}, InvalidInput),
        ({"devices": ["d1", "gone"]}, Conflict),
        ({"devices": ["d1"], "percent": 10}, InvalidInput),
        ({"percent": 101}, InvalidInput),
        ({"percent": -1}, InvalidInput),
    ],
)
def test_a_rollout_that_cannot_be_is_not_started(world, args, error):
    world.device("d1")
    world.device("e1", product="other")
    world.device("gone")
    world.do("device.retire", device="gone")
    world.release()
    with pytest.raises(error):
        world.do("rollout.start", **({"release": "1.1.0"} | args))
    assert [] == world.do("rollout.list")


@pytest.mark.parametrize("operation", ["pause", "resume", "cancel", "percent", "status"])
def test_an_unknown_rollout_is_said_so(world, operation):
    with pytest.raises(NotFound, match="no rollout 'r-none'"):
        world.do(f"rollout.{operation}", rollout="r-none", **({"percent": 1} if operation == "percent" else {}))


def test_a_device_that_appears_later_is_in_the_rollout(world):
    world.release()
    rollout = world.rollout()
    world.device("late")
    assert 1 == world.do("rollout.status", rollout=rollout)["total"]


def test_a_paused_rollout_takes_no_new_device_until_it_goes_on(world):
    world.release()
    rollout = world.rollout()
    world.do("rollout.pause", rollout=rollout)
    device = world.device("late")
    assert [] == device.all
    world.jump(60)
    world.do("rollout.resume", rollout=rollout)
    assert State.OFFERED is device.state


def test_pause_and_resume_and_cancel_refuse_what_is_no_change(world):
    world.release()
    rollout = world.rollout()
    with pytest.raises(Conflict, match="already running"):
        world.do("rollout.resume", rollout=rollout)
    world.do("rollout.pause", rollout=rollout)
    with pytest.raises(Conflict, match="already paused"):
        world.do("rollout.pause", rollout=rollout)
    world.do("rollout.cancel", rollout=rollout)
    for operation in ("pause", "resume", "cancel"):
        with pytest.raises(Conflict, match="is canceled"):
            world.do(f"rollout.{operation}", rollout=rollout)


def test_a_canceled_rollout_cancels_what_has_not_begun_and_leaves_what_runs(world):
    waiting = offered(world, name="d1")
    rollout = waiting.open.rollout
    done = world.device("d2")
    done.runs("1.1.0").check_in()
    result = world.do("rollout.cancel", rollout=rollout)
    assert (1, "canceled") == (result["canceled"], result["state"])
    assert State.CANCELING is waiting.state
    assert {} == waiting.record.assigned


def test_canceling_an_old_rollout_leaves_the_assignments_of_a_newer_one(world):
    device = world.device()
    world.release("1.1.0", seq=2)
    world.release("1.2.0", seq=3)
    old = world.rollout("1.1.0")
    device.says("fail", result_code="REFUSED_SIZE")
    world.jump(60)
    new = world.rollout("1.2.0")
    world.do("rollout.cancel", rollout=old)
    assert new == device.record.assigned["firmware"].rollout
    assert State.OFFERED is device.state


def test_the_status_counts_each_device_once_however_often_it_tried(world):
    device = offered(world)
    rollout = device.open.rollout
    device.says("fail", result_code="-1")
    world.passes(3600)
    status = world.do("rollout.status", rollout=rollout)
    assert (1, {"OFFERED": 1}, False) == (status["total"], status["counts"], status["complete"])
    assert [2] == [row["attempt"] for row in status["deployments"]]


def test_the_devices_of_a_rollout_are_in_order(world):
    names = [f"d{number}" for number in (3, 1, 4, 0, 2)]
    for name in names:
        world.device(name)
    world.release()
    shown = world.do("rollout.status", rollout=world.rollout())
    assert [f"prod/{name}" for name in sorted(names)] == [row["device"] for row in shown["deployments"]]


def test_a_rollout_is_complete_when_nothing_of_it_is_open(world):
    device = confirmed(world)
    status = world.do("rollout.status", rollout=device.latest.rollout)
    assert (True, 1, 1, 0) == (status["complete"], status["confirmed"], status["total"], status["open"])


def test_an_install_that_got_its_go_is_canceled_only_if_the_device_can(world):
    device = installing(world)
    assert 1 == world.do("rollout.cancel", rollout=device.open.rollout)["canceled"]
    assert State.CANCELING is device.state


def test_a_pause_of_a_rollout_holds_every_one_of_its_grants(world):
    first, second = world.device("d1"), world.device("d2")
    world.release()
    rollout = world.rollout()
    world.do("rollout.pause", rollout=rollout)
    states = {grant.state for one in (first, second) for grant in world.server._clients[one.id].grants}
    assert {GrantState.PAUSED} == states


def test_the_fleet_is_everything_that_watch_shows(world):
    device = downloading(world)
    fleet = world.do("fleet")
    assert ["prod/d1"] == [row["id"] for row in fleet["devices"]]
    assert [device.open.id] == [row["id"] for row in fleet["devices"][0]["open"]]
    assert 40 == fleet["devices"][0]["open"][0]["percent"]
    assert 1 == len(fleet["rollouts"])
    assert {"devices": [], "rollouts": []} == world.do("fleet", product="other")


def test_a_device_shows_its_history_and_reports_oldest_cause_first(world):
    device = confirmed(world)
    shown = world.do("device.show", device="d1")
    assert ["opened", "offer", "blocks", "downloaded", "go", "runs_trial", "runs_confirmed"] == [
        step["event"] for step in shown["history"]
    ]
    assert 5 == len(shown["reports"])
    assert [device.latest.id] == [row["id"] for row in shown["deployments"]]


# --- limits ------------------------------------------------------------------------------------------------------


def test_nothing_is_capped_until_somebody_says_so(world):
    shown = {"blocks_per_s": 0, "bytes_per_s": 0, "downloads": 0, "set": None, "set_by": None}
    assert shown == world.do("limits.show")


def test_a_cap_is_set_kept_told_to_the_block_plane_and_shown_with_who_set_it(world):
    result = world.do("limits.set", downloads=50)
    assert [LimitsChanged(limits=Limits(downloads=50))] == world.last
    assert (50, "ann") == (result["downloads"], result["set_by"])
    assert result == world.do("limits.show")


def test_what_is_not_named_stays_and_zero_lifts(world):
    world.do("limits.set", downloads=50, blocks_per_s=100)
    world.do("limits.set", bytes_per_s=100_000, blocks_per_s=0)
    shown = world.do("limits.show")
    assert (0, 100_000, 50) == (shown["blocks_per_s"], shown["bytes_per_s"], shown["downloads"])


@pytest.mark.parametrize("wrong", [{}, {"downloads": -1}, {"bytes_per_s": 10}, {"blocks_per_s": 10**13}])
def test_a_cap_that_cannot_be_changes_nothing(world, wrong):
    world.do("limits.set", downloads=50)
    with pytest.raises(InvalidInput, match=r"allowed is|at least one of"):
        world.do("limits.set", **wrong)
    assert 50 == world.do("limits.show")["downloads"]


def test_what_fails_changes_nothing(world):
    device = world.device()
    before = world.store._state.devices.copy()
    with pytest.raises(Conflict):
        world.do("device.import", rows=[{"device": "prod/new"}, {"device": str(device.id)}])
    assert before == world.store._state.devices
    assert replace(device.record) == device.record
    assert FACTORY == device.record.parts["firmware"].version
