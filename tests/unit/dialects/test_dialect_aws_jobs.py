"""The state machine of jobs, as a thing sees it, over the whole core."""

import json

import pytest
from aws_world import SIGNATURE, AwsWorld

from ota_bridge.core.values import DeviceId

TOKEN = {"clientToken": "t"}


def known(**more):
    """A thing that has been heard."""
    here = AwsWorld(**more)
    here.says("get")
    return here


def offered(**more):
    here = known(**more)
    here.release()
    here.rollout()
    return here


def job_of(here, name="dev1"):
    return f"AFR_OTA-{here.deployments(name)[0].id}"


def begun(**more):
    here = offered(**more)
    here.says("start-next", TOKEN)
    return here


def said(answers):
    """Topics alone."""
    return [topic for topic, _ in answers]


# --- nothing waits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["start-next", "$next/get"])
def test_nothing_waits_is_said_with_token_and_timestamp_and_no_execution(suffix):
    here = AwsWorld()
    assert [(f"{suffix}/accepted", {"clientToken": "t", "timestamp": 1_000_000})] == here.says(suffix, TOKEN)


def test_an_empty_list_is_two_empty_lists():
    [(topic, body)] = AwsWorld().says("get", b"")
    assert ("get/accepted", {"timestamp": 1_000_000, "inProgressJobs": [], "queuedJobs": []}) == (topic, body)


def test_a_thing_is_enrolled_by_its_first_word_and_what_it_runs_is_not_known():
    here = known()
    record = here.world.read(lambda unit: unit.devices.get(DeviceId("prod", "dev1")))
    assert ("aws", "unknown") == (record.dialect, record.parts["firmware"].version)


# --- an update waits -------------------------------------------------------------------------------------------------


def test_an_offer_is_notified_once_on_both_topics():
    here = offered()
    notices = here.heard()[-2:]
    assert ["notify", "notify-next"] == said(notices)
    assert [job_of(here)] == [one["jobId"] for one in notices[0][1]["jobs"]["QUEUED"]]
    execution = notices[1][1]["execution"]
    assert (job_of(here), "QUEUED", 1) == (execution["jobId"], execution["status"], execution["versionNumber"])
    assert SIGNATURE == execution["jobDocument"]["afr_ota"]["files"][0]["sig-sha256-ecdsa"]
    before = len(here.log)
    here.passes(600)
    assert [] == here.heard(since=before)


def test_start_next_begins_it_and_hands_it_out_again_unchanged():
    here = offered()
    [(topic, first)] = here.says("start-next", TOKEN)
    assert ("start-next/accepted", "IN_PROGRESS", 2) == (
        topic,
        first["execution"]["status"],
        first["execution"]["versionNumber"],
    )
    here.passes(100)
    [(_, again)] = here.says("start-next", {"statusDetails": {"a": "b"}, **TOKEN})
    assert first["execution"] == again["execution"]
    assert "DOWNLOADING" == here.state()


def test_next_get_changes_nothing():
    here = offered()
    for _ in range(2):
        [(topic, body)] = here.says("$next/get", TOKEN)
        assert ("$next/get/accepted", "QUEUED", 1) == (
            topic,
            body["execution"]["status"],
            body["execution"]["versionNumber"],
        )
    assert "OFFERED" == here.state()


def test_a_job_can_be_described_by_its_id_with_or_without_its_document():
    here = begun()
    job = job_of(here)
    [(topic, body)] = here.says(f"{job}/get", TOKEN)
    assert f"{job}/get/accepted" == topic
    assert "jobDocument" in body["execution"]
    [(_, body)] = here.says(f"{job}/get", {"includeJobDocument": False})
    assert "jobDocument" not in body["execution"]
    [(topic, body)] = here.says(f"{job}/get", {"executionNumber": 2})
    assert (f"{job}/get/rejected", "ResourceNotFound") == (topic, body["code"])


def test_the_list_has_what_is_queued_and_what_is_in_progress_apart():
    here = offered()
    [(_, body)] = here.says("get")
    assert ([], 1) == (body["inProgressJobs"], len(body["queuedJobs"]))
    here.says("start-next")
    [(_, body)] = here.says("get")
    assert ([], 1) == (body["queuedJobs"], len(body["inProgressJobs"]))


