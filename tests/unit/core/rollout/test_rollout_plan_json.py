import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.deployment import State
from ota_bridge.core.rollout.plan import (
    FAILURES,
    Action,
    FailureGate,
    Pace,
    Plan,
    Stage,
    SuccessGate,
    Timeouts,
    Tries,
    Window,
)
from ota_bridge.core.rollout.plan_json import PlanError, path_text, plan_from, plan_json, said_of_plan

seconds = st.floats(1, 86_400)
success = st.builds(
    SuccessGate,
    share=st.floats(0, 1),
    soak_s=st.floats(0, 86_400),
    action=st.sampled_from([Action.GO_ON, Action.WAIT]),
)
failure = st.builds(
    FailureGate,
    share=st.none() | st.floats(0.01, 1),
    count=st.integers(1, 1000),
    kinds=st.lists(st.sampled_from(FAILURES), min_size=1, unique=True).map(tuple),
    action=st.sampled_from([Action.PAUSE, Action.CANCEL]),
)
stage = st.builds(Stage, devices=st.integers(1, 1000), success=success, failure=st.none() | failure)
plans = st.builds(
    Plan,
    stages=st.lists(stage, max_size=4).map(lambda found: (*found, Stage())),
    start_wall=st.none() | st.floats(0, 2e9),
    deadline_s=st.none() | seconds,
    pace=st.none()
    | st.builds(Pace, per_min=st.floats(1, 1000), factor=st.floats(1, 10))
    | st.builds(Pace, over_s=seconds),
    windows=st.lists(st.builds(Window, cron=st.just("0 2 * * *"), length_s=st.integers(60, 3600))).map(tuple),
    timeouts=st.builds(Timeouts, offered_s=st.none() | seconds, sleepers_wait=st.booleans()),
    tries=st.builds(Tries, max_attempts=st.none() | st.integers(1, 9), quarantine_after=st.integers(0, 9)),
    takes_late=st.booleans(),
    is_urgent=st.booleans(),
    approvals=st.integers(0, 5),
    roll_back_to=st.none() | st.just("p/1.0"),
)


@given(plans)
def test_a_plan_comes_back_as_it_was_written(plan):
    assert plan == plan_from(json.loads(json.dumps(plan_json(plan))))


def test_the_default_plan_writes_nothing():
    assert {} == plan_json(Plan())


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        ([], (), "must be a table, not a list"),
        ({"stags": []}, ("stags",), "did you mean stages?"),
        ({"xyz": 1}, ("xyz",), "known are stages"),
        ({"stages": {}}, ("stages",), "must be a list, not a table"),
        ({"stages": [{"success": {"share": "all"}}]}, ("stages", 0, "success", "share"), "must be a number, not 'all'"),
        ({"stages": [{"success": {"share": 3}}]}, ("stages", 0, "success"), "share: 3 is not within 0..1"),
        ({"stages": [{"devices": 5.5}]}, ("stages", 0, "devices"), "must be a whole number"),
        ({"stages": [{"devices": True}]}, ("stages", 0, "devices"), "must be a whole number, not true"),
        ({"is_urgent": "yes"}, ("is_urgent",), "must be true or false"),
        ({"windows": [{"cron": "* * * * *"}]}, ("windows", 0, "length_s"), "is missing"),
        (
            {"stages": [{"failure": {"count": 1, "action": "rollback"}}]},
            ("stages", 0, "failure", "action"),
            "did you mean roll_back?",
        ),
        (
            {"stages": [{"failure": {"count": 1, "kinds": ["LATE"]}}]},
            ("stages", 0, "failure", "kinds", 0),
            "'LATE' is not one of",
        ),
        ({"stages": [{}, {}]}, (), "stage 1 takes the rest"),
        ({"roll_back_to": 5}, ("roll_back_to",), "must be text"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value, path, says):
    with pytest.raises(PlanError) as raised:
        plan_from(value)
    assert path == raised.value.path
    assert says in raised.value.problem
    assert str(raised.value).startswith("plan: ")
    assert path_text(path) in str(raised.value)


def test_states_are_kept_by_name():
    plan = Plan(stages=(Stage(failure=FailureGate(count=1, kinds=(State.TIMED_OUT,))),))
    assert {"stages": [{"failure": {"count": 1, "kinds": ["TIMED_OUT"]}}]} == plan_json(plan)


@pytest.mark.parametrize("path", [("pace",), ("stages", 3, "success", "share"), ("windows", 0)])
def test_the_path_of_an_error_is_read_back_from_its_sentence(path):
    assert (path, "no: more\nof it") == said_of_plan(str(PlanError(path, "no: more\nof it")))


@pytest.mark.parametrize("sentence", ["device d is not a q", "plan: no path", "plan: a b: c", str(PlanError((), "no"))])
def test_another_sentence_has_no_path(sentence):
    assert (None, sentence) == said_of_plan(sentence)
