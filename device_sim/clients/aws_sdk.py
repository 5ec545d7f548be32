"""A device on one of the vendor's SDKs: it subscribes every answer, and uses what the service has to offer.

It waits for each answer, knows its requests by their tokens, holds every number that it is told against what it
expects, and asks with a bitmap in JSON. What does not add up is `WentWrong`.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from device_sim.clients.aws_device import AwsDevice
from device_sim.clients.aws_documents import read_for_jobs
from device_sim.clients.aws_flash import Flash
from device_sim.clients.aws_streams import Block, read_block
from device_sim.clients.model import Action, ClientOptions, Incoming, Publish, Restart, Subscribe, WentWrong

ANSWER_WAIT_S: Final = 3.0
WINDOW: Final = 8
_FILTERS: Final = (
    "jobs/notify",
    "jobs/notify-next",
    "jobs/get/+",
    "jobs/start-next/+",
    "jobs/+/get/+",
    "jobs/+/update/+",
    "streams/+/description/json",
    "streams/+/data/json",
    "streams/+/rejected/json",
)

Answer = Callable[[dict[str, Any]], list[Action]]


class SdkDevice(AwsDevice):
    """One request at a time; `_then` takes its answer."""

    def __init__(self, options: ClientOptions, flash: Flash) -> None:
        super().__init__(options, flash)
        self._forget()

    @property
    def is_busy(self) -> bool:
        """Whether a job is at hand."""
        return bool(self._job_id)

    def _forget(self) -> None:
        self._missing_subacks: set[str] = set()
        self._tokens = 0
        self._sent: Publish | None = None
        self._then: Answer | None = None
        self._job_id = ""
        self._version = 0
        self._stream, self._stream_version, self._file_id, self._size_bytes = "", 0, 0, 0
        self._signature = ""
        self._blocks: dict[int, bytes] = {}
        self._missing: set[int] = set()
        self._outstanding = 0

    def boot(self) -> list[Action]:
        """RAM is empty."""
        self._forget()
        self.deadline = None
        return []

    def connected(self) -> list[Action]:
        """All subscriptions; when they stand it asks what there is, or goes on."""
        self.is_connected = True
        self._missing_subacks = {self.things + name for name in _FILTERS}
        return [Subscribe(topic_filter=self.things + name, qos=1) for name in _FILTERS]

    def subscribed(self, topic_filter: str, *, granted: bool) -> list[Action]:
        """The last one begins it."""
        if not granted:
            raise WentWrong(f"{topic_filter} was refused")
        self._missing_subacks.discard(topic_filter)
        if self._missing_subacks:
            return []
        if self._missing:
            return self._ask_for_blocks()
        if self._sent is not None:
            return self._send(self._sent)
        return [] if self._job_id else self._ask(f"{self.jobs}get", {}, self._on_pending)

    def disconnected(self) -> list[Action]:
        """It goes on when the link is back."""
        self.is_connected = False
        self.deadline = None
        return []

    def expired(self) -> list[Action]:
        """The answer did not come, or not all the blocks."""
        if self._missing:
            return self._ask_for_blocks()
        return self._send(self._sent) if self._sent else []

    def _ask(self, topic: str, body: dict[str, Any], then: Answer) -> list[Action]:
        self._tokens += 1
        self._then = then
        text = json.dumps({**body, "clientToken": f"{self.options.seed}-{self._tokens}"})
        return self._send(Publish(topic=topic, payload=text.encode(), qos=1))

    def _send(self, publish: Publish) -> list[Action]:
        self._sent = publish
        self.deadline = self.now_s + ANSWER_WAIT_S
        return [publish]

    # --- answers -----------------------------------------------------------------------------------------------------

    def received(self, message: Incoming) -> list[Action]:
        """Notifications, blocks, and the answer that it waits for."""
        topic = message.topic.removeprefix(self.things)
        if topic == f"streams/{self._stream}/data/json":
            return self._on_block(read_block(message.payload, "json", self.options.block_bytes))
        body = json.loads(message.payload)
        if topic == "jobs/notify":
            self._check_lists(body["jobs"], "IN_PROGRESS", "QUEUED")
            return []
        if topic == "jobs/notify-next":
            is_new = "execution" in body and not self._job_id and self._then is None
            return self._start_next() if is_new else []
        if topic.startswith("streams/") and topic.endswith("/rejected/json"):
            if (body["code"], body["message"]) != (body["o"], body["m"]):
                raise WentWrong(f"a refusal that says two things: {body}")
            self.failures.append(f"{topic}: {body['code']}")
            return []
        return self._on_answer(topic, body)

    def _on_answer(self, topic: str, body: dict[str, Any]) -> list[Action]:
        if self._sent is None or self._then is None:
            return []
        asked = json.loads(self._sent.payload)
        token = body.get("c" if topic.startswith("streams/") else "clientToken")
        if token != asked.get("clientToken", asked.get("c")):
            return []
        then, self._then, self._sent, self.deadline = self._then, None, None, None
        if topic.endswith("/rejected"):
            return self._on_rejected(topic, body)
        if topic.startswith("jobs/") and not isinstance(body.get("timestamp"), int):
            raise WentWrong(f"an answer on {topic} without a timestamp")
        return then(body)

    def _on_rejected(self, topic: str, body: dict[str, Any]) -> list[Action]:
        """The job is over for it; it looks for the next one."""
        if not isinstance(body.get("message"), str) or not isinstance(body.get("timestamp"), int):
            raise WentWrong(f"a refusal without message or timestamp: {body}")
        if body["code"] in {"VersionMismatch", "InvalidStateTransition"} and "executionState" not in body:
            raise WentWrong(f"{body['code']} without executionState")
        self.failures.append(f"{topic}: {body['code']}")
        self._job_id, self._missing = "", set()
        return self._start_next() if body["code"] != "ResourceNotFound" else []

    def _check_lists(self, lists: dict[str, Any], *names: str) -> None:
        for name, members in lists.items():
            if name not in names or any({"jobId", "queuedAt", "versionNumber"} - set(one) for one in members):
                raise WentWrong(f"a list of jobs that is none: {name} {members}")

    # --- the job -----------------------------------------------------------------------------------------------------

    def _on_pending(self, body: dict[str, Any]) -> list[Action]:
        self._check_lists({"inProgressJobs": body["inProgressJobs"], "queuedJobs": body["queuedJobs"]}, *_PENDING)
        is_some = body["inProgressJobs"] or body["queuedJobs"]
        return self._start_next() if is_some else []

    def _start_next(self) -> list[Action]:
        return self._ask(f"{self.jobs}start-next", {"stepTimeoutInMinutes": 60}, self._on_started)

    def _on_started(self, body: dict[str, Any]) -> list[Action]:
        execution = body.get("execution")
        if execution is None:
            return []
        if execution["status"] != "IN_PROGRESS" or "startedAt" not in execution:
            raise WentWrong(f"start-next gave an execution that has not begun: {execution}")
        self._job_id, self._version = execution["jobId"], execution["versionNumber"]
        if "installed" in execution.get("statusDetails", {}):
            return self._report("SUCCEEDED", {"runs": self.flash.version}, self._on_confirmed)
        return self._ask(f"{self.jobs}{self._job_id}/get", {"includeJobDocument": True}, self._on_described)

    def _on_described(self, body: dict[str, Any]) -> list[Action]:
        execution = body["execution"]
        if (execution["jobId"], execution["versionNumber"]) != (self._job_id, self._version):
            raise WentWrong(f"described is another execution: {execution}")
        file = read_for_jobs(execution["jobDocument"] | {"afr_ota": _as_text(execution["jobDocument"]["afr_ota"])})
        self._stream, self._file_id, self._size_bytes = file.stream, file.file_id, file.size_bytes
        self._signature = file.signature
        return self._report("IN_PROGRESS", {"progress": "0"}, self._on_begun)

    def _report(self, status: str, details: dict[str, str], then: Answer) -> list[Action]:
        body = {
            "status": status,
            "statusDetails": details,
            "expectedVersion": self._version,
            "includeJobExecutionState": True,
        }

        def checked(answer: dict[str, Any]) -> list[Action]:
            state = answer["executionState"]
            if (state["status"], state["versionNumber"]) != (status, self._version + 1):
                raise WentWrong(f"after {status} at version {self._version} the execution is {state}")
            if state["statusDetails"] != details:
                raise WentWrong(f"details {details} came back as {state['statusDetails']}")
            self._version += 1
            return then(answer)

        return self._ask(f"{self.jobs}{self._job_id}/update", body, checked)

    def _on_begun(self, body: dict[str, Any]) -> list[Action]:
        self._tokens += 1
        self._then = self._on_description
        topic = f"{self.things}streams/{self._stream}/describe/json"
        return self._send(Publish(topic=topic, payload=json.dumps({"c": f"d-{self._tokens}"}).encode()))

    def _on_description(self, body: dict[str, Any]) -> list[Action]:
        if {"f": self._file_id, "z": self._size_bytes} not in body["r"]:
            raise WentWrong(f"the stream has no file {self._file_id} of {self._size_bytes} bytes: {body}")
        self._stream_version = body["s"]
        self._blocks = {}
        self._missing = set(range(-(-self._size_bytes // self.options.block_bytes)))
        return self._ask_for_blocks()

    def _on_confirmed(self, body: dict[str, Any]) -> list[Action]:
        self.flash.commit()
        self._job_id = ""
        return self._start_next()

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _ask_for_blocks(self) -> list[Action]:
        first = min(self._missing)
        wanted = sorted(number for number in self._missing if number < first + 8 * WINDOW)[:WINDOW]
        bitmap = bytearray((wanted[-1] - first) // 8 + 1)
        for number in wanted:
            bitmap[(number - first) // 8] |= 1 << (number - first) % 8
        self._outstanding = len(wanted)
        self.deadline = self.now_s + ANSWER_WAIT_S
        body = {
            "c": "blocks",
            "s": self._stream_version,
            "f": self._file_id,
            "l": self.options.block_bytes,
            "o": first,
            "b": "0x" + bitmap.hex(),
            "n": WINDOW,
        }
        return [Publish(topic=self.get_topic(self._stream, "json"), payload=json.dumps(body).encode())]

    def _on_block(self, block: Block) -> list[Action]:
        if block.index not in self._missing:
            return []
        self._missing.discard(block.index)
        self._blocks[block.index] = block.data
        self._outstanding -= 1
        self.deadline = self.now_s + ANSWER_WAIT_S
        if self._missing:
            return [] if self._outstanding > 0 else self._ask_for_blocks()
        self.deadline = None
        image = b"".join(self._blocks[number] for number in sorted(self._blocks))
        if len(image) != self._size_bytes:
            raise WentWrong(f"{len(image)} bytes of a file of {self._size_bytes}")
        if not self.flash.is_signed(image, self._signature):
            return self._report("FAILED", {"reason": "the signature does not hold"}, self._on_failed)
        return self._report("IN_PROGRESS", {"installed": "1"}, lambda _answer: self._installed(image))

    def _installed(self, image: bytes) -> list[Action]:
        self.flash.install(image)
        return [Restart()]

    def _on_failed(self, body: dict[str, Any]) -> list[Action]:
        self.failures.append("the signature does not hold")
        self._job_id = ""
        return []


_PENDING: Final = ("inProgressJobs", "queuedJobs")


def _as_text(ota: dict[str, Any]) -> dict[str, Any]:
    """Numbers as text, which is how `aws_documents` reads them."""
    files = [
        {key: str(value) if isinstance(value, int) else value for key, value in file.items()} for file in ota["files"]
    ]
    return {**ota, "files": files}