def test_an_answer_that_gives_what_is_new_is_not_followed_by_a_notice():
    here = known()
    here.release()
    here.world.rollout("1.1.0")  # planned by the next word of the thing
    found = here.says("start-next", TOKEN)
    assert "execution" in found[0][1]
    assert "notify-next" not in said(found)


# --- updates ---------------------------------------------------------------------------------------------------------


def test_each_update_counts_the_version_up_and_replaces_the_details_that_it_gives():
    here = begun()
    job = job_of(here)
    asked = {"status": "IN_PROGRESS", "includeJobExecutionState": True, "includeJobDocument": True, **TOKEN}
    [(topic, body)] = here.says(f"{job}/update", asked | {"statusDetails": {"a": "1", "b": "2"}})
    assert (f"{job}/update/accepted", "t") == (topic, body["clientToken"])
    assert {
        "status": "IN_PROGRESS",
        "statusDetails": {"a": "1", "b": "2"},
        "versionNumber": 3,
    } == body["executionState"]
    assert "afr_ota" in body["jobDocument"]
    [(_, body)] = here.says(f"{job}/update", asked)
    assert ({"a": "1", "b": "2"}, 4) == (
        body["executionState"]["statusDetails"],
        body["executionState"]["versionNumber"],
    )
    [(_, body)] = here.says(f"{job}/update", asked | {"statusDetails": {"c": "3"}})
    assert ({"c": "3"}, 5) == (body["executionState"]["statusDetails"], body["executionState"]["versionNumber"])
    [(_, body)] = here.says("$next/get")
    assert ({"c": "3"}, 5) == (body["execution"]["statusDetails"], body["execution"]["versionNumber"])


def test_an_update_is_accepted_with_no_more_than_was_asked_for():
    here = begun()
    [(_, body)] = here.says(f"{job_of(here)}/update", {"status": "IN_PROGRESS"})
    assert {"timestamp": 1_000_000} == body


@pytest.mark.parametrize("version", ["2", 2])
def test_the_expected_version_may_be_text_or_a_number(version):
    here = begun()
    job = job_of(here)
    [(topic, _), *_] = here.says(f"{job}/update", {"status": "SUCCEEDED", "expectedVersion": version})
    assert f"{job}/update/accepted" == topic


def test_a_version_that_has_been_counted_past_is_refused_with_the_state():
    here = begun()
    job = job_of(here)
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": {"a": "b"}})
    [(topic, body)] = here.says(f"{job}/update", {"status": "SUCCEEDED", "expectedVersion": "2", **TOKEN})
    assert (f"{job}/update/rejected", "VersionMismatch", "t") == (topic, body["code"], body["clientToken"])
    assert {"status": "IN_PROGRESS", "statusDetails": {"a": "b"}, "versionNumber": 3} == body["executionState"]
    assert "DOWNLOADING" == here.state()


def test_succeeded_confirms_by_claim_and_why_says_so():
    here = begun()
    job = job_of(here)
    found = here.says(f"{job}/update", {"status": "SUCCEEDED"})
    assert [f"{job}/update/accepted", "notify", "notify-next"] == said(found)
    assert [{"timestamp": 1_000_000, "jobs": {}}, {"timestamp": 1_000_000}] == [body for _, body in found[1:]]
    assert "CONFIRMED" == here.state()
    assert "the device says that it is done; aws has no more proof" == here.deployments()[0].cause
    record = here.world.read(lambda unit: unit.devices.get(DeviceId("prod", "dev1")))
    assert "1.1.0" == record.parts["firmware"].version
    [(_, body)] = here.says("start-next")
    assert "execution" not in body


@pytest.mark.parametrize(
    ("status", "state"), [("SUCCEEDED", "CONFIRMED"), ("FAILED", "FAILED"), ("REJECTED", "REJECTED")]
)
def test_a_queued_execution_can_end_without_having_begun(status, state):
    here = offered()
    job = job_of(here)
    [(topic, _), *_] = here.says(f"{job}/update", {"status": status})
    ended = next(one for one in here.deployments() if f"AFR_OTA-{one.id}" == job)
    assert (f"{job}/update/accepted", state) == (topic, str(ended.state))


