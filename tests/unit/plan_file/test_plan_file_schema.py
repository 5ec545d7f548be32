"""The schema says of a file what the reader says."""

import copy
import json
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan_file_reading import TOML, YAML

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
from ota_bridge.plan_file import PlanFileError, plan_schema, read_plan_text
from ota_bridge.plan_file.form import tables
from ota_bridge.plan_file.toml_text import read_toml
from ota_bridge.plan_file.values import Duration, Instant, Share, spelled
from ota_bridge.plan_file.yaml_text import read_yaml

SCHEMA = plan_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TABLES = {table.record: table for table in tables()}


def reads(document):
    try:
        return read_plan_text(json.dumps(document).encode(), file="plan", is_yaml=True)
    except PlanFileError:
        return None


def test_it_is_a_schema_and_describes_every_word():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    waiting = [SCHEMA]
    while waiting:
        for one in waiting.pop().get("properties", {}).values():
            assert one["description"]
            waiting.append(one.get("items", one))


def test_it_takes_what_the_samples_say_in_either_format():
    toml = json.loads(json.dumps(read_toml(TOML).value, default=datetime.isoformat))
    assert [] == list(VALIDATOR.iter_errors(toml))
    assert [] == list(VALIDATOR.iter_errors(read_yaml(YAML).value))


# --- plans, written as files -------------------------------------------------------------------------------------

whole_s = st.integers(60, 86_400).map(float)
texts = st.text("abc ", min_size=1, max_size=8).filter(str.strip)
success = st.builds(
    SuccessGate,
    share=st.integers(0, 100).map(lambda part: part / 100),
    min_count=st.integers(0, 5),
    soak_s=whole_s,
    action=st.sampled_from([Action.GO_ON, Action.WAIT]),
)
failure = st.builds(
    FailureGate,
    share=st.none() | st.floats(0.01, 1),
    count=st.integers(1, 1_000),
    kinds=st.lists(st.sampled_from(FAILURES), min_size=1, unique=True).map(tuple),
    min_executed=st.integers(1, 9),
    action=st.sampled_from([Action.PAUSE, Action.CANCEL, Action.ROLL_BACK]),
)
stage = st.builds(Stage, devices=st.integers(5, 10**9), success=success, failure=st.none() | failure)
pace = st.builds(
    Pace, per_min=st.floats(0.01, 1e6), factor=st.floats(1, 10), per_success=st.integers(1, 99)
) | st.builds(Pace, over_s=whole_s)
plans = st.builds(
    Plan,
    stages=st.lists(stage, max_size=4).map(lambda found: (*found, Stage())),
    start_wall=st.none() | st.integers(0, 2_000_000_000).map(float),
    deadline_s=st.none() | whole_s,
    pace=st.none() | pace,
    windows=st.lists(
        st.builds(Window, cron=st.just("0 2 * * *"), length_s=st.integers(60, 604_800), tz=st.just("UTC"), where=texts),
        max_size=2,
    ).map(tuple),
    timeouts=st.builds(
        Timeouts, offered_s=st.none() | whole_s, trial_s=st.none() | whole_s, sleepers_wait=st.booleans()
    ),
    tries=st.builds(Tries, max_attempts=st.none() | st.integers(1, 100), backoff_s=st.none() | whole_s),
    takes_late=st.booleans(),
    is_urgent=st.booleans(),
    approvals=st.integers(0, 16),
    roll_back_to=st.just("p/1.0"),
)


def as_file(record, draw_text):
    """A record as the file says it; `draw_text` chooses between words and numbers."""
    found = {}
    for row in TABLES[type(record)].rows:
        if row.key in TABLES[type(record)].target:
            continue
        value = getattr(record, row.name)
        default = next(one for one in fields(record) if one.name == row.name)
        if value is not None and value != default.default and value not in ((), ""):
            found[row.key] = plain(value, row.form, draw_text)
    return found


