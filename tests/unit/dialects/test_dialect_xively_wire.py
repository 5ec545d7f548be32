"""Xively's CBOR: the vendor's samples both ways, what is refused, and that nothing else than Malformed leaves it."""

import json
from pathlib import Path
from random import Random

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wild import SEEDS, changed, wild

from device_sim.clients import xively_messages as sim
from ota_bridge.core.errors import Malformed
from ota_bridge.dialects import xively_wire as wire

VECTORS = Path(__file__).parents[2] / "vectors/xively"
SAMPLES = json.loads((VECTORS / "samples.json").read_text())["samples"]
CAPTURE = json.loads((VECTORS / "two_files.json").read_text())["messages"]
KINDS = {"info": wire.FileInfo, "get": wire.GetChunk, "status": wire.FileStatus}
GET = {"msgtype": 2, "msgver": 1, "N": "a", "R": "1", "O": 0, "L": 1024}
STATUS = {"msgtype": 4, "msgver": 1, "N": "a", "R": "1", "P": 3, "S": 0}
INFO = {"msgtype": 0, "msgver": 1, "list": [{"N": "a", "R": "1"}], "L": False}


def refused(body):
    with pytest.raises(Malformed) as caught:
        wire.read(body if isinstance(body, bytes) else cbor2.dumps(body))
    return str(caught.value)


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one["to"] == "service"], ids=lambda one: one["name"])
def test_what_the_vendors_encoder_wrote_is_read(sample):
    fields = sample["fields"] | (
        {"files": tuple(map(tuple, files))} if (files := sample["fields"].get("files")) else {}
    )
    assert KINDS[sample["name"].partition("_")[0]](**fields) == wire.read(bytes.fromhex(sample["hex"]))


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one["name"].startswith("available")])
def test_lists_are_written_as_the_vendors_decoder_reads_them(sample):
    digest = sim.read(bytes.fromhex(sample["hex"])).files[0].fingerprint
    files = [
        wire.Available(sha256=digest, **{key: value for key, value in one.items() if key != "is_by_mqtt"})
        for one in sample["fields"]["files"]
    ]
    assert sample["hex"] == wire.available(files, is_hex=False).hex()


def test_chunks_are_written_as_the_vendors_decoder_reads_them():
    samples = {one["name"]: one for one in SAMPLES}
    asked = wire.GetChunk(name="firmware.bin", revision="1.1", offset=0, length=13)
    data = bytes.fromhex(samples["chunk"]["fields"]["data"])
    assert samples["chunk"]["hex"] == (wire.chunk_head(asked, 13) + data).hex()
    assert samples["chunk_refused"]["hex"] == wire.chunk_refused("firmware.bin", "1.1").hex()


def test_the_services_side_of_the_capture_is_written_byte_for_byte():
    asked, written, seen = None, [], []
    for message in CAPTURE:
        payload = bytes.fromhex(message["hex"])
        if message["to"] == "service":
            found = wire.read(payload)
            asked = found if isinstance(found, wire.GetChunk) else asked
            continue
        seen.append(message["hex"])
        body = cbor2.loads(payload)
        if body["msgtype"] == 1:
            files = [
                wire.Available(name=one["N"], revision=one["R"], size_bytes=one["S"], sha256=one["F"])
                for one in body["list"]
            ]
            written.append(wire.available(files, is_hex=False).hex())
        else:
            written.append((wire.chunk_head(asked, len(body["C"])) + body["C"]).hex())
    assert seen == written


@given(
    offset=st.integers(0, 2**32 - 1),
    length=st.integers(1, 40_000),
    name=st.text("abc.-_9", min_size=1, max_size=64).filter(lambda name: name[0] not in ".-"),
    url=st.text("htp:/.x", max_size=300),
)
def test_whatever_is_written_is_what_the_independent_decoder_reads(offset, length, name, url):
    asked = wire.GetChunk(name=name, revision="1.0", offset=offset, length=length)
    expected = {
        "msgtype": 3, "msgver": 1, "N": name, "R": "1.0", "O": offset, "L": length, "S": 0, "C": bytes(length),
    }  # fmt: skip
    payload = wire.chunk_head(asked, length) + bytes(length)
    assert (expected, list(expected)) == (cbor2.loads(payload), list(cbor2.loads(payload)))
    one = wire.Available(name=name, revision="1.0", size_bytes=offset, sha256=bytes(32), url=url)
    (entry,) = cbor2.loads(wire.available([one], is_hex=True))["list"]
    assert {"N": name, "R": "1.0", "O": 0, "S": offset, "F": "00" * 32} | (
        {"L": url, "M": True} if url else {}
    ) == entry


