"""A device with the Jobs library and the streams library: as in the ESP32 reference, or as in the simple Lab demo.

Both:
1. Ask once for a job, and otherwise wait to be told.
2. Ask for one block at a time and append what comes, in the order in which it comes.

ESP32: hears `notify-next`; drops a block with a number not above the last and asks again at once; asks again after
three seconds; is silent about a bad signature; boots the image and reports SUCCEEDED when the job is handed out again.
Any message with the same job id in the middle of a download clears what it knows of the job, the signature too.

Lab demo: subscribes to its data topic only, takes even a repeated block, never asks twice, reports SUCCEEDED with
expectedVersion "2" right after the download.
"""

from typing import Final

from device_sim.clients.aws_device import JOB_MESSAGE_MAX, AwsDevice
from device_sim.clients.aws_documents import JOB_ID_MAX, NotForUs, OtaFile, read_for_jobs, read_message
from device_sim.clients.aws_flash import Flash, is_base64_signature
from device_sim.clients.aws_streams import Block, read_block, request_cbor, request_json
from device_sim.clients.model import Action, ClientOptions, Incoming, Publish, Restart, Subscribe, WentWrong

ASK_AGAIN_S: Final = 3.0
NEXT_JOB_S: Final = 5.0
HANGS_AFTER_S: Final = 60.0
SEVERAL: Final = 4


