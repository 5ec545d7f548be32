"""The download demo of Alibaba's C Link SDK 4.1 (`mota_basic_demo`) as a state machine, byte for byte as recorded.

It informs once after a start, never after a reconnect, and subscribes nothing but `download_reply`, when a download
begins: the rest it expects of the cloud, and on a plain broker never hears a task. Each task begins a download,
whatever it runs and whatever is under way. One request is out at a time; 10 s without an answer, or a bad answer at
once, is the next try, and the fourth in a row is the end. Having ended, well or badly, the demo quits; here whatever
runs it starts it again.

Variants: `subscribed` (as if a broker that helps had added the three subscriptions after every CONNECT), `queries` (it
asks for a task after it has informed), `brisk` (its receive call waits 0.1 s, not 5), `reverts` (an image does not come
up), `bad-flash` (a byte of every image is written wrong), `module=NAME`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from device_sim.clients.alibaba_image import Bank
from device_sim.clients.alibaba_words import Task, Topics, sdk_reply, sdk_request, sdk_session, sdk_task
from device_sim.clients.model import (
    Action,
    ClientOptions,
    Incoming,
    Outcome,
    Publish,
    Restart,
    Session,
    Subscribe,
    Unsubscribe,
    WentWrong,
)

RECEIVE_S: Final = 5.0
BRISK_RECEIVE_S: Final = 0.1
REPLY_S: Final = 10.0
RETRIES: Final = 3
REPORT_PERCENT: Final = 5
QUIT_S: Final = 0.1
BAD_CHECKSUM: Final = "-3"
BAD_DOWNLOAD: Final = "-4"
DONE: Final = "100"


@dataclass(slots=True)
class Download:
    """One handle of the SDK's download."""

    task: Task
    image: bytearray = field(default_factory=bytearray)
    requests: int = 0
    failed: int = 0
    requested_s: float = 0.0
    told_percent: int = 0
    end: str = ""
    """The step that it will report in its next turn."""
    is_told: bool = False

    @property
    def percent(self) -> int:
        return len(self.image) * 100 % 2**32 // self.task.size_bytes  # 32 bits, as in C: wrong above 42.9 MB


