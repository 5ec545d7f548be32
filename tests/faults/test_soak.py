"""A soak notices what it is there to notice: a leak, open files that add up, a broken rule. And a short one goes through."""

import json
import random
import sqlite3
from dataclasses import replace

import msgpack
import pytest

from tests.faults import soak, soak_checks
from tests.faults.soak_judge import (
    BLOCKS,
    DAEMON,
    Process,
    Sample,
    descriptor_goal,
    memory_goal,
    memory_slope,
    verdict,
    window,
)

HOUR_S = 3600.0


def series(*, leak_mib_per_h=0.0, warm_up_mib=0.0, noise_kib=300, fds=22, length_s=HOUR_S):
    """An hour of samples: caches fill in the first eighth, noise throughout, and perhaps a leak."""
    rng = random.Random(4)
    found = []
    for second in range(0, int(length_s), 5):
        warm = warm_up_mib * min(1.0, second / (length_s / 8))
        anon = 1024 * (40 + warm + leak_mib_per_h * second / HOUR_S) + rng.uniform(-noise_kib, noise_kib)
        daemon = Process(pid=10, anon_kib=round(anon), fds=fds, threads=5)
        blocks = Process(pid=11, anon_kib=16_000, fds=15, threads=3)
        found.append(
            Sample(
                second=float(second), processes={DAEMON: daemon, BLOCKS: blocks}, database_bytes=1 << 20, wal_bytes=0
            )
        )
    return found


def changed(sample, **changes):
    return replace(sample, processes={**sample.processes, DAEMON: replace(sample.processes[DAEMON], **changes)})


def missed(samples, length_s=HOUR_S):
    return [goal.name for goal in verdict(samples, length_s) if goal.held is False]


# --- memory ---


def test_steady_memory_holds():
    assert [] == missed(series())


@pytest.mark.parametrize("leak", [1.3, 5.0])
def test_a_leak_of_more_than_a_mebibyte_an_hour_is_missed_in_the_noise(leak):
    assert ["anonymous memory of daemon", "anonymous memory of daemon and block process"] == missed(
        series(leak_mib_per_h=leak)
    )


def test_what_rises_by_less_than_that_holds():
    assert [] == missed(series(leak_mib_per_h=0.7))


def test_the_slope_is_the_one_that_was_put_in():
    assert pytest.approx(2.0, abs=0.02) == memory_slope(series(leak_mib_per_h=2.0), [DAEMON])


def test_caches_that_fill_in_the_first_quarter_are_no_leak():
    assert [] == missed(series(warm_up_mib=20))


def test_a_leak_is_not_hidden_by_a_process_that_begins_anew():
    half = HOUR_S / 2
    samples = [
        one if one.second < half else changed(one, pid=12, anon_kib=one.processes[DAEMON].anon_kib - 4096)
        for one in series(leak_mib_per_h=3.0)
    ]
    goal = memory_goal(window(samples, HOUR_S), [DAEMON])
    assert (False, True) == (goal.held, "in 2 lives" in goal.found)
    assert pytest.approx(3.0, abs=0.1) == memory_slope(samples, [DAEMON])


def test_a_new_level_in_a_new_life_is_no_slope():
    samples = [one if one.second < 2000 else changed(one, pid=12, anon_kib=90_000) for one in series(noise_kib=0)]
    assert abs(memory_slope(samples, [DAEMON])) < 1e-9


def test_a_short_window_is_shown_and_not_judged():
    goal = memory_goal(window(series(leak_mib_per_h=9.0, length_s=600), 600), [DAEMON])
    assert (None, True) == (goal.held, "MiB/h" in goal.found)


def test_nothing_to_look_at_is_missed():
    assert 5 == len(missed([]))


# --- file descriptors ---


