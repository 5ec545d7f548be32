"""The older OTA agent: CBOR, a bitmap of what it lacks, a self test after the restart.

1. For each job it subscribes `notify-next` again and asks `$next/get`; an answer on either topic will do.
2. A job message that comes while it waits for blocks makes it drop the file and ask again.
3. A block of the wrong size or number, or CBOR that it cannot read, ends the update; a repeated block is ignored.
4. After the restart all hangs on the `statusDetails` that it gave before: without `self_test` in them it rolls back.
5. After 32 requests without a block it gives up with FAILED "aborted", and is off until the next power-on.
"""

from enum import Enum, auto
from typing import Final

from device_sim.clients.aws_device import AwsDevice
from device_sim.clients.aws_documents import JobMessage, NotForUs, OtaFile, c_number, read_for_agent, read_message
from device_sim.clients.aws_flash import Flash, is_base64_signature, parts, word
from device_sim.clients.aws_streams import OVERHEAD_MAX, Block, read_block, request_cbor
from device_sim.clients.model import (
    Action,
    ClientOptions,
    Incoming,
    Publish,
    Restart,
    Subscribe,
    Unsubscribe,
    WentWrong,
)

REQUEST_WAIT_S: Final = 10.0
QUICK_WAIT_S: Final = 0.5
SELF_TEST_WAIT_S: Final = 16.0
MOMENTUM_MAX: Final = 32
STATUS_EVERY: Final = 64
BITMAP_MAX_BYTES: Final = 128
BLOCK_MAX_BYTES: Final = 16_384
NAME_IN_TOKEN: Final = 53
DROPS_MAX: Final = 8
"""How often it drops a file for a notification before that counts as a loop without end."""
_PARSER_ERROR: Final = "0x0000000c: 0x00000004"
_SIGNATURE_ERROR: Final = "0x000000e3: 0x00000000"
_DOWNGRADE: Final = 0x0F
_SAME_VERSION: Final = 0x10


class _State(Enum):
    STOPPED = auto()
    REQUESTING_JOB = auto()
    WAITING_FOR_JOB = auto()
    CREATING_FILE = auto()
    WAITING_FOR_BLOCK = auto()
    SUSPENDED = auto()