def test_a_chunk_that_is_shorter_than_asked_says_that_the_file_ends():
    asked = wire.GetChunk(name="a", revision="1", offset=0, length=1024)
    assert [0, 1] == [cbor2.loads(wire.chunk_head(asked, n) + bytes(n))["S"] for n in (1024, 1023)]


def test_keys_come_in_any_order_and_unknown_ones_are_passed_over():
    body = dict(reversed({**STATUS, "x": 1, "y": None, "z": [b"1"]}.items()))
    assert wire.FileStatus(name="a", revision="1", phase=3, code=0) == wire.read(cbor2.dumps(body))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "ends inside"),
        (b"\xf6", "must be a map"),
        (cbor2.dumps(GET) + b"\x00", "follow the end"),
        ({**GET, "msgver": 2}, "msgver"),
        ({**GET, "msgtype": 3}, "msgtype: 0, 2 or 4"),
        ({**GET, "msgtype": 5}, "msgtype"),
        ({**GET, "msgtype": True}, "msgtype"),
        ({**GET, "O": -1}, "message.O"),
        ({**GET, "O": 2**32}, "message.O"),
        ({**GET, "L": 1.5}, "not allowed"),
        ({**GET, "N": b"a"}, "message.N"),
        ({**GET, "R": "x" * 1025}, "message.R"),
        ({key: value for key, value in GET.items() if key != "R"}, "message.R is missing"),
        ({**STATUS, "S": -129}, "message.S"),
        ({**STATUS, "P": -1}, "message.P"),
        ({**INFO, "L": 1}, "message.L"),
        ({**INFO, "list": []}, "message.list"),
        ({**INFO, "list": [{"N": str(n), "R": ""} for n in range(33)]}, "message.list"),
        ({**INFO, "list": [{"N": "a", "R": "1"}] * 2}, "twice"),
        ({**INFO, "list": [[1]]}, "must be a map"),
        ({**INFO, "x": [[[[1]]]]}, "nested deeper"),
        ({**INFO, "x": [0] * 200}, "items"),
        ({**INFO, "x": b"0" * 50_000}, "at most"),
        ({**GET, "x": cbor2.CBORTag(1, 1)}, "not allowed"),
        ({**GET, "x": 2**70}, "not allowed"),
        (b"\x81" * 5000, "nested deeper"),
        (b"\xa1" * 5000, "must be text"),
        (b"\xbb" + b"\xff" * 8, "items"),
        (b"\x9b" + b"\xff" * 8, "items"),
        (b"\xa1\x7b" + b"\xff" * 8, "ends inside"),
        (b"\xbf\xff", "not allowed"),
        (b"\xa1\x7f\x61a\xff\x01", "not allowed"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_refused_with_the_reason(body, said):
    assert said in refused(body)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0", ".hidden", "-o", "a" * 65, "ä", "a\n", "x\r"]
)
def test_names_that_lead_elsewhere_are_refused(name):
    assert "message.N" in refused({**GET, "N": name}) or "bytes of text" in refused({**GET, "N": name})


@pytest.mark.parametrize("name", ["firmware.bin", "file.cfg", "A_1", "a b", "a@b+c-d", "x" * 64])
def test_plain_names_are_taken(name):
    assert name == wire.read(cbor2.dumps({**GET, "N": name})).name


def test_as_many_files_as_are_allowed_with_the_longest_revisions_fit():
    listed = [{"N": f"{n:0>64}", "R": "r" * 1024} for n in range(wire.FILES_MAX)]
    assert wire.FILES_MAX == len(wire.read(cbor2.dumps({**INFO, "list": listed})).files)


@pytest.mark.parametrize(("body", "expected"), [(GET, True), (STATUS, False), (INFO, False)])
def test_requests_are_told_apart_at_a_glance(body, expected):
    assert expected is wire.is_request(cbor2.dumps(body))


def read_or_refused(payload):
    try:
        wire.read(payload)
    except Malformed as error:
        assert len(str(error)) <= 200


@settings(max_examples=1000)
@given(SEEDS)
def test_damaged_messages_are_read_or_refused_and_nothing_else(seed):
    rng = Random(seed)
    read_or_refused(changed(rng, cbor2.dumps(rng.choice([GET, STATUS, INFO]))))


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload):
    read_or_refused(payload)


@settings(max_examples=1000)
@given(SEEDS)
def test_maps_with_the_right_keys_and_any_values_are_read_or_refused(seed):
    rng = Random(seed)
    body = dict(rng.choice([GET, STATUS, INFO]))
    for key in rng.sample(sorted(body), k=rng.randint(1, len(body))):
        body[key] = wild(rng)
    read_or_refused(cbor2.dumps(body))