@pytest.mark.parametrize("status", ["QUEUED", "CANCELED", "TIMED_OUT", "REMOVED"])
def test_a_device_cannot_set_what_is_not_its_to_set(status):
    here = begun()
    job = job_of(here)
    [(topic, body)] = here.says(f"{job}/update", {"status": status})
    assert (f"{job}/update/rejected", "InvalidStateTransition") == (topic, body["code"])
    assert 2 == body["executionState"]["versionNumber"]


def test_what_has_ended_is_refused_with_its_state_and_cannot_be_described():
    here = begun()
    job = job_of(here)
    here.says(f"{job}/update", {"status": "FAILED", "statusDetails": {"reason": "x"}})
    [(_, body)] = here.says(f"{job}/update", {"status": "IN_PROGRESS"})
    assert "InvalidStateTransition" == body["code"]
    assert {"status": "FAILED", "statusDetails": {"reason": "x"}, "versionNumber": 3} == body["executionState"]
    [(topic, body)] = here.says(f"{job}/get", TOKEN)
    assert (f"{job}/get/rejected", "TerminalStateReached", "t") == (topic, body["code"], body["clientToken"])


@pytest.mark.parametrize("suffix", ["AFR_OTA-000000000000/update", "AFR_OTA-000000000000/get", "x/get"])
def test_what_is_not_there_is_not_found(suffix):
    here = known()
    [(topic, body)] = here.says(suffix, {"status": "FAILED", **TOKEN})
    assert (f"{suffix}/rejected", "ResourceNotFound", "t") == (topic, body["code"], body["clientToken"])


def test_another_things_job_is_not_found():
    here = begun()
    here.says("get", name="dev2")
    before = len(here.log)
    here.says(f"{job_of(here)}/update", {"status": "FAILED"}, name="dev2")
    [(topic, body)] = here.heard(since=before + 1, name="dev2")
    assert (topic, body["code"]) == (f"{job_of(here)}/update/rejected", "ResourceNotFound")
    assert "DOWNLOADING" == here.state()


def test_a_bad_request_is_refused_on_its_own_topic():
    here = known()
    [(topic, body)] = here.says("start-next", b"{")
    assert ("start-next/rejected", "InvalidJson", 1_000_000) == (topic, body["code"], body["timestamp"])
    trouble = here.world.read(lambda unit: unit.devices.get(DeviceId("prod", "dev1"))).trouble
    assert (1, True) == (trouble.rejected, trouble.rejected_reason.startswith("InvalidJson: "))


# --- what the core makes of it ---------------------------------------------------------------------------------------


def test_progress_of_the_older_agent_is_told_in_percent_and_its_self_test_as_install_and_trial():
    here = offered()
    job = job_of(here)
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": {"receive": "19/76"}})
    assert ("DOWNLOADING", 25) == (here.state(), here.deployments()[0].percent)
    ready = {"self_test": "ready", "updatedBy": "0x01000000"}
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": ready})
    assert "INSTALLING" == here.state()
    [(_, body)] = here.says("$next/get")
    assert ready == body["execution"]["statusDetails"]
    assert "INSTALLING" == here.state()
    active = {"self_test": "active", "updatedBy": "0x01010000"}
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": active})
    assert "TRIAL" == here.state()
    here.says(f"{job}/update", {"status": "SUCCEEDED", "statusDetails": {"reason": "accepted  v1.1.0"}})
    assert "CONFIRMED" == here.state()


def test_a_trial_of_a_version_with_another_name_is_no_roll_back():
    here = begun()
    job = job_of(here)
    for state in ("ready", "active"):
        details = {"self_test": state, "updatedBy": "0x05000000"}
        here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": details})
    assert "INSTALLING" == here.state()
    here.says(f"{job}/update", {"status": "SUCCEEDED"})
    assert "CONFIRMED" == here.state()


