"""A small server of the protocol for tests of its clients: one job, one file, and what each test makes wrong in it."""

import base64
import json
from collections import deque

from device_sim.clients import cbor_loose
from device_sim.clients.aws import AwsClient
from device_sim.clients.model import Incoming, Publish, Restart, Subscribe, Unsubscribe

STREAM = "AFR_OTA-0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa"
JOB = "AFR_OTA-probe1"
SIGNATURE = "MEUCIQAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwIgICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="


def document(size, **changes):
    file = {
        "filepath": "/device/updates",
        "filesize": size,
        "fileid": 0,
        "certfile": "signer.pem",
        "sig-sha256-ecdsa": SIGNATURE,
    }
    file |= {key: value for key, value in changes.items() if key in file or key in {"fileType", "auth_scheme"}}
    for key in changes.get("without", ()):
        file.pop(key, None)
    ota = {
        "protocols": changes.get("protocols", ["MQTT"]),
        "streamname": changes.get("stream", STREAM),
        "files": [file],
    }
    return {"afr_ota": ota}


def cbor_block(index, data):
    """A block as the vendor's server writes it: a map without a length."""
    return (
        b"\xbf\x61f\x00\x61l\x19"
        + len(data).to_bytes(2, "big")
        + b"\x61i"
        + cbor_uint(index)
        + b"\x61p\x59"
        + (len(data).to_bytes(2, "big") + data + b"\xff")
    )


def cbor_uint(number):
    return (
        bytes([number])
        if number < 24
        else b"\x18" + bytes([number])
        if number < 256
        else b"\x19" + number.to_bytes(2, "big")
    )


def json_block(index, data):
    text = base64.b64encode(data).decode()
    return json.dumps({"f": 0, "i": index, "l": len(data), "p": text}, separators=(",", ":")).encode()


def wants(bitmap, number):
    return number // 8 < len(bitmap) and bitmap[number // 8] >> number % 8 & 1


