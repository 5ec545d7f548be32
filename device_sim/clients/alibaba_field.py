"""A hand-written Alibaba client for a small controller, as many products in the field have one.

It subscribes for itself, reads the task with a fixed format (the order of keys counts, numbers are signed 32 bits),
takes only QoS 0 packets without flags, of at most 512 bytes, takes the last bytes of a reply for the block, and sees
neither offset nor checksum: each reply counts as the next block. It never asks twice: where a reply gets lost it waits
for ever, until another task begins anew. It reports no progress; the next version that it informs of is all.

Variants: `field` (it waits for a task), `polls` (it asks for one each minute, finds the block behind `success"}`,
checks the CRC and asks again after 16 s), `reverts`.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from device_sim.clients.alibaba_image import Bank
from device_sim.clients.alibaba_words import CRC_BYTES, Task, Topics, crc16, field_session
from device_sim.clients.model import (
    Action,
    ClientOptions,
    Incoming,
    Outcome,
    Publish,
    Restart,
    Session,
    Subscribe,
    WentWrong,
)

BUFFER_BYTES: Final = 512
INT_MAX: Final = 2**31 - 1
INT_DIGITS: Final = 10
POLL_S: Final = 60.0
REPLY_S: Final = 16.0
FOREVER_S: Final = 900.0
RESET_S: Final = 0.1
_FIXED_FORMAT: Final = re.compile(
    r'\{"code":"1000","data":\{"size":(\d+),"streamId":(\d+),"sign":"[0-9a-fA-F]{32}",'
    r'"dProtocol":"mqtt","version":"([^"\s]{1,26})","signMethod":"Md5","streamFileId":1,"md5":"([0-9a-fA-F]{32})"\},'
    r'"id":\d+,"message":"success"\}'
)
_FOUND_KEYS: Final = {
    "size": re.compile(r'"size":(\d+)'),
    "stream": re.compile(r'"streamId":(\d+)'),
    "version": re.compile(r'"version":"([^"]*)"'),
    "md5": re.compile(r'"sign":"([0-9a-fA-F]{32})"'),
}


def fixed_task(text: str) -> Task | None:
    """A push, by its format."""
    found = _FIXED_FORMAT.fullmatch(text)
    return None if found is None else _task(found[1], found[2], found[3], found[4])


def searched_task(text: str) -> Task | None:
    """A reply to `firmware/get`, by looking for each key."""
    found = {name: pattern.search(text) for name, pattern in _FOUND_KEYS.items()}
    values = [match[1] for match in found.values() if match is not None]
    return _task(*values) if len(values) == len(_FOUND_KEYS) else None


def _task(size: str, stream: str, version: str, md5: str) -> Task:
    for name, digits in (("size", size), ("streamId", stream)):
        if len(digits) > INT_DIGITS or int(digits) > INT_MAX:
            raise WentWrong(f"{name} {digits[:20]} does not fit into a signed 32-bit number")
    return Task(version=version, size_bytes=int(size), stream_id=int(stream), file_id=1, sign=md5.lower(), is_md5=True)


class FieldClient:
    """See the module."""

    def __init__(self, options: ClientOptions) -> None:
        self._options, self._topics, self._bank = options, Topics.of(options), Bank(options)
        self._polls = "polls" in options.variants
        self._task: Task | None = None
        self._image = bytearray()
        self._asked_bytes = 0
        self._at_s: float | None = None
        self._is_resetting = False
        self._restarts = 0
        self.tasks = 0
        self.tasks_while_busy = 0

    @property
    def outcome(self) -> Outcome:
        running = self._bank.running
        return Outcome(
            version=running.version,
            sha256=running.sha256,
            installs=running.installs,
            restarts=self._restarts,
            is_busy=self._task is not None or self._is_resetting,
        )

    def session(self) -> Session:
        return field_session(self._options)

    def started(self, now_s: float) -> Sequence[Action]:
        self._task, self._at_s, self._is_resetting = None, None, False
        return []

    def connected(self, now_s: float) -> Sequence[Action]:
        topics = (self._topics.upgrade, self._topics.get_reply, self._topics.download_reply)
        version = f'{{"id":"1","params":{{"version":"{self._bank.running.version}"}}}}'
        return [
            *(Subscribe(topic_filter=topic, qos=1) for topic in topics),
            Publish(topic=self._topics.inform, payload=version.encode(), qos=1),
            *(self._poll(now_s) if self._polls and self._task is None else ()),
        ]

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        return [] if granted else self._reset()

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        if message.qos or message.retain or message.is_dup or self._is_resetting:
            return []  # the first byte of the packet is not 0x30
        packet_bytes = 2 + (len(message.payload) > 127) + 2 + len(message.topic) + len(message.payload)  # noqa: PLR2004
        if packet_bytes > max(BUFFER_BYTES, self._options.block_bytes * 2):
            raise WentWrong(f"a packet of {packet_bytes} bytes is copied over the end of its buffer")
        if message.topic == self._topics.upgrade and not self._polls:
            return self._begin(fixed_task(message.payload.decode("utf-8", "replace")), now_s)
        if message.topic == self._topics.get_reply and self._polls and self._task is None:
            return self._begin(searched_task(message.payload.decode("utf-8", "replace")), now_s)
        if message.topic == self._topics.download_reply and self._task is not None:
            return self._block(self._task, message.payload, now_s)
        return []

    def disconnected(self, now_s: float) -> Sequence[Action]:
        return []

    def tick(self, now_s: float) -> Sequence[Action]:
        if self._task is None:
            return self._poll(now_s)
        if self._polls:
            return [self._ask(self._task, now_s)]
        raise WentWrong(f"no block for {FOREVER_S:g} s: it asked once and waits for ever")

    def next_deadline(self) -> float | None:
        return self._at_s

    def _poll(self, now_s: float) -> list[Action]:
        self._at_s = now_s + POLL_S
        payload = b'{"id": "123","version": "1.0","params": {},"method":"thing.ota.firmware.get"}'
        return [Publish(topic=self._topics.get, payload=payload)]

    def _begin(self, task: Task | None, now_s: float) -> list[Action]:
        if task is None or task.size_bytes == 0:
            return []
        if task.version == self._bank.running.version:
            if self._polls:
                return []
            raise WentWrong(f"a task for {task.version}, which it runs: it compares nothing and installs that again")
        self.tasks += 1
        self.tasks_while_busy += self._task is not None
        self._task, self._image = task, bytearray()
        return [self._ask(task, now_s)]

    def _ask(self, task: Task, now_s: float) -> Publish:
        offset = len(self._image)
        self._asked_bytes = min(self._options.block_bytes, task.size_bytes - offset)
        self._at_s = now_s + (REPLY_S if self._polls else FOREVER_S)
        payload = (
            f'{{ "id": "2331","version": "1.0","params": {{"fileInfo":{{"streamId":{task.stream_id},"fileId":1}},'
            f'"fileBlock":{{"size":{self._asked_bytes},"offset":{offset} }}}}}}'
        )
        return Publish(topic=self._topics.download, payload=payload.encode())

    def _block(self, task: Task, payload: bytes, now_s: float) -> list[Action]:
        data = self._searched(payload) if self._polls else payload[-self._asked_bytes - CRC_BYTES : -CRC_BYTES]
        if data is None:
            return []  # it asks again when its time comes
        self._image += data
        if len(self._image) < task.size_bytes:
            return [self._ask(task, now_s)]
        image = bytes(self._image[: task.size_bytes])
        if hashlib.md5(image).hexdigest() != task.sign:  # noqa: S324
            raise WentWrong(f"what it wrote for {task.version} is not that image, and it boots it unchecked")
        self._bank.install(task.version, image, reverts="reverts" in self._options.variants)
        return self._reset()

    def _searched(self, payload: bytes) -> bytes | None:
        _, found, rest = payload.partition(b'success"}')
        data = rest[: self._asked_bytes]
        sent = int.from_bytes(rest[self._asked_bytes : self._asked_bytes + CRC_BYTES], "little")
        return data if found and len(data) == self._asked_bytes and crc16(data) == sent else None

    def _reset(self) -> list[Action]:
        self._at_s, self._is_resetting = None, True
        self._restarts += 1
        return [Restart(after_s=RESET_S)]
