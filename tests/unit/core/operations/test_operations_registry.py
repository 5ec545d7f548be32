"""Calling an operation: what it is named, what arguments fit, what a read may do."""

import inspect
import json
from dataclasses import replace

import pytest
from core_lives import offered
from core_world import FACTORY, World

from ota_bridge.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from ota_bridge.core.operations import EDGE, OPERATIONS, Failure, admit, perform, record_failure
from ota_bridge.core.people import Caller, Role


@pytest.fixture
def world():
    return World()


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
        world.read(lambda unit: perform(unit, world.bridge, name, args, caller=world.caller, now=world.now))
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
    "rollout.check": {"release": "1.1.0"},
    "rollout.plan": {"release": "1.1.0"},
    "release.path": {"release": "1.1.0", "version": "1.0"},
    "device.list": {},
    "device.show": {"device": "d1"},
    "rollout.list": {},
    "rollout.status": {"rollout": None},
    "why": {"device": "d1"},
    "fleet": {},
    "limits.show": {},
    "user.list": {},
    "token.list": {},
    "audit.list": {},
    "audit.verify": {},
    "rollout.approvals": {"rollout": None},
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
    result, outputs = world.read(
        lambda unit: perform(unit, world.bridge, name, args, caller=Caller(user="ann"), now=world.now)
    )
    assert [] == outputs
    assert result == json.loads(json.dumps(result))


def test_what_fails_changes_nothing(world):
    device = world.device()
    before = world.store._state.devices.copy()
    with pytest.raises(Conflict):
        world.do("device.import", rows=[{"device": "prod/new"}, {"device": str(device.id)}])
    assert before == world.store._state.devices
    assert replace(device.record) == device.record
    assert FACTORY == device.record.parts["firmware"].version


# --- who may -----------------------------------------------------------------------------------------------------

OWNER = Caller(user="root", is_owner=True)
VIC = Caller(user="vic")


@pytest.fixture
def guarded(world):
    """A world with one user, who may look."""
    world.caller = OWNER
    world.do("user.add", user="vic", roles=["viewer"])
    return world


def whole(world):
    state = world.store._state
    tables = {name: getattr(state, name) for name in state.__slots__}
    return {name: dict(table) for name, table in tables.items() if isinstance(table, dict)}


@pytest.mark.parametrize("name", sorted(name for name, operation in OPERATIONS.items() if operation.writes))
def test_a_viewer_may_change_nothing_whatever_the_arguments(guarded, name):
    before = whole(guarded)
    guarded.caller = VIC
    role = OPERATIONS[name].role
    with pytest.raises(Forbidden, match=f"{name} needs the role {role}, and vic has viewer; root or the daemon's own"):
        guarded.do(name)
    assert before == whole(guarded)


@pytest.mark.parametrize("name", sorted(name for name, operation in OPERATIONS.items() if not operation.writes))
def test_a_viewer_may_look_at_everything_and_a_stranger_at_nothing(guarded, name):
    guarded.caller = VIC
    try:
        guarded.do(name)
    except (InvalidInput, NotFound):
        pass  # without arguments
    guarded.caller = Caller(user="stranger")
    with pytest.raises(Forbidden, match="needs the role viewer, and stranger has no role"):
        guarded.do(name)


@pytest.mark.parametrize(("name", "role"), sorted(EDGE.items()))
def test_what_the_edge_does_itself_needs_a_role_too(guarded, name, role):
    ask = lambda caller: guarded.read(lambda unit: admit(unit, name, caller, guarded.now))  # noqa: E731
    if role is Role.VIEWER:
        assert "vic" == ask(VIC).name
    else:
        with pytest.raises(Forbidden, match=f"{name} needs the role {role}"):
            ask(VIC)
        guarded.do("user.roles", user="vic", add=[role])
        assert "vic" == ask(VIC).name
    with pytest.raises(NotFound, match="no operation 'what'"):
        guarded.read(lambda unit: admit(unit, "what", OWNER, guarded.now))


def test_nothing_is_at_once_an_operation_and_the_edges():
    assert set() == set(EDGE) & set(OPERATIONS)


# --- the record --------------------------------------------------------------------------------------------------


def entries(world):
    return world.read(lambda unit: unit.audit.page())


def test_what_writes_is_recorded_with_who_what_and_to_what(world):
    world.do("device.add", device="prod/d1", tags=["a"])
    world.do("device.rename", device="d1", label="pump")
    world.do("limits.set", downloads=5)
    world.do("why", device="d1")
    world.release()
    rollout = world.rollout()
    facts = [(one.actor, one.how, one.action, one.subject, one.result) for one in entries(world)]
    assert [
        ("ann", "peer", "device.add", "device prod/d1", "ok"),
        ("ann", "peer", "device.rename", "device prod/d1", "ok"),
        ("ann", "peer", "limits.set", "limits", "ok"),
        ("ann", "peer", "release.add", "release prod/1.1.0", "ok"),
        ("ann", "peer", "rollout.start", f"rollout {rollout}", "ok"),
    ] == facts
    assert {"args": {"device": "prod/d1", "tags": ["a"]}} == json.loads(entries(world)[0].detail)
    assert {round(world.wall * 1000)} == {one.wall_ms for one in entries(world)}


def test_what_fails_is_not_recorded_with_the_change_that_is_not_there(world):
    with pytest.raises(InvalidInput):
        world.do("device.add", device="nonsense")
    assert [] == entries(world)


def test_a_failure_is_recorded_with_its_code_and_what_was_named(world):
    failure = Failure(code="not_found", sentence="no device 'd9'", unrecorded=3)
    work = lambda unit: record_failure(  # noqa: E731
        unit, "device.retire", {"device": "d9"}, failure, caller=world.caller, now=world.now
    )
    world.store.submit(work, lambda outcome: None)
    one = entries(world)[0]
    assert ("device.retire", "device d9", "not_found") == (one.action, one.subject, one.result)
    expected = {"args": {"device": "d9"}, "error": "no device 'd9'", "unrecorded": 3}
    assert expected == json.loads(one.detail)


def test_an_import_of_many_is_recorded_by_its_digest(world):
    world.do("device.import", rows=[{"device": f"prod/d{number}"} for number in range(1000)])
    detail = entries(world)[0].detail
    assert len(detail) < 200
    assert {"bytes", "sha256"} == set(json.loads(detail)["args"]["rows"])


def test_no_secret_gets_into_the_record(world):
    world.caller = OWNER
    world.do("user.add", user="ci", roles=["author"])
    text = world.do("token.new", user="ci", name="build")["token"]
    secret = text.rpartition("_")[2]
    failure = Failure(code="not_found", sentence=f"no token {text!r}")
    work = lambda unit: record_failure(  # noqa: E731
        unit, "token.revoke", {"token": text}, failure, caller=Caller(user="ann", token=text), now=world.now
    )
    world.store.submit(work, lambda outcome: None)
    assert 3 == len(entries(world))
    assert not [one for one in entries(world) if secret in repr(one)]
    assert ("ci", "token build") == (entries(world)[-1].actor, entries(world)[-1].how)