class JobsDevice(AwsDevice):
    """The state machine of both."""

    def __init__(self, options: ClientOptions, flash: Flash) -> None:
        super().__init__(options, flash)
        self.encoding = "cbor" if self.has("jobs-cbor") else "json"
        self.is_lab = self.has("lab")
        self._ends_without_restart = self.is_lab or self.has("no-restart")
        self.count = SEVERAL if self.has("several") else 1
        self._forget()

    @property
    def is_busy(self) -> bool:
        """Whether it downloads."""
        return bool(self._blocks_left)

    def _forget(self) -> None:
        self._job_buffer = ""
        self._job_id = ""
        self._file: OtaFile | None = None
        self._stream = ""
        self._blocks_left = 0
        self._blocks: dict[int, bytes] = {}
        self._last = -1
        self._outstanding = 0
        self._is_waiting_for_data_topic = False
        self._wants_job = False

    def boot(self) -> list[Action]:
        """RAM is empty; it will ask for a job."""
        self._forget()
        self._wants_job = True
        self.deadline = None
        return []

    def connected(self) -> list[Action]:
        """The subscriptions first; a job is asked for once after power-on."""
        self.is_connected = True
        if self.is_lab:
            self.boot()  # the demo ends with its connection and is started anew
        actions: list[Action] = []
        if not self.is_lab:
            actions.append(Subscribe(topic_filter=f"{self.jobs}notify-next", qos=1))
            if self._blocks_left:
                actions.append(Subscribe(topic_filter=self.data_topic(self._stream, self.encoding)))
        if self._wants_job:
            actions.append(self._start_next())
        return actions

    def _start_next(self) -> Publish:
        self._wants_job = False
        return Publish(topic=f"{self.jobs}start-next", payload=b'{"clientToken":"test"}')

    def subscribed(self, topic_filter: str, *, granted: bool) -> list[Action]:
        """The first block is asked for when the subscription of the data topic stands."""
        if not self._is_waiting_for_data_topic or topic_filter != self.data_topic(self._stream, self.encoding):
            return []
        if not granted:
            raise WentWrong("the data topic was refused: it asks for blocks that never come")
        self._is_waiting_for_data_topic = False
        return self._request()

    def disconnected(self) -> list[Action]:
        """It goes on where it was when the link is back."""
        self.is_connected = False
        return []

    def expired(self) -> list[Action]:
        """No block for a while, or time to look for the next job."""
        if self._blocks_left:
            if self.is_lab:
                if self.is_connected:
                    raise WentWrong("the block that was asked for never came: the demo waits for ever")
                return []
            if not self.is_connected:
                self.deadline = self.now_s + ASK_AGAIN_S
                return []
            return self._request()
        return [self._start_next()]

    def received(self, message: Incoming) -> list[Action]:
        """By its topic."""
        topic = message.topic
        if self._stream and topic == self.data_topic(self._stream, self.encoding):
            return self._on_block(read_block(message.payload, self.encoding, self.options.block_bytes))
        if topic == f"{self.jobs}start-next/accepted" or (not self.is_lab and topic == f"{self.jobs}notify-next"):
            return self._on_job(message.payload)
        if self.is_lab and topic.startswith(f"{self.jobs}{self._job_id}/update/") and self._job_id:
            self._job_id = ""
        return []

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _on_job(self, payload: bytes) -> list[Action]:
        if len(payload) > JOB_MESSAGE_MAX:
            raise WentWrong(f"a job message of {len(payload)} bytes for a buffer of {JOB_MESSAGE_MAX}")
        message = read_message(payload)
        self._file = None
        if message.job_id is None or message.document is None:
            return []
        if message.job_id and self._job_id.startswith(message.job_id):
            raise WentWrong(f"job {message.job_id} came again in the middle: its signature is forgotten")
        self._keep_job_id(message.job_id)
        try:
            self._file = read_for_jobs(message.document)
        except NotForUs:
            return []
        if not self._ends_without_restart and not is_base64_signature(self._file.signature):
            raise WentWrong("the signature is not base64: the job is ignored for ever")
        if not self._file.size_bytes:
            raise WentWrong("a file of no bytes")
        self._stream = self._file.stream
        subscribe = Subscribe(topic_filter=self.data_topic(self._stream, self.encoding))
        if self.flash.is_pending:
            self.flash.commit()
            self.deadline = self.now_s + NEXT_JOB_S
            return [subscribe, self._succeeded()]
        if self._blocks_left and self._last >= 0:
            raise WentWrong(
                "another job in the middle: the blocks below the last one are dropped and asked for for ever"
            )
        self._blocks_left = -(-self._file.size_bytes // self.options.block_bytes)
        self._blocks = {}
        self._is_waiting_for_data_topic = True
        return [subscribe]

    def _keep_job_id(self, job_id: str) -> None:
        """Copied without its end: what was longer before shows behind it."""
        if len(job_id) > JOB_ID_MAX:
            raise WentWrong(f"a job id of {len(job_id)} characters for a buffer of {JOB_ID_MAX}")
        if self._job_id and self.is_lab:
            return
        self._job_buffer = job_id + self._job_buffer[len(job_id) :]
        self._job_id = self._job_buffer

    def _succeeded(self) -> Publish:
        body: dict[str, object] = {"status": "SUCCEEDED"}
        if self.is_lab or self.has("version-2"):
            body["expectedVersion"] = "2"
        publish = self.update(self._job_id, body)
        if not self.is_lab:
            self._job_id = ""
        self._last = -1
        return publish

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _request(self) -> list[Action]:
        assert self._stream
        wait_s = HANGS_AFTER_S if self.is_lab else ASK_AGAIN_S
        self.deadline = self.now_s + wait_s
        offset = next(number for number in range(self._total()) if number not in self._blocks)
        self._outstanding = min(self.count, self._total() - offset)
        write = request_json if self.encoding == "json" else request_cbor
        payload = write(self._file_id, self.options.block_bytes, offset & 0xFFFF, self.count)
        return [Publish(topic=self.get_topic(self._stream, self.encoding), payload=payload)]

    @property
    def _file_id(self) -> int:
        return self._file.file_id if self._file else 0

    def _total(self) -> int:
        return self._blocks_left + len(self._blocks)

    def _on_block(self, block: Block) -> list[Action]:
        if not self._blocks_left:
            return []
        if block.file_id != self._file_id:
            raise WentWrong(f"a block of file {block.file_id} instead of {self._file_id}")
        if block.index >= self._total():
            raise WentWrong(f"block {block.index} of {self._total()}")
        is_short = len(block.data) != self.options.block_bytes
        if is_short and block.index != self._total() - 1:
            raise WentWrong(f"block {block.index} has {len(block.data)} bytes, and the next is appended to it")
        if self.count > 1:
            return self._on_block_of_several(block)
        if block.index <= self._last:
            if self.is_lab:
                raise WentWrong(f"block {block.index} came again and is appended again")
            return self._request()
        if block.index != self._last + 1:
            raise WentWrong(f"block {block.index} came after {self._last} and is appended there")
        self._take(block)
        return self._request() if self._blocks_left else self._complete()

    def _on_block_of_several(self, block: Block) -> list[Action]:
        """An application with a map of what it has: order and repeats do not matter to it."""
        self._outstanding -= 1
        if block.index not in self._blocks:
            self._take(block)
        if not self._blocks_left:
            return self._complete()
        self.deadline = self.now_s + ASK_AGAIN_S
        return [] if self._outstanding > 0 else self._request()

    def _take(self, block: Block) -> None:
        self._blocks[block.index] = block.data
        self._last = block.index
        self._blocks_left -= 1

    def _complete(self) -> list[Action]:
        self.deadline = None
        image = b"".join(self._blocks[number] for number in range(len(self._blocks)))
        if self._file is None:
            self.failures.append("the signature was forgotten when the job was taken back")
            return []
        if len(image) != self._file.size_bytes:
            raise WentWrong(f"{len(image)} bytes of a file of {self._file.size_bytes}")
        if not self.flash.is_signed(image, self._file.signature):
            self.failures.append("the signature does not hold")
            return []
        self.flash.install(image)
        if self._ends_without_restart:
            self.flash.commit()
            return [self._succeeded()]
        return [Restart()]
