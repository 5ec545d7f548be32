"""`rollout check`, `schema`, `example`, and `rollout start --plan`."""

import json

import pytest

from ota_bridge.cli.session import Answer, Session
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import Action
from ota_bridge.core.rollout.plan_json import PlanError, plan_from
from ota_bridge.plan_file import plan_schema, read_plan_text

GOOD = """release = "demo/1.1.0"
to = ["d1", "d2"]
urgent = true

[[stage]]
name = "one"
devices = 1

[[stage]]
"""
PLAN = {"stages": [{"name": "one", "devices": 1}, {}], "is_urgent": True}
BAD = """release = "demo/1.1.0"
to = "al"
[[stage]]
where = 'prodct == "demo"'
[[window]]
cron = "0 25 * * *"
length = "1h"
"""


@pytest.fixture
def plan_file(operator):
    def write(text=GOOD, name="plan.toml"):
        path = operator.directory / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def asked(monkeypatch):
    """What was asked of a daemon that answers everything, or refuses with what `refusal` holds."""
    calls = []
    result = {"id": "r-1", "release": "demo/1.1.0", "target": "2 named", "counts": {}, "confirmed": 0, "total": 2, "ok": True}  # fmt: skip

    def call(session, op, args, **more):
        calls.append((op, json.loads(json.dumps(dict(args)))))
        if calls.refusal is not None:
            raise calls.refusal
        return result

    class Calls(list):
        refusal = None

    calls = Calls()
    monkeypatch.setattr(Session, "call", call)
    monkeypatch.setattr(Session, "read", lambda session, op, args: Answer(call(session, op, args), None))
    return calls


def test_check_says_what_the_file_means_also_where_no_daemon_runs(operator, plan_file):
    ran = operator("rollout", "check", plan_file())
    assert (0, "no daemon is running and there is no database") == (ran.code, ran.err[:45])
    assert ["plan.toml: demo/1.1.0 to 2 named", "  1. one: 1 device", "  2. rest"] == [
        line.removeprefix(f"{operator.directory}/") for line in ran.out.splitlines()
    ]


def test_check_as_json_holds_what_a_start_would_ask_for(operator, plan_file):
    found = operator("rollout", "check", plan_file(), "--json").json
    assert {"release": "demo/1.1.0", "devices": ["d1", "d2"], "plan": PLAN, "asked": False} == {
        name: found[name] for name in ("release", "devices", "plan", "asked")
    }


def test_check_asks_a_daemon(operator, plan_file, asked):
    assert operator("rollout", "check", plan_file(), "--json").json["asked"] is True
    assert [("rollout.check", {"release": "demo/1.1.0", "devices": ["d1", "d2"], "plan": PLAN})] == asked


@pytest.mark.parametrize("words", [("check",), ("start", "--plan")])
def test_all_problems_are_shown_with_their_lines(operator, plan_file, words):
    path = plan_file(BAD)
    ran = operator("rollout", *words, path)
    assert (1, "") == (ran.code, ran.out)
    assert (
        f'{path}:2:6: to: "al" cannot be used; allowed is "all", or a list of devices\n  2 | to = "al"\n           ^\n'
        in ran.err
    )
    assert f"{path}:4:9: where: " in ran.err
    assert f"{path}:6:8: cron: " in ran.err
    assert ran.err.endswith(f"error: {path}: 3 problems\n")


def test_problems_as_json(operator, plan_file):
    path = plan_file(BAD)
    ran = operator("rollout", "check", path, "--json")
    error = ran.json["error"]
    assert (1, "invalid", [2, 4, 6]) == (ran.code, error["code"], [one["line"] for one in error["problems"]])
    assert {"file": str(path), "line": 2, "column": 6} == {
        name: error["problems"][0][name] for name in ("file", "line", "column")
    }
    assert error["message"].endswith("(and 2 more)")


@pytest.mark.parametrize("words", [("check",), ("start", "--plan")])
def test_what_the_daemon_refuses_of_a_plan_is_shown_at_its_place(operator, plan_file, asked, words):
    asked.refusal = InvalidInput(str(PlanError(("stages", 0, "devices"), "too few")))
    path = plan_file()
    ran = operator("rollout", *words, path)
    assert 1 == ran.code
    assert f"{path}:7:11: devices: too few\n  7 | devices = 1\n" in ran.err


