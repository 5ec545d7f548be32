"""Calling an operation: what it is named, what arguments fit, what a read may do."""

import inspect
from dataclasses import replace

import pytest
from core_lives import offered
from core_world import FACTORY, World

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.operations import OPERATIONS, perform


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


def test_what_fails_changes_nothing(world):
    device = world.device()
    before = world.store._state.devices.copy()
    with pytest.raises(Conflict):
        world.do("device.import", rows=[{"device": "prod/new"}, {"device": str(device.id)}])
    assert before == world.store._state.devices
    assert replace(device.record) == device.record
    assert FACTORY == device.record.parts["firmware"].version