def test_files_that_stay_open_one_after_the_other_are_missed():
    samples = [changed(one, fds=22 + int(one.second // 400)) for one in series()]
    assert ["file descriptors of the daemon"] == missed(samples)


def test_files_of_a_moment_are_no_growth():
    samples = [changed(one, fds=30 if index % 7 == 0 else 20) for index, one in enumerate(series())]
    assert descriptor_goal(samples, DAEMON).held


# --- rules, looked at from outside ---


class Kept:
    """A database and answers of a daemon, made up."""

    def __init__(self):
        self.database = sqlite3.connect(":memory:")
        self.database.executescript(
            "CREATE TABLE reports (product, name, boot, seq, kind, body);"
            "CREATE TABLE deployments (id, product, name, rollout, state, is_open, latest, created_wall);"
            "INSERT INTO reports VALUES ('demo', 'line-0001', 1, 1, 'report_version', "
            """ '{"parts": {"firmware": ["1.1.0", 1, "", 0]}}');"""
            "INSERT INTO deployments VALUES ('d1', 'demo', 'line-0001', 'r1', 'CONFIRMED', 0, 1, 1.0);"
        )
        self.answers = {
            "release.list": [{"version": "1.1.0", "parts": {"firmware": {"sha256": "ab", "seq": 1}}}],
            "device.list": [{"id": "demo/line-0001", "name": "line-0001", "parts": {"firmware": {"version": "1.1.0"}}}],
            "rollout.list": [{"id": "r1", "counts": {"CONFIRMED": 1}}],
        }
        self.device = {"device": "line-0001", "new_version": "1.1.0", "sha256": "ab", "slot_ok": True}

    def rows(self, sql, *values):
        return self.database.execute(sql, values).fetchall()

    def call(self, op, **args):
        return self.answers[op]

    def heard(self, topic, message):
        return list(soak_checks.check_heard(self, [(0.0, topic, msgpack.packb(message))]))

    def at_the_end(self):
        """The names of the rules that are broken."""
        report = {"devices": [self.device]}
        wrong = [
            *soak_checks.check_devices(self, report),
            *soak_checks.check_beliefs(self, report),
            *soak_checks.check_quiet(self, "1.1.0"),
        ]
        return sorted({name for name, _ in wrong})


@pytest.fixture
def kept():
    return Kept()


def test_what_is_well_breaks_no_rule(kept):
    ack = {"type": "report_ack", "boot": 1, "seqs": [1]}
    offer = {"type": "update_firmware", "id": "d1"}
    assert [] == kept.heard("$ota/update/demo/line-0001", ack) + kept.heard("$ota/update/demo/line-0001", offer)
    assert [] == kept.heard("$ota/block/spare/spare-0001", [b"12345678", 0, 4])
    assert [] == kept.at_the_end()


def test_an_acknowledged_report_that_is_not_stored_breaks_i2(kept):
    wrong = kept.heard("$ota/update/demo/line-0001", {"type": "report_ack", "boot": 1, "seqs": [1, 2]})
    assert [("I2", "report 2 of boot 1 of demo/line-0001 was acknowledged and is not in the database")] == wrong


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("$ota/update/spare/spare-0001", {"type": "update_firmware", "id": "d1"}),
        ("$ota/update/demo/line-0002", {"type": "update_firmware", "id": "d1"}),
        ("$ota/block/spare/spare-0001", [b"12345678", 0, bytes(1024)]),
    ],
)
def test_what_goes_to_a_device_outside_the_rollout_breaks_i5(kept, topic, message):
    assert ["I5"] == [name for name, _ in kept.heard(topic, message)]


@pytest.mark.parametrize("changes", [{"slot_ok": False}, {"sha256": "cd"}])
def test_a_wrong_image_in_a_slot_breaks_i1(kept, changes):
    kept.device |= changes
    assert ["I1"] == kept.at_the_end()


def test_a_version_that_was_never_released_breaks_i1_and_the_belief_i6(kept):
    kept.device["new_version"] = "6.6.6"
    assert ["I1", "I6"] == kept.at_the_end()


def test_a_seq_that_falls_breaks_i1(kept):
    body = json.dumps({"parts": {"firmware": ["0.9.0", 0, "", 0]}})
    kept.rows("INSERT INTO reports VALUES ('demo', 'line-0001', 2, 1, 'report_version', ?)", body)
    assert ["I1"] == kept.at_the_end()


def test_a_trial_that_goes_back_breaks_nothing(kept):
    body = json.dumps({"parts": {"firmware": ["1.2.0", 2, "", 1]}})
    kept.rows("INSERT INTO reports VALUES ('demo', 'line-0001', 0, 9, 'report_version', ?)", body)
    assert [] == kept.at_the_end()


def test_a_deployment_that_does_not_end_breaks_i3(kept):
    kept.rows("INSERT INTO deployments VALUES ('d2', 'demo', 'line-0001', 'r2', 'DOWNLOADING', 1, 0, 2.0)")
    assert ["I3"] == kept.at_the_end()


def test_a_count_that_is_not_the_recount_breaks_i4(kept):
    kept.answers["rollout.list"][0]["counts"] = {"CONFIRMED": 2}
    assert ["I4"] == kept.at_the_end()


# --- the whole ---


@pytest.mark.mosquitto
def test_a_short_soak_breaks_no_rule_and_writes_down_what_it_saw(tmp_path):
    told = []
    found = soak.run(soak.Plan(minutes=0.2, devices=15, seed=3), results=tmp_path, tell=told.append)
    assert found["held"], "\n".join(told)
    assert found == json.loads((tmp_path / "soak.3.summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "soak.3.jsonl").read_text().splitlines()]
    assert len(lines) >= 10
    assert {DAEMON, BLOCKS} == set(lines[0]["processes"])
    assert set(soak.STRIKES) <= set(found["strikes"]) | {"broker killed"}
    assert sum(found["lines_struck"].values()) > 0