@pytest.mark.parametrize(
    ("reason", "code", "attempts"),
    [
        ("0x000000e3: 0x00000000", "-4", 3),
        ("0x0000000c: 0x00000004", "REFUSED_TYPE", 1),
        ("rejected: 0x00000010", "REFUSED_ROLLBACK", 1),
        ("rejected: 0x0000000f", "REFUSED_ROLLBACK", 1),
        ("aborted: 0x00000013", "-1", 3),
        ("something else", "-5", 3),
        ("", "-5", 3),
    ],
)
def test_a_failure_is_tried_again_where_that_can_heal_it_and_then_the_thing_is_left_in_peace(reason, code, attempts):
    here = offered()
    for attempt in range(1, attempts + 1):
        found = here.deployments()[0]
        assert attempt == found.attempt
        details = {"statusDetails": {"reason": reason}} if reason else {}
        here.says(f"{job_of(here)}/update", {"status": "FAILED", **details})
        failed = next(one for one in here.deployments() if one.id == found.id)
        assert ("FAILED", code) == (str(failed.state), failed.result_code)
        assert reason in failed.cause
        here.passes(4000)
    assert attempts == len(here.deployments())
    before = len(here.log)
    here.passes(100_000)
    assert [] == here.heard(since=before)
    [(_, body)] = here.says("start-next")
    assert "execution" not in body


def test_another_attempt_is_another_job_and_is_notified():
    here = begun()
    first = job_of(here)
    here.says(f"{first}/update", {"status": "FAILED"})
    before = len(here.log)
    here.passes(120)
    found = here.heard(since=before)
    assert ["notify", "notify-next"] == said(found)
    assert first != found[1][1]["execution"]["jobId"] == job_of(here)


def test_a_rejection_after_the_install_is_a_failure():
    here = begun()
    job = job_of(here)
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": {"self_test": "ready", "updatedBy": "0x1"}})
    here.says(f"{job}/update", {"status": "REJECTED"})
    assert "FAILED" == str(here.deployments()[-1].state)


# --- from the other side ---------------------------------------------------------------------------------------------


def test_a_cancel_ends_it_and_the_thing_hears_of_it_on_notify_next_and_by_its_next_update():
    here = begun()
    job = job_of(here)
    before = len(here.log)
    here.do("rollout.cancel", rollout=here.deployments()[0].rollout)
    assert "CANCELED" == here.state()
    assert [("notify", {}), ("notify-next", None)] == [
        (topic, body.get("jobs")) for topic, body in here.heard(since=before)
    ]
    [(topic, body)] = here.says(f"{job}/update", {"status": "IN_PROGRESS"})
    assert (f"{job}/update/rejected", "CANCELED") == (topic, body["executionState"]["status"])


def test_a_cancel_after_the_install_is_too_late():
    here = begun()
    job = job_of(here)
    details = {"self_test": "ready", "updatedBy": "0x01000000"}
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": details})
    before = len(here.log)
    here.do("rollout.cancel", rollout=here.deployments()[0].rollout)
    assert ("INSTALLING", []) == (here.state(), here.heard(since=before))
    [(_, body)] = here.says("$next/get")
    assert details == body["execution"]["statusDetails"]
    here.says(f"{job}/update", {"status": "SUCCEEDED"})
    assert "CONFIRMED" == here.state()


def test_a_pause_hides_what_has_not_begun_and_what_has_is_handed_out_still():
    here = offered()
    here.do("rollout.pause", rollout=here.deployments()[0].rollout)
    [(_, body), *_] = here.says("start-next")
    assert "execution" not in body
    here.do("rollout.resume", rollout=here.deployments()[0].rollout)
    here.says("start-next")
    here.do("rollout.pause", rollout=here.deployments()[0].rollout)
    [(_, body)] = here.says("start-next")
    assert "IN_PROGRESS" == body["execution"]["status"]


