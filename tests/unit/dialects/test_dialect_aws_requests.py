"""Requests of Jobs: what devices write, and what is refused with which code."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import Malformed
from ota_bridge.dialects.aws_requests import (
    BadRequest,
    JobsRequest,
    Operation,
    Status,
    read_request,
    read_topic,
)

UPDATE = read_topic("AFR_OTA-0123456789ab/update")


@pytest.mark.parametrize(
    ("suffix", "operation", "job", "is_poll"),
    [
        ("get", Operation.PENDING, "", True),
        ("start-next", Operation.START, "", True),
        ("$next/get", Operation.DESCRIBE, "$next", True),
        ("AFR_OTA-1/get", Operation.DESCRIBE, "AFR_OTA-1", False),
        ("AFR_OTA-1/update", Operation.UPDATE, "AFR_OTA-1", False),
        ("get/get", Operation.DESCRIBE, "get", False),
        (f"{'x' * 64}/update", Operation.UPDATE, "x" * 64, False),
    ],
)
def test_a_topic_names_an_operation(suffix, operation, job, is_poll):
    topic = read_topic(suffix)
    assert (operation, job, suffix) == (topic.operation, topic.job, topic.suffix)
    assert is_poll is JobsRequest(topic=topic).is_poll


@pytest.mark.parametrize(
    "suffix",
    [
        "",
        "notify",
        "$next/update",
        "a:b/update",
        "a/b/update",
        f"{'x' * 65}/get",
        "../get",
        "get/accepted",
        "x/get/accepted",
    ],
)
def test_any_other_topic_is_none(suffix):
    with pytest.raises(Malformed):
        read_topic(suffix)


# --- what devices were recorded to write ---------------------------------------------------------------------------

TAKEN = [
    ("start-next", b'{"clientToken":"test"}', {"token": "test"}),
    ("$next/get", b'{"clientToken":":dev1"}', {"token": ":dev1", "includes_document": True}),
    ("get", b"", {}),
    ("get", b"{}", {}),
    (UPDATE.suffix, b'{"status":"SUCCEEDED"}', {"status": Status.SUCCEEDED}),
    (
        UPDATE.suffix,
        b'{"status":"SUCCEEDED","expectedVersion":"2"}',
        {"status": Status.SUCCEEDED, "expected_version": 2},
    ),
    (
        UPDATE.suffix,
        b'{"status":"SUCCEEDED","expectedVersion":2,"statusDetails":{"reason":"ok"}}',
        {"status": Status.SUCCEEDED, "expected_version": 2, "details": {"reason": "ok"}},
    ),
    (
        UPDATE.suffix,
        b'{"status":"SUCCEEDED","statusDetails":{"reason":"accepted  v1.1.0","updatedBy":"  v1.0.0"}}',
        {"status": Status.SUCCEEDED, "details": {"reason": "accepted  v1.1.0", "updatedBy": "  v1.0.0"}},
    ),
    (
        UPDATE.suffix,
        (
            b'{"status":"IN_PROGRESS","statusDetails":{},"executionNumber":1,"includeJobExecutionState":true,'
            b'"includeJobDocument":true,"stepTimeoutInMinutes":-1,"clientToken":"t","other":[1,{}]}'
        ),
        {
            "status": Status.IN_PROGRESS,
            "details": {},
            "execution_number": 1,
            "includes_state": True,
            "includes_document": True,
            "step_timeout_min": -1,
            "token": "t",
        },
    ),
    (
        "start-next",
        b'{"statusDetails":{"a":"b"},"stepTimeoutInMinutes":10080}',
        {"details": {"a": "b"}, "step_timeout_min": 10_080},
    ),
    ("x/get", b'{"executionNumber":"3","includeJobDocument":false}', {"execution_number": 3}),
]


@pytest.mark.parametrize(("suffix", "payload", "expected"), TAKEN)
def test_a_request_is_read(suffix, payload, expected):
    topic = read_topic(suffix)
    assert JobsRequest(topic=topic, **expected) == read_request(topic, payload)


REFUSED = [
    (b"{", "InvalidJson"),
    (b"[]", "InvalidJson"),
    (b"\xff", "InvalidJson"),
    (b'{"status":NaN}', "InvalidJson"),
    (b'{"status":"SUCCEEDED"}\0', "InvalidJson"),
    (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", "InvalidJson"),
    (b'{"a":' + b"9" * 3000 + b"}", "InvalidJson"),
    (b" " * 17_000, "InvalidJson"),
    (b'{"a":1,"a":2}', "InvalidJson"),
    (b"{}", "InvalidRequest"),
    (b'{"status":"DONE"}', "InvalidRequest"),
    (b'{"status":7}', "InvalidRequest"),
    (b'{"status":"FAILED","expectedVersion":"two"}', "InvalidRequest"),
    (b'{"status":"FAILED","expectedVersion":-1}', "InvalidRequest"),
    (b'{"status":"FAILED","expectedVersion":true}', "InvalidRequest"),
    (b'{"status":"FAILED","expectedVersion":4294967296}', "InvalidRequest"),
    (b'{"status":"FAILED","statusDetails":"x"}', "InvalidRequest"),
    (b'{"status":"FAILED","statusDetails":{"a":1}}', "InvalidRequest"),
    (b'{"status":"FAILED","statusDetails":{"a b":"c"}}', "InvalidRequest"),
    (b'{"status":"FAILED","statusDetails":{"a":"\\n"}}', "InvalidRequest"),
    (b'{"status":"FAILED","stepTimeoutInMinutes":0}', "InvalidRequest"),
    (b'{"status":"FAILED","stepTimeoutInMinutes":-2}', "InvalidRequest"),
    (b'{"status":"FAILED","stepTimeoutInMinutes":10081}', "InvalidRequest"),
    (b'{"status":"FAILED","includeJobDocument":"true"}', "InvalidRequest"),
    (json.dumps({"status": "FAILED", "statusDetails": {f"k{i}": "" for i in range(11)}}).encode(), "InvalidRequest"),
    (json.dumps({"status": "FAILED", "statusDetails": {"k" * 129: ""}}).encode(), "InvalidRequest"),
    (json.dumps({"status": "FAILED", "statusDetails": {"k": "v" * 1025}}).encode(), "InvalidRequest"),
    (
        json.dumps({"status": "FAILED", "statusDetails": {f"k{i}": "v" * 1000 for i in range(5)}}).encode(),
        "InvalidRequest",
    ),
]


@pytest.mark.parametrize(("payload", "code"), REFUSED)
def test_a_request_is_refused_with_its_code(payload, code):
    refused = read_request(UPDATE, payload)
    assert isinstance(refused, BadRequest)
    assert (code, None) == (refused.code, refused.token)
    assert refused.message


def test_a_refusal_keeps_the_token_that_could_be_read():
    refused = read_request(UPDATE, b'{"status":"DONE","clientToken":"me"}')
    assert isinstance(refused, BadRequest)
    assert "me" == refused.token
    refused = read_request(UPDATE, json.dumps({"status": "FAILED", "clientToken": "x" * 65}).encode())
    assert ("InvalidRequest", None) == (refused.code, refused.token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
KEYS = ["status", "statusDetails", "expectedVersion", "executionNumber", "stepTimeoutInMinutes", "clientToken"]


@given(
    st.dictionaries(st.sampled_from([*KEYS, "includeJobDocument"]), JSON | st.sampled_from(list(Status))),
    st.sampled_from(["get", "start-next", "$next/get", UPDATE.suffix]),
)
def test_whatever_is_written_is_a_request_or_a_bad_one(body, suffix):
    found = read_request(read_topic(suffix), json.dumps(body).encode())
    assert isinstance(found, JobsRequest | BadRequest)
    if isinstance(found, JobsRequest) and found.topic.operation is Operation.UPDATE:
        assert found.status in Status


@given(st.binary(max_size=64), st.text(max_size=24))
def test_no_bytes_and_no_topic_raise_anything_else(payload, suffix):
    try:
        topic = read_topic(suffix)
    except Malformed:
        topic = UPDATE
    assert isinstance(read_request(topic, payload), JobsRequest | BadRequest)
