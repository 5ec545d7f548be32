"""The decoders of AWS IoT Jobs and file streams: what things write, and what the simulator's devices read."""

import json

from device_sim.clients import aws_documents, cbor_loose
from device_sim.clients.aws_documents import NotForUs
from device_sim.clients.aws_streams import read_block
from device_sim.clients.model import WentWrong
from device_sim.errors import Malformed as SimMalformed
from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Rejected
from ota_bridge.dialect import MalformedFrom
from ota_bridge.dialects.aws import AwsDialect
from ota_bridge.dialects.aws_answers import head
from ota_bridge.dialects.aws_requests import BadRequest, read_request, read_topic
from ota_bridge.dialects.aws_streams import stream_name, write_json
from ota_bridge.wire import MqttMessage
from tests.fuzz.mutate import CBOR, JSON
from tests.fuzz.target import Target, text_of

DIALECT = AwsDialect({"product": "prod"})
STREAM = stream_name(bytes(range(32)))
KINDS = ("get/json", "get/cbor", "describe/json", "describe/cbor")
JOBS = ("get", "start-next", "$next/get", "AFR_OTA-0123456789ab/get", "AFR_OTA-0123456789ab/update")
DATA = memoryview(bytes(131_072))


def jobs(data: bytes) -> None:
    """A first byte chooses the operation; a request is one, or is refused on its own topic with its token."""
    topic = read_topic(JOBS[data[0] % len(JOBS)] if data else "get")
    said = read_request(topic, data[1:])
    assert json.loads(write_json(head(1, said.token)))["timestamp"] == 1
    if isinstance(said, BadRequest):
        raise Malformed(said.message)
    assert said.details is None or len(write_json(dict(said.details))) < 16_384


def streams(data: bytes) -> None:
    """A first byte chooses operation and encoding; what is asked for is bounded, and each answer can be read."""
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    topic = f"$aws/things/dev1/streams/{STREAM}/{kind}".encode()
    try:
        asked = DIALECT.blocks.read(topic, data[1:])
    except MalformedFrom as error:
        [(_, pieces)] = DIALECT.blocks.malformed(error)
        (cbor_loose.read if kind.endswith("cbor") else json.loads)(b"".join(pieces))
        raise
    assert asked is not None
    assert asked.count * asked.size <= 131_072
    assert kind.startswith("describe") or asked.size >= 256
    [(_, pieces)] = DIALECT.blocks.blocks_of(asked, [(asked.offset, DATA[: asked.size])], 1 << 30)
    payload = b"".join(pieces)
    assert len(payload) <= asked.size + asked.frame_bytes
    if kind.startswith("get"):
        assert asked.size == len(read_block(payload, kind[4:], asked.size).data)


def topics(data: bytes) -> None:
    """Any topic names a thing or nobody."""
    topic = text_of(data)
    said = DIALECT.read(MqttMessage(topic=topic, payload=b"{}"))
    assert said is not None
    assert topic.startswith(f"$aws/things/{said.device.name}/jobs/")
    if isinstance(said, Rejected):
        raise Malformed(said.reason)


def device(data: bytes) -> None:
    """What a device reads of a job message and of a block is something, or would go wrong in words."""
    try:
        message = aws_documents.read_message(data)
        if message.document is not None:
            aws_documents.read_for_jobs(message.document)
            aws_documents.read_for_agent(message.document)
    except WentWrong:
        for encoding in ("json", "cbor"):
            read_block(data, encoding, 4096)


WORDS = (b"clientToken", b"status", b"statusDetails", b"expectedVersion", b"IN_PROGRESS", b"SUCCEEDED", b'"2"', b"0xff")
STREAM_WORDS = (
    b"MQ==",
    b"\x61b",
    b"\x61n",
    b"\x61l\x19\x10\x00",
    b'"b":"0x',
    b"131072",
    b"98304",
    b"\xbf",
    b"\xff",
    b"\xc0",
)
TARGETS = (
    Target(
        name="aws_jobs", about="requests of AWS IoT Jobs", read=jobs, refusals=(Malformed,), words=WORDS, forms=(JSON,),
        max_bytes=17_000,
    ),
    Target(
        name="aws_streams", about="requests of AWS file streams in JSON and CBOR", read=streams, refusals=(Malformed,),
        words=STREAM_WORDS, forms=(JSON, CBOR), max_bytes=26_000, peak_bytes=600_000,
    ),
    Target(
        name="aws_topics", about="topics of AWS things", read=topics, refusals=(Malformed,),
        words=(b"$aws/things/", b"/jobs/", b"/get", b"/update", b"$next", b"start-next", b"\0", b"x" * 65), max_bytes=300,
    ),
    Target(
        name="sim_aws", about="job messages and blocks, as AWS devices read them", read=device, one_in=4,
        refusals=(WentWrong, NotForUs, SimMalformed), words=(*WORDS, b"\\/", b"afr_ota"), forms=(JSON, CBOR),
    ),
)  # fmt: skip