def test_the_step_timer_of_a_device_ends_its_execution():
    here = offered()
    [(_, body)] = here.says("start-next", {"stepTimeoutInMinutes": 10})
    assert 600 == body["execution"]["approximateSecondsBeforeTimedOut"]
    job = job_of(here)
    here.passes(500)
    here.says(f"{job}/update", {"status": "IN_PROGRESS"})
    before = len(here.log)
    here.passes(101)
    failed = next(one for one in here.deployments() if f"AFR_OTA-{one.id}" == job)
    assert ("FAILED", True) == (str(failed.state), "step timer" in failed.cause)
    assert "notify-next" in said(here.heard(since=before))
    [(_, body)] = here.says(f"{job}/update", {"status": "SUCCEEDED"})
    assert ("InvalidStateTransition", "TIMED_OUT") == (body["code"], body["executionState"]["status"])


def test_a_new_step_timer_replaces_the_old_one_and_minus_one_ends_it():
    here = offered()
    here.says("start-next", {"stepTimeoutInMinutes": 10})
    job = job_of(here)
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "stepTimeoutInMinutes": 20})
    here.passes(700)
    assert "DOWNLOADING" == here.state()
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "stepTimeoutInMinutes": -1})
    here.passes(4000)
    assert "DOWNLOADING" == here.state()


def test_what_is_kept_survives_a_restart_of_the_bridge():
    here = begun()
    job = job_of(here)
    details = {"self_test": "ready", "updatedBy": "0x01000000"}
    here.says(f"{job}/update", {"status": "IN_PROGRESS", "statusDetails": details})
    again = AwsWorld()
    again.world.store = here.world.store
    again.world.wall, again.world.facts = here.world.wall, here.world.facts
    [(_, body)] = again.says("$next/get", TOKEN)
    assert (details, 3) == (body["execution"]["statusDetails"], body["execution"]["versionNumber"])


# --- devices that hear no answers ------------------------------------------------------------------------------------

DEAF = {"answer_on_notify_next": ["pro*"]}


@pytest.mark.parametrize("suffix", ["start-next", "$next/get"])
def test_an_answer_is_said_on_notify_next_too_once_where_its_product_wants_that(suffix):
    here = offered(options=DEAF)
    found = here.says(suffix, TOKEN)
    assert [f"{suffix}/accepted", "notify-next"] == said(found)
    assert found[0][1]["execution"] == found[1][1]["execution"]
    assert "clientToken" not in found[1][1]
    assert [f"{suffix}/accepted"] == said(offered(options={"answer_on_notify_next": ["other"]}).says(suffix, TOKEN))


def test_that_nothing_waits_is_not_said_on_notify_next():
    assert ["start-next/accepted"] == said(known(options=DEAF).says("start-next"))


def test_a_new_offer_found_by_asking_is_said_on_notify_next_once_only():
    here = known(options=DEAF)
    here.release()
    here.world.rollout("1.1.0")
    found = here.says("start-next", TOKEN)
    assert 1 == said(found).count("notify-next")


def test_a_notice_that_nothing_followed_is_said_once_more_to_those_and_to_no_others():
    here = offered(options=DEAF)
    before = len(here.log)
    here.passes(3600)
    assert ["notify-next"] == said(here.heard(since=before))
    here = begun(options=DEAF)
    before = len(here.log)
    here.passes(3600)
    assert [] == said(here.heard(since=before))


# --- what only the author knows --------------------------------------------------------------------------------------


def test_a_release_without_the_signature_is_held_back_by_name():
    here = known()
    here.release(**{"sig-sha256-ecdsa": None})
    here.rollout()
    assert "QUEUED" == here.state()
    assert "release prod/1.1.0 lacks aws.sig-sha256-ecdsa" in here.do("why", device="prod/dev1")["sentence"]


def test_a_release_that_devices_cannot_read_is_rejected_with_the_reason():
    here = known()
    here.release(certfile='a"b')
    here.rollout()
    assert "REJECTED" == here.state()
    assert "aws.certfile of release prod/1.1.0 holds what devices cannot read" in here.deployments()[0].cause
    assert [] == [topic for topic, _ in here.heard() if topic.startswith("notify")]


def test_no_answer_holds_an_escape():
    here = offered()
    here.says("start-next", TOKEN)
    here.says("get", TOKEN)
    bodies = [payload for topic, payload in here.log if "accepted" in topic or "notify" in topic]
    assert len(bodies) > 3
    assert all(b"\\" not in payload and json.loads(payload) for payload in bodies)
