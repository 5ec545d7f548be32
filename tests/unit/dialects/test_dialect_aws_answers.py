"""What answers and notices say, held against the parsers of the devices."""

import json
from dataclasses import replace

import pytest

from device_sim.clients.aws_documents import core_json, read_for_agent, read_for_jobs, read_message
from ota_bridge.core.conversation import Update
from ota_bridge.core.deployment import State
from ota_bridge.core.values import DeploymentId, Sha256
from ota_bridge.dialects.aws_answers import (
    document,
    document_fault,
    execution_body,
    head,
    notify_body,
    pending_body,
    refusal_body,
    state_body,
)
from ota_bridge.dialects.aws_executions import Execution, Record
from ota_bridge.dialects.aws_streams import write_json

SIGNATURE = "MEUCIQDk1nZb0y1m2l3k4j5h6g7f8d9s0aQwErTyUiOpLkJhGwIgbVcXzAsDfGhJkLpOiUyTrEwQ1234567890abcdefABCD"
UPDATE = Update(
    id=DeploymentId("0123456789ab"),
    release="prod/1.1.0",
    component="firmware",
    version="1.1.0",
    attempt=1,
    state=State.OFFERED,
    cause="offered",
    size_bytes=307_201,
    sha256=Sha256(bytes(range(32))),
    md5="0" * 32,
    file_name="fw.bin",
    metadata={"aws.sig-sha256-ecdsa": SIGNATURE, "aws.certfile": "signer.crt.pem", "xively.x": "y"},
    url="",
    offers=1,
    created_wall=1000.7,
    changed_wall=1001.0,
    last_block_wall=None,
    high_water_bytes=0,
)
QUEUED = Execution(update=UPDATE, record=Record())
BEGUN = Execution(update=UPDATE, record=Record(version=3, begun_s=1010, updated_s=1020, details={"a": "b"}))


def test_the_document_has_exactly_what_the_parsers_want():
    assert {
        "afr_ota": {
            "protocols": ["MQTT"],
            "streamname": "AFR_OTA-00010203-0405-0607-0809-0a0b0c0d0e0f",
            "files": [
                {
                    "filepath": "",
                    "filesize": 307_201,
                    "fileid": 0,
                    "certfile": "signer.crt.pem",
                    "sig-sha256-ecdsa": SIGNATURE,
                }
            ],
        }
    } == document(UPDATE)
    assert "" == document_fault(UPDATE)


def test_every_parser_takes_it():
    read = core_json(write_json(document(UPDATE)))
    for parse in (read_for_jobs, read_for_agent):
        file = parse(read)
        assert (307_201, 0, SIGNATURE, 44) == (file.size_bytes, file.file_id, file.signature, len(file.stream))


def test_another_name_of_the_signature_stands_beside_the_one_that_must_be_there():
    given = {"aws.sig-sha256-rsa": "abcd", "aws.fileType": "202", "aws.filepath": "/a/b", "aws.other": "no"}
    file = document(replace(UPDATE, metadata=given))["afr_ota"]["files"][0]
    assert {
        "filepath": "/a/b",
        "filesize": 307_201,
        "fileid": 0,
        "certfile": "",
        "fileType": 202,
        "sig-sha256-ecdsa": "",
        "sig-sha256-rsa": "abcd",
    } == file


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"aws.certfile": 'a"b'}, "cannot read"),
        ({"aws.filepath": "a\\b"}, "cannot read"),
        ({"aws.filepath": "ä"}, "cannot read"),
        ({"aws.fileType": "x"}, "cannot read"),
        ({"aws.fileType": "01"}, "cannot read"),
        ({"aws.filepath": "x" * 1500}, "have room"),
    ],
)
def test_what_devices_cannot_read_makes_no_document(metadata, why):
    assert why in document_fault(replace(UPDATE, metadata=metadata))


def test_an_image_past_32_bits_makes_no_document():
    assert "32 bits" in document_fault(replace(UPDATE, size_bytes=2**32))


def test_an_execution_is_written_in_the_order_of_the_service():
    body = {**head(1030, "test"), "execution": execution_body(BEGUN, 1030.0)}
    assert ["clientToken", "timestamp", "execution"] == list(body)
    assert [
        "jobId",
        "status",
        "queuedAt",
        "startedAt",
        "lastUpdatedAt",
        "versionNumber",
        "executionNumber",
        "statusDetails",
        "jobDocument",
    ] == list(body["execution"])
    message = read_message(write_json(body))
    assert ("AFR_OTA-0123456789ab", "test", {"a": "b"}) == (message.job_id, message.token, message.details)
    assert [1000, 1010, 1020, 3, 1] == [
        body["execution"][name]
        for name in ("queuedAt", "startedAt", "lastUpdatedAt", "versionNumber", "executionNumber")
    ]


def test_a_queued_execution_has_not_begun_and_has_no_details():
    body = execution_body(QUEUED, 1030.0, includes_document=False)
    assert {
        "jobId": "AFR_OTA-0123456789ab",
        "status": "QUEUED",
        "queuedAt": 1000,
        "lastUpdatedAt": 1000,
        "versionNumber": 1,
        "executionNumber": 1,
    } == body


def test_a_step_timer_shows_what_is_left_of_it():
    one = Execution(update=UPDATE, record=replace(BEGUN.record, step_ends_s=1100))
    assert 70 == execution_body(one, 1030.9)["approximateSecondsBeforeTimedOut"]
    assert 0 == execution_body(one, 2000.0)["approximateSecondsBeforeTimedOut"]


def test_lists_hold_summaries_and_notify_leaves_empty_ones_out():
    summary = {
        "jobId": "AFR_OTA-0123456789ab",
        "queuedAt": 1000,
        "lastUpdatedAt": 1020,
        "startedAt": 1010,
        "versionNumber": 3,
        "executionNumber": 1,
    }
    assert {"inProgressJobs": [summary], "queuedJobs": []} == pending_body([BEGUN])
    assert {"timestamp": 5, "jobs": {"IN_PROGRESS": [summary]}} == notify_body([BEGUN], 5)
    assert {"timestamp": 5, "jobs": {}} == notify_body([], 5)
    assert 10 == len(pending_body([QUEUED] * 12)["queuedJobs"])


def test_a_refusal_shows_the_execution_only_where_it_is_the_reason():
    assert {"code": "ResourceNotFound", "message": "m", "timestamp": 5} == refusal_body(
        "ResourceNotFound", "m", 5, None
    )
    assert {
        "code": "VersionMismatch",
        "message": "m",
        "clientToken": "t",
        "timestamp": 5,
        "executionState": {"status": "IN_PROGRESS", "statusDetails": {"a": "b"}, "versionNumber": 3},
    } == refusal_body("VersionMismatch", "m", 5, "t", BEGUN)
    assert json.dumps(state_body(BEGUN))


def test_an_answer_fits_the_smallest_buffer_of_the_older_agent():
    longest = replace(UPDATE, metadata={"aws.sig-sha256-ecdsa": "x" * 512, "aws.certfile": "y" * 256})
    one = Execution(
        update=longest, record=replace(BEGUN.record, details={"self_test": "ready", "updatedBy": "0x01000000"})
    )
    body = {**head(1_795_322_743, "0123456789:" + "x" * 53), "execution": execution_body(one, 0.0)}
    assert len(write_json(body)) < 1024 + 1530