def test_what_the_daemon_refuses_beside_the_plan_is_said_as_it_is(operator, plan_file, asked):
    asked.refusal = InvalidInput("device p/d1 is not a demo")
    ran = operator("rollout", "start", "--plan", plan_file())
    assert (1, "error: device p/d1 is not a demo\n") == (ran.code, ran.err)


def test_start_sends_the_plan(operator, plan_file, asked):
    ran = operator("rollout", "start", "--plan", plan_file())
    assert 0 == ran.code
    assert [("rollout.start", {"release": "demo/1.1.0", "devices": ["d1", "d2"], "plan": PLAN})] == asked
    assert "rollout r-1 of demo/1.1.0 to 2 named" in ran.out


def test_start_and_urgency_on_the_command_line_count_more_than_the_file(operator, plan_file, asked):
    path = plan_file(GOOD.replace("urgent = true", "start = 2026-01-01T00:00:00Z"))
    words = ("--start", "1970-01-01T01:00:10+01:00", "--urgent")
    operator("rollout", "start", "--plan", path, *words)
    operator("rollout", "start", "1.1.0", "--to", "all", *words)
    plans = [args["plan"] for _, args in asked]
    assert [(10.0, True)] * 2 == [(one["start_wall"], one["is_urgent"]) for one in plans]


def test_without_a_plan_none_is_sent(operator, asked):
    operator("rollout", "start", "1.1.0", "--to", "all")
    assert [("rollout.start", {"release": "1.1.0"})] == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name a RELEASE, or --plan FILE"),
        (("1.1.0", "--plan", "x.toml"), "--plan says which release goes to whom"),
        (("--plan", "x.toml", "--to", "all"), "--plan says which release goes to whom"),
        (("--plan", "x.toml", "--percent", "5"), "--plan says which release goes to whom"),
        (("1.1.0", "--to", "all", "--start", "tomorrow"), "--start: "),
    ],
)
def test_a_command_line_that_cannot_be_meant(operator, asked, words, said):
    ran = operator("rollout", "start", *words)
    assert (2, True, []) == (ran.code, said in ran.err, asked)


@pytest.mark.parametrize("words", [("check",), ("start", "--plan")])
def test_a_file_that_is_not_there_is_named(operator, words):
    ran = operator("rollout", *words, "none.toml")
    assert (1, "error: No such file or directory: none.toml\n") == (ran.code, ran.err)


def test_the_example_is_a_plan_in_four_steps(operator, plan_file):
    text = operator("rollout", "example").out
    found = read_plan_text(text.encode(), file="example", is_yaml=False)
    assert ["canary: 5 devices", "tenth: 10 %", "half: 50 %", "rest"] == [str(one) for one in found.plan.stages]
    assert Action.WAIT is found.plan.stages[0].success.action
    assert 0 == operator("rollout", "check", plan_file(text)).code


def test_the_schema_is_printed(operator):
    assert plan_schema() == operator("rollout", "schema").json


def test_a_plan_file_starts_a_rollout_in_a_daemon(operator, daemon, publish, plan_file):
    publish("1.1.0")
    for name in ("d1", "d2"):
        daemon.report(f"demo/{name}")
    path = plan_file()
    assert 0 == operator("rollout", "check", path).code
    started = operator("rollout", "start", "--plan", path, "--json").json
    assert ("demo/1.1.0", "2 named") == (started["release"], started["target"])
    ran = operator("rollout", "check", plan_file(GOOD + "[timeouts]\n", "other.yaml"))
    assert (1, True) == (ran.code, "must be a table: `key: value`" in ran.err)
    missing = operator("rollout", "check", plan_file(GOOD.replace("1.1.0", "9.9.9")), "--json")
    assert (1, "not_found") == (missing.code, missing.json["error"]["code"])


def test_what_the_daemon_knows_of_a_plan_is_told_at_its_place(operator, daemon, publish, plan_file):
    publish("1.1.0")
    path = plan_file('release = "demo/1.1.0"\nto = "all"\nroll_back_to = "demo/9.9.9"\n')
    ran = operator("rollout", "check", path)
    assert 1 == ran.code
    assert f"{path}:3:16: roll_back_to: " in ran.err
    assert plan_from({"roll_back_to": "demo/9.9.9"}).roll_back_to == "demo/9.9.9"
