"""`rollout …`, `why`, `watch` once, and reads with a stopped daemon."""

import pytest


@pytest.fixture
def fleet(daemon, publish):
    publish("1.1.0")
    for number in (1, 2, 3):
        daemon.report(f"demo/d{number}")
    return daemon


def start(operator, *words):
    return operator("rollout", "start", "1.1.0", *words, "--json").json


def test_start_for_all_offers_to_everyone(operator, fleet):
    rollout = start(operator, "--to", "all")
    assert (rollout["target"], rollout["total"]) == ("all", 3)
    assert operator("rollout", "status", "--json").json["rollouts"][0]["id"] == rollout["id"]
    assert rollout["id"] in operator("rollout", "status").out
    status = operator("rollout", "status", rollout["id"], "--json").json
    assert {row["device"]: row["state"] for row in status["deployments"]} == dict.fromkeys(
        ("demo/d1", "demo/d2", "demo/d3"), "OFFERED"
    )
    text = operator("rollout", "status", rollout["id"])
    assert ["demo/d1", "firmware", "OFFERED"] in [line[:3] for line in text.lines()]


@pytest.mark.parametrize("words", [("--to", "d1", "--to", "demo/d2"), ("--to", "d1", "d2"), ("--to", "d1,d2")])
def test_start_for_named_devices(operator, fleet, words):
    rollout = start(operator, *words)
    assert (rollout["target"], rollout["total"]) == ("2 named", 2)


def test_start_for_a_share_that_grows(operator, fleet):
    rollout = start(operator, "--percent", "0")
    assert rollout["total"] == 0
    assert operator("rollout", "percent", rollout["id"], "100", "--json").json["total"] == 3
    ran = operator("rollout", "percent", rollout["id"], "10")
    assert (ran.code, "can only grow" in ran.err) == (1, True)


def test_pause_resume_cancel(operator, fleet):
    name = start(operator, "--to", "all")["id"]
    assert f"rollout {name} is paused" in operator("rollout", "pause", name).out
    assert operator("rollout", "pause", name, "--json").json["error"]["code"] == "conflict"
    assert f"rollout {name} is running" in operator("rollout", "resume", name).out
    assert operator("rollout", "cancel", name, "--json").json["state"] == "canceled"
    assert operator("rollout", "resume", name).code == 1


def test_watching_a_rollout_ends_when_it_is_over(operator, fleet):
    name = start(operator, "--to", "all")["id"]
    operator("rollout", "cancel", name)
    ran = operator("rollout", "status", name, "--watch")
    assert ran.code == 0
    assert f"rollout {name}: 0 of 3 confirmed" in ran.out


@pytest.mark.parametrize("words", [("--to", "gone"), ("--to", "other/d1")])
def test_a_device_that_is_not_there_is_named(operator, fleet, words):
    ran = operator("rollout", "start", "1.1.0", *words)
    assert ran.code == 1
    assert words[1] in ran.err


def test_a_rollout_or_release_that_is_not_there(operator, fleet):
    for words in (("start", "9.9.9", "--to", "all"), ("status", "r-none"), ("pause", "r-none")):
        ran = operator("rollout", *words, "--json")
        assert (ran.code, ran.json["error"]["code"]) == (1, "not_found")


def test_why_is_one_sentence(operator, fleet):
    ran = operator("why", "d1")
    assert ran.code == 0
    assert ran.out.startswith("demo/d1: ")
    assert ran.out.count("\n") == 1
    assert operator("why", "d1", "--json").json["sentence"] == ran.out.strip()


READS = [
    ("release", "list"),
    ("release", "show", "1.1.0"),
    ("device", "list"),
    ("device", "show", "d1"),
    ("rollout", "status"),
    ("why", "d1"),
]


def test_with_a_stopped_daemon_reads_answer_the_same_as_of_the_last_commit(operator, fleet):
    start(operator, "--to", "all")
    before = {words: operator(*words, "--json").json for words in READS}
    fleet.stop()
    for words in READS:
        ran = operator(*words, "--json")
        assert ran.code == 0
        assert "no daemon is running; as of " in ran.err
        document = ran.json
        assert document.pop("as_of").endswith("Z")
        if words[0] != "why":
            assert document == before[words]
        assert operator(*words).code == 0


def test_with_a_stopped_daemon_writes_are_refused(operator, fleet):
    fleet.stop()
    ran = operator("rollout", "start", "1.1.0", "--to", "all")
    assert (ran.code, ran.out) == (3, "")
    assert "start it with `ota-bridge serve`" in ran.err


def test_a_database_that_cannot_be_read_is_said_so(operator, fleet):
    fleet.stop()
    (operator.directory / "ota-data" / "ota-bridge.sqlite").write_bytes(b"not a database" * 1000)
    ran = operator("device", "list")
    assert ran.code == 1
    assert "ota-bridge.sqlite" in ran.err