def plain(value, form, draw_text):
    if is_dataclass(value):
        return as_file(value, draw_text)
    if isinstance(value, tuple):
        return [item.value.lower() if isinstance(item, State) else plain(item, form, draw_text) for item in value]
    if isinstance(form, Instant):
        return datetime.fromtimestamp(value, UTC).isoformat()
    if isinstance(form, Duration) and draw_text() and value:
        return spelled(value)
    if isinstance(form, Share) and draw_text() and value * 100 == int(value * 100):
        return f"{int(value * 100)} %"
    return value.value if isinstance(value, Action) else value


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans, st.randoms(use_true_random=False))
def test_reader_and_schema_take_every_plan_and_the_reader_makes_the_same_of_it(plan, random):
    document = {"release": "p/2.0", "to": "all", **as_file(plan, lambda: random.random() < 0.5)}
    assert [] == list(VALIDATOR.iter_errors(document))
    found = reads(document)
    assert found is not None
    assert plan == found.plan


ODD = [None, True, -1, 0.5, 10**10, "", "x", "80 %", "2h", [], [1], {}, {"x": 1}, "all", "2026-12-01T00:00:00Z"]


def places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans, st.data())
def test_where_one_value_is_another_the_schema_takes_what_the_reader_takes(plan, data):
    document = copy.deepcopy({"release": "p/2.0", "to": "all", **as_file(plan, lambda: True)})
    inside, key = data.draw(st.sampled_from([*places(document)]))
    match data.draw(st.sampled_from(["other", "gone", "more"])):
        case "other":
            inside[key] = data.draw(st.sampled_from(ODD))
        case "gone":
            del inside[key]
        case "more":
            (inside if isinstance(inside, dict) else document)["strange"] = 1
    if reads(document) is not None:
        assert [] == list(VALIDATOR.iter_errors(document))


LEAST = {"release": "p/2.0", "to": "all"}


@pytest.mark.parametrize(
    "more",
    [
        {"strange": 1}, {"percent": 5}, {"release": 5}, {"release": "a/b/c"}, {"to": "some"}, {"to": []},
        {"to": ["a", "a"]}, {"start": "2026-12-01T02:00:00"}, {"start": "tomorrow"}, {"deadline": "2 hours"},
        {"deadline": 0}, {"late": "yes"}, {"approvals": 17}, {"approvals": 1.5}, {"roll_back_to": "1.0"},
        {"pace": {}}, {"pace": {"per_min": 1, "over": "1h"}}, {"pace": {"per_min": 0}}, {"stage": []}, {"stage": {}},
        {"stage": [{"devices": 0}]}, {"stage": [{"devices": 1, "percent": 1}]}, {"stage": [{"percent": 0}]},
        {"stage": [{"success": {"share": 80}}]}, {"stage": [{"success": {"share": "101 %"}}]},
        {"stage": [{"success": {"then": "pause"}}]}, {"stage": [{"failure": {}}]},
        {"stage": [{"failure": {"share": "0 %"}}]}, {"stage": [{"failure": {"count": 1, "kinds": ["CANCELED"]}}]},
        {"window": [{"cron": "0 2 * *", "length": 60}]}, {"window": [{"cron": "0 2 * * *"}]},
        {"window": [{"cron": "0 2 * * *", "length": 59}]}, {"timeouts": {"offered": 0.5}}, {"retries": {"failed": 0}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_the_schema_can_say_both_refuse(more):
    document = {**LEAST, **more}
    assert not VALIDATOR.is_valid(document)
    assert reads(document) is None


@pytest.mark.parametrize(
    "more",
    [{"deadline": "400d"}, {"stage": [{}, {}]}, {"stage": [{"devices": 1, "success": {"min": 2}}]}, {"start": "2026-13-01T00:00:00Z"}],
    ids=json.dumps,
)  # fmt: skip
def test_what_only_the_reader_can_say(more):
    document = {**LEAST, **more}
    assert VALIDATOR.is_valid(document)
    assert reads(document) is None