class SdkClient:
    """See the module."""

    def __init__(self, options: ClientOptions) -> None:
        """`block_bytes` is what it asks for at once; the demo's own is 10240."""
        self._options, self._topics, self._bank = options, Topics.of(options), Bank(options)
        self._module = next((name[7:] for name in options.variants if name.startswith("module=")), "")
        self._receive_s = BRISK_RECEIVE_S if "brisk" in options.variants else RECEIVE_S
        self._download: Download | None = None
        self._turn_s: float | None = None
        self._id = 0
        self._has_informed = False
        self._is_quitting = False
        self._restarts = 0
        self._failures: list[str] = []
        self.tasks = 0
        """How many tasks it took."""
        self.tasks_while_busy = 0
        """How many of these threw away what was downloaded."""

    @property
    def outcome(self) -> Outcome:
        running = self._bank.running
        return Outcome(
            version=running.version,
            sha256=running.sha256,
            installs=running.installs,
            restarts=self._restarts,
            failures=tuple(self._failures),
            is_busy=self._download is not None or self._is_quitting,
        )

    def session(self) -> Session:
        return sdk_session(self._options)

    def started(self, now_s: float) -> Sequence[Action]:
        self._download, self._turn_s = None, None
        self._id, self._has_informed, self._is_quitting = 0, False, False
        return []

    def connected(self, now_s: float) -> Sequence[Action]:
        actions: list[Action] = []
        if "subscribed" in self._options.variants:
            added = (self._topics.upgrade, self._topics.get_reply, self._topics.download_reply)
            actions += [Subscribe(topic_filter=topic, qos=1) for topic in added]
        if not self._has_informed:
            self._has_informed = True
            actions += self._inform()
        return actions

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        return []  # it asks before the answer comes, and does not look at it

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        if self._is_quitting:
            return []
        actions: list[Action] = []
        if message.topic in {self._topics.upgrade, self._topics.get_reply}:
            actions += self._heard_task(message.payload, now_s)
        elif message.topic == self._topics.download_reply and self._download is not None:
            actions += self._heard_block(self._download, message.payload, now_s)
        return [*actions, *self._process(now_s)]

    def disconnected(self, now_s: float) -> Sequence[Action]:
        return []  # the handle lives on: it asks again when its time comes

    def tick(self, now_s: float) -> Sequence[Action]:
        return self._process(now_s)

    def next_deadline(self) -> float | None:
        return self._turn_s

    # --- what it says ---

    def _next_id(self) -> int:
        self._id += 1
        return self._id

    def _inform(self) -> list[Action]:
        own = f',"module":"{self._module}"' if self._module else ""
        params = f'{{"version":"{self._bank.running.version}"{own}}}'
        actions: list[Action] = [self._alink(self._topics.inform, params)]
        if "queries" in self._options.variants:
            actions.append(self._alink(self._topics.get, f'{{"module":"{self._module}"}}' if self._module else "{}"))
        return actions

    def _alink(self, topic: str, params: str) -> Publish:
        return Publish(topic=topic, payload=f'{{"id":{self._next_id()}, "params":{params}}}'.encode())

    def _step(self, download: Download, step: str) -> Publish:
        own = f',"module":"{download.task.module}"' if download.task.module else ""
        return self._alink(self._topics.progress, f'{{"step":"{step}","desc":""{own}}}')

    def _ask(self, download: Download, now_s: float) -> Publish:
        offset = len(download.image)
        size = min(self._options.block_bytes, download.task.size_bytes - offset)
        download.requests += 1
        download.requested_s = now_s
        return Publish(topic=self._topics.download, payload=sdk_request(download.requests, download.task, size, offset))

    # --- what it hears ---

    def _heard_task(self, payload: bytes, now_s: float) -> list[Action]:
        task = sdk_task(payload)
        if task is None:
            return []
        if task.version == self._bank.running.version:
            raise WentWrong(f"a task for {task.version}, which it runs: it compares nothing and installs that again")
        if task.size_bytes == 0:
            return []  # a size of 0 is an error of every turn, and nobody is told
        self.tasks += 1
        actions: list[Action] = []
        if self._download is not None:
            self.tasks_while_busy += 1
            actions.append(Unsubscribe(topic_filter=self._topics.download_reply))
        self._download = Download(task=task)
        actions.append(Subscribe(topic_filter=self._topics.download_reply, qos=0))
        return [*actions, self._ask(self._download, now_s)]

    def _heard_block(self, download: Download, payload: bytes, now_s: float) -> list[Action]:
        if download.end:
            return []
        reply = sdk_reply(payload)
        if reply is None:
            return self._again(download, now_s)
        if reply.offset != len(download.image):
            return []
        download.image += reply.data
        download.failed = 0
        if len(download.image) < download.task.size_bytes:
            return [self._ask(download, now_s)]
        if len(download.image) > download.task.size_bytes:
            download.end = BAD_DOWNLOAD
        else:
            self._check(download, now_s)
        return []

    def _check(self, download: Download, now_s: float) -> None:
        if "bad-flash" in self._options.variants:
            download.image[0] ^= 0xFF
        digest = hashlib.md5(download.image).hexdigest() if download.task.is_md5 else download.task.sign  # noqa: S324
        download.end = DONE if digest == download.task.sign else BAD_CHECKSUM
        download.is_told = False
        self._turn_s = now_s + self._receive_s  # what it found it says after its next receive call

    def _again(self, download: Download, now_s: float) -> list[Action]:
        download.failed += 1
        if download.failed > RETRIES:
            download.end = BAD_DOWNLOAD
            return []
        return [self._ask(download, now_s)]

    # --- its turns ---

    def _process(self, now_s: float) -> list[Action]:
        """What the loop of the demo does after each receive call."""
        download = self._download
        if download is None or self._is_quitting:
            return []
        actions: list[Action] = []
        if not download.end and now_s - download.requested_s >= REPLY_S:
            actions += self._again(download, now_s)
        if download.end:
            return [*actions, *self._ended(download, now_s)]
        if download.percent - download.told_percent >= REPORT_PERCENT:
            download.told_percent = download.percent
            actions.append(self._step(download, str(download.percent)))
        self._turn_s = download.requested_s + REPLY_S
        return actions

    def _ended(self, download: Download, now_s: float) -> list[Action]:
        is_early = download.end != BAD_DOWNLOAD and self._turn_s is not None and now_s < self._turn_s
        if is_early:
            return []
        self._turn_s = None
        if download.end == DONE:
            self._bank.install(
                download.task.version, bytes(download.image), reverts="reverts" in self._options.variants
            )
        else:
            self._failures.append(download.end)
        self._is_quitting = True
        self._restarts += 1
        return [
            self._step(download, download.end),
            Unsubscribe(topic_filter=self._topics.download_reply),
            Restart(after_s=QUIT_S),
        ]