class Cloud:
    """Runs one client without time: what it publishes is answered at once, unless the test holds it back."""

    def __init__(self, options, image=b"", *, job_document=None, device=None):
        self.client = AwsClient(options)
        if device is not None:
            self.client.device = device(self.client.device)
        self.image = image
        self.document = document(len(image)) if job_document is None else job_document
        self.thing = f"{options.prefix}$aws/things/{options.name}/"
        self.job = {"jobId": JOB, "status": "QUEUED", "versionNumber": 1, "executionNumber": 1}
        self.details = None
        self.published, self.subscribed = [], []
        self.lost_blocks = set()
        self.is_silent = False
        self.now_s = 100.0
        self.answers_on = ("start-next/accepted", "$next/get/accepted")

    # --- the runner --------------------------------------------------------------------------------------------------

    def start(self):
        self.do([*self.client.started(self.now_s), *self.client.connected(self.now_s)])
        return self

    def reconnect(self):
        self.do([*self.client.disconnected(self.now_s), *self.client.connected(self.now_s)])

    def deliver(self, suffix, payload):
        payload = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
        self.do(self.client.received(Incoming(topic=self.thing + suffix, payload=payload), self.now_s))

    def tick(self):
        deadline = self.client.next_deadline()
        assert deadline is not None
        self.now_s = max(self.now_s, deadline)
        self.do(self.client.tick(self.now_s))

    def do(self, actions):
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case Publish() as publish:
                    self.published.append(publish)
                    todo.extend(self.answers(publish))
                case Subscribe(topic_filter=topic):
                    self.subscribed.append(topic)
                    todo.extend(self.client.subscribed(topic, granted=True, now_s=self.now_s))
                case Unsubscribe(topic_filter=topic):
                    self.subscribed = [one for one in self.subscribed if one != topic]
                case Restart():
                    self.client.disconnected(self.now_s)
                    todo.clear()
                    self.subscribed.clear()
                    todo.extend([*self.client.started(self.now_s), *self.client.connected(self.now_s)])

    # --- the server --------------------------------------------------------------------------------------------------

    def execution(self):
        body = dict(self.job)
        if self.details:
            body["statusDetails"] = self.details
        body["jobDocument"] = self.document
        return body

    def answers(self, publish):
        if self.is_silent:
            return []
        suffix = publish.topic.removeprefix(self.thing)
        if suffix.endswith(("start-next", "/get")):
            return self.job_answer(suffix, publish)
        if suffix.endswith("/update"):
            return self.update_answer(suffix, json.loads(publish.payload))
        if suffix.endswith("describe/json"):
            stream = {"c": json.loads(publish.payload)["c"], "s": 1, "r": [{"f": 0, "z": len(self.image)}]}
            return self.incoming(suffix.replace("describe", "description"), json.dumps(stream).encode())
        return self.blocks(publish, suffix)

    def job_answer(self, suffix, publish):
        body = {"timestamp": 1, "clientToken": json.loads(publish.payload)["clientToken"]}
        is_open = self.job["status"] in {"QUEUED", "IN_PROGRESS"}
        if suffix == "jobs/get":
            body |= {"inProgressJobs": [], "queuedJobs": [self.execution() | {"queuedAt": 1}] if is_open else []}
        elif is_open:
            if suffix.endswith("start-next") and self.job["status"] == "QUEUED":
                self.job |= {"status": "IN_PROGRESS", "versionNumber": 2, "startedAt": 1}
            body["execution"] = self.execution()
        return self.incoming(f"{suffix}/accepted", json.dumps(body).encode())

    def update_answer(self, suffix, asked):
        if "clientToken" in asked and asked["expectedVersion"] != self.job["versionNumber"]:
            return self.incoming(f"{suffix}/rejected", self.refusal(asked))
        self.job["status"], self.details = asked["status"], asked.get("statusDetails", self.details)
        self.job["versionNumber"] += 1
        if "clientToken" not in asked:
            return []
        answer = {"timestamp": 1, "clientToken": asked["clientToken"], "executionState": self.state()}
        return self.incoming(f"{suffix}/accepted", json.dumps(answer).encode())

    def state(self):
        return {
            "status": self.job["status"],
            "statusDetails": self.details or {},
            "versionNumber": self.job["versionNumber"],
        }

    def refusal(self, asked):
        body = {"code": "VersionMismatch", "message": "no", "timestamp": 1, "clientToken": asked["clientToken"]}
        return json.dumps(body | {"executionState": self.state()}).encode()

    def blocks(self, publish, suffix):
        encoding = suffix.rpartition("/")[2]
        request = json.loads(publish.payload) if encoding == "json" else cbor_loose.read(publish.payload)
        bitmap, size = request.get("b"), request["l"]
        bitmap = bytes.fromhex(bitmap.removeprefix("0x")) if isinstance(bitmap, str) else bitmap
        total = -(-len(self.image) // size)
        wanted = [
            number
            for number in range(request["o"], total)
            if bitmap in (None, b"MQ==") or wants(bitmap, number - request["o"])
        ]
        actions = []
        for number in wanted[: request["n"]]:
            if number in self.lost_blocks:
                self.lost_blocks.discard(number)
                continue
            data = self.image[number * size : (number + 1) * size]
            payload = json_block(number, data) if encoding == "json" else cbor_block(number, data)
            actions += self.incoming(suffix.replace("/get/", "/data/"), payload)
        return actions

    def incoming(self, suffix, payload):
        return self.client.received(Incoming(topic=self.thing + suffix, payload=payload), self.now_s)

    # --- what happened -----------------------------------------------------------------------------------------------

    def requests(self):
        return [
            publish.payload for publish in self.published if "/get/" in publish.topic and "streams" in publish.topic
        ]

    def updates(self):
        return [json.loads(publish.payload) for publish in self.published if publish.topic.endswith("/update")]