class AgentDevice(AwsDevice):
    """The agent's state machine; `status_every` is its build-time setting of how often it reports."""

    def __init__(self, options: ClientOptions, flash: Flash, *, status_every: int = STATUS_EVERY) -> None:
        super().__init__(options, flash)
        if options.block_bytes > BLOCK_MAX_BYTES or options.block_bytes & (options.block_bytes - 1):
            raise WentWrong(f"blocks of {options.block_bytes} bytes: a power of two up to {BLOCK_MAX_BYTES} is built")
        self._status_every = status_every
        self._window = 4 if self.has("several") else 1
        self._wait_s = QUICK_WAIT_S if self.has("quick") else REQUEST_WAIT_S
        self._forget()

    @property
    def is_busy(self) -> bool:
        """Whether a job is at hand."""
        return bool(self._job_id)

    def _forget(self) -> None:
        self._state = _State.SUSPENDED
        self._job_id = ""
        self._file: OtaFile | None = None
        self._blocks: dict[int, bytes] = {}
        self._missing: set[int] = set()
        self._to_receive = 0
        self._momentum = 0
        self._requests = 0
        self._drops = 0
        self._self_test_ends_s: float | None = None
        self._request_ends_s: float | None = None

    def boot(self) -> list[Action]:
        """RAM is empty. An image on trial has a few seconds to be tested."""
        self._forget()
        if self.flash.is_pending:
            self._self_test_ends_s = self.now_s + SELF_TEST_WAIT_S
        self._set_deadline()
        return []

    def connected(self) -> list[Action]:
        """Start or resume: in both cases the job is asked for."""
        self.is_connected = True
        actions: list[Action] = []
        if self.has("wildcard"):
            actions.append(Subscribe(topic_filter="$aws/things/+/jobs/$next/get/#"))
            actions.append(Subscribe(topic_filter="$aws/things/+/jobs/notify-next"))
        return actions if self._state is _State.STOPPED else actions + self._request_job()

    def disconnected(self) -> list[Action]:
        """Suspended: what it has of the file stays, if it runs on."""
        self.is_connected = False
        if self._state is not _State.STOPPED:
            self._state = _State.SUSPENDED
            self._request_timer(None)
        return []

    def expired(self) -> list[Action]:
        """The self test was not done in time, or nothing came."""
        if self._self_test_ends_s is not None and self.now_s >= self._self_test_ends_s:
            self.failures.append("the self test was not begun in time")
            return self._roll_back()
        if self._request_ends_s is None or self.now_s < self._request_ends_s:
            self._set_deadline()
            return []
        self._request_timer(None)
        if self._state is _State.REQUESTING_JOB:
            return self._request_job()
        if self._state is _State.CREATING_FILE:
            return self._create_file()
        return self._request_block() if self._state is _State.WAITING_FOR_BLOCK else []

    def _request_timer(self, ends_s: float | None) -> None:
        self._request_ends_s = ends_s
        self._set_deadline()

    def _set_deadline(self) -> None:
        self.deadline = min(
            (at for at in (self._request_ends_s, self._self_test_ends_s) if at is not None), default=None
        )

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _request_job(self) -> list[Action]:
        self._state = _State.REQUESTING_JOB
        return [Subscribe(topic_filter=f"{self.jobs}notify-next", qos=1)]

    def subscribed(self, topic_filter: str, *, granted: bool) -> list[Action]:
        """It waits for each subscription before it goes on."""
        if self._state is _State.REQUESTING_JOB and topic_filter == f"{self.jobs}notify-next":
            if not granted:
                return self._try_again()
            self._state = _State.WAITING_FOR_JOB
            self._momentum = 0
            number = str(self._requests)[:-1]  # its last digit is written over
            self._requests += 1
            token = f"{number}:{self.options.name[:NAME_IN_TOKEN]}"
            payload = f'{{"clientToken":"{token}"}}'.encode()
            return [Publish(topic=f"{self.jobs}$next/get", payload=payload, qos=1)]
        if self._state is _State.CREATING_FILE and self._file and topic_filter == self._data():
            if not granted:
                return self._try_again()
            self._state = _State.WAITING_FOR_BLOCK
            self._momentum = 0
            return self._request_block()
        return []

    def _try_again(self) -> list[Action]:
        self._momentum += 1
        if self._momentum > MOMENTUM_MAX:
            self._stop()
            return []
        self._request_timer(self.now_s + self._wait_s)
        return []

    def received(self, message: Incoming) -> list[Action]:
        """By its topic; what the state does not expect is dropped."""
        if not message.topic.startswith(self.things):
            raise WentWrong(f"{message.topic} is another thing's: with wildcards the broker needs rules of access")
        if message.topic in {f"{self.jobs}$next/get/accepted", f"{self.jobs}notify-next"}:
            if len(message.payload) > self.options.block_bytes + OVERHEAD_MAX:
                raise WentWrong(
                    f"a job message of {len(message.payload)} bytes is copied over a buffer of"
                    f" {self.options.block_bytes + OVERHEAD_MAX}"
                )
            if self._state is _State.WAITING_FOR_BLOCK:
                return self._drop()
            if self._state is _State.WAITING_FOR_JOB:
                is_answer = message.topic.endswith("/accepted")
                return self._on_job(read_message(message.payload), is_answer=is_answer)
        elif self._file and message.topic == self._data() and self._state is _State.WAITING_FOR_BLOCK:
            return self._on_block(read_block(message.payload, "cbor", self.options.block_bytes))
        return []

    def _drop(self) -> list[Action]:
        """A notification in the middle of a download: the file is dropped, the job asked for again."""
        self._drops += 1
        if self._drops > DROPS_MAX:
            raise WentWrong("job messages in the middle of the download: it drops the file and begins again for ever")
        self._request_timer(None)
        closing = self._close()
        self._job_id = ""
        return closing + self._request_job()

    def _on_job(self, message: JobMessage, *, is_answer: bool) -> list[Action]:
        if message.job_id is None or message.document is None:
            if is_answer and (message.token is None or not message.has_timestamp):
                raise WentWrong("no job, but not with timestamp and clientToken: taken for a bad document")
            return []
        if self._job_id == message.job_id:
            return self._create_file()  # goes on with what it has
        return self._close() + self._on_new_job(message)

    def _on_new_job(self, message: JobMessage) -> list[Action]:
        assert message.job_id is not None
        assert message.document is not None
        self._job_id = message.job_id
        try:
            file = read_for_agent(message.document)
            if not is_base64_signature(file.signature):
                raise NotForUs("the signature is not base64 of at most 384 bytes")  # noqa: TRY301
            updater = c_number(message.details.get("updatedBy", "0"))
        except NotForUs as error:
            return self._failed(_PARSER_ERROR, str(error))
        if "self_test" in message.details:
            return self._self_test(updater)
        if self.flash.is_pending:
            raise WentWrong(
                "the image is on trial, but the job's statusDetails have no self_test: it rolls back at every boot"
            )
        if file.size_bytes > BITMAP_MAX_BYTES * 8 * self.options.block_bytes:
            raise WentWrong(
                f"a file of {file.size_bytes} bytes is too large for its bitmap: the job is dropped silently"
            )
        self._file, self._blocks = file, {}
        self._missing = set(range(-(-file.size_bytes // self.options.block_bytes)))
        return self._create_file()

    def _create_file(self) -> list[Action]:
        if self._file is None:
            return []
        self._state = _State.CREATING_FILE
        return [Subscribe(topic_filter=self._data())]

    def _failed(self, reason: str, why: str) -> list[Action]:
        self.failures.append(f"{reason} ({why})")
        publish = self.update(self._job_id, {"status": "FAILED", "statusDetails": {"reason": reason}}, 1)
        self._job_id = ""
        closing = self._close()
        self._state = _State.WAITING_FOR_JOB
        self._request_timer(None)
        return [publish, *closing]

    # --- the self test -----------------------------------------------------------------------------------------------

    def _self_test(self, updater: int) -> list[Action]:
        running = word(self.flash.version)
        if updater >= running:
            reason = _SAME_VERSION if updater == running else _DOWNGRADE
            actions = self._failed(f"rejected: 0x{reason:08x}", "the image is not newer than the one that fetched it")
            return actions + self._roll_back()
        if not self.flash.is_pending:
            return self._failed("rejected: 0x00000011", "the job is in its self test, the device is not")
        self.flash.commit()
        self._self_test_ends_s = None
        self._request_timer(None)
        job_id, self._job_id = self._job_id, ""
        active = {"self_test": "active", "updatedBy": f"0x{running:08x}"}
        done = {"reason": f"accepted  v{self._dotted(running)}", "updatedBy": f"  v{self._dotted(updater)}"}
        return [
            self.update(job_id, {"status": "IN_PROGRESS", "statusDetails": active}, 1),
            self.update(job_id, {"status": "SUCCEEDED", "statusDetails": done}, 1),
        ]

    def _dotted(self, version_word: int) -> str:
        return f"{version_word >> 24}.{version_word >> 16 & 0xFF}.{version_word & 0xFFFF}"

    def _roll_back(self) -> list[Action]:
        self.flash.roll_back()
        self._self_test_ends_s = None
        self._request_timer(None)
        return [Restart()]

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _data(self) -> str:
        return self.data_topic(self._file.stream, "cbor") if self._file else ""

    def _request_block(self) -> list[Action]:
        assert self._file
        if self._momentum >= MOMENTUM_MAX:
            actions = self._failed("aborted: 0x00000000", "no blocks came")
            self._stop()
            return actions
        self._momentum += 1
        self._to_receive = self._window
        self._request_timer(self.now_s + self._wait_s)
        bitmap = bytearray(-(-(len(self._missing) + len(self._blocks)) // 8))
        for number in self._missing:
            bitmap[number // 8] |= 1 << number % 8
        payload = request_cbor(self._file.file_id, self.options.block_bytes, 0, self._window, bytes(bitmap))
        return [Publish(topic=self.get_topic(self._file.stream, "cbor"), payload=payload)]

    def _on_block(self, block: Block) -> list[Action]:
        assert self._file
        total, size = len(self._missing) + len(self._blocks), self.options.block_bytes
        expected = size if block.index < total - 1 else self._file.size_bytes - size * (total - 1)
        if block.index >= total or len(block.data) != expected:
            raise WentWrong(f"block {block.index} of {total} has {len(block.data)} bytes: the update fails")
        self._request_timer(self.now_s + self._wait_s)
        if block.index not in self._missing:
            return []
        self._missing.discard(block.index)
        self._blocks[block.index] = block.data
        self._momentum = 0
        if not self._missing:
            return self._complete()
        actions: list[Action] = []
        received = len(self._blocks)
        if received == 1 or received % self._status_every == 0:
            details = {"receive": f"{received}/{total}"}
            actions.append(self.update(self._job_id, {"status": "IN_PROGRESS", "statusDetails": details}))
        self._to_receive -= 1
        return actions if self._to_receive > 0 else actions + self._request_block()

    def _complete(self) -> list[Action]:
        assert self._file
        image = b"".join(self._blocks[number] for number in sorted(self._blocks))
        if not self.flash.is_signed(image, self._file.signature):
            return self._failed(_SIGNATURE_ERROR, "the signature does not hold")
        if self._file.file_type:
            self.flash.installs += 1
            body = {"reason": f"accepted  v{'.'.join(map(str, parts(self.flash.version)))}"}
            job_id, self._job_id = self._job_id, ""
            self._state = _State.WAITING_FOR_JOB
            return [self.update(job_id, {"status": "SUCCEEDED", "statusDetails": body}, 1), *self._close()]
        ready = {"self_test": "ready", "updatedBy": f"0x{word(self.flash.version):08x}"}
        publish = self.update(self._job_id, {"status": "IN_PROGRESS", "statusDetails": ready}, 1)
        self.flash.install(image)
        return [publish, *self._close(), Restart()]

    def _close(self) -> list[Action]:
        actions: list[Action] = [Unsubscribe(topic_filter=self._data())] if self._file else []
        self._file, self._blocks, self._missing = None, {}, set()
        self._request_timer(None)
        return actions

    def _stop(self) -> None:
        self._state = _State.STOPPED
        self._request_timer(None)
