"""A Tencent client under a clock of its own, with a file server made of answers and a broker made of lists."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from device_sim.clients.model import (
    ClientOptions,
    Fetch,
    Fetched,
    HangUp,
    Incoming,
    Publish,
    Read,
    Restart,
    Subscribe,
)
from device_sim.clients.tencent import tencent_client

VECTORS = Path(__file__).parent / "vectors/tencent"
PRODUCT, NAME = "PROD0001AB", "dev01"
UP, DOWN = f"$ota/report/{PRODUCT}/{NAME}", f"$ota/update/{PRODUCT}/{NAME}"
URL = "http://ota.test/fw.bin"


def image(size):
    return bytes(index * 7 % 251 for index in range(size))


def device(*variants, product=PRODUCT, name=NAME, **other):
    return tencent_client(ClientOptions(product=product, name=name, variants=frozenset(variants), **other))


def vector(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


@dataclass
class FileServer:
    """Answers as a good one does, where nothing else is set."""

    content: bytes = b""
    head: str = ""
    """Instead of its own."""
    body: bytes | None = None
    stalls_at: int | None = None
    """Bytes of body after which nothing comes any more."""
    requests: list = field(default_factory=list)
    _all: bytes = b""
    _at: int = 0
    _head_bytes: int = 0

    def fetch(self, request):
        self.requests.append(request)
        text = request.decode()
        found = re.search(r"Range: bytes=(\d+)-(\d+)", text)
        start, last = (int(found[1]), int(found[2])) if found else (0, len(self.content))
        body = self.content[start : last + 1]
        end = len(self.content) - 1
        head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{end}/{end + 1}\r\nContent-Length: {len(body)}\r\n\r\n"
        if start and not body:
            head = "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n"
        self._all = (self.head or head).encode() + (body if self.body is None else self.body)
        self._at, self._head_bytes = 0, len(self.head or head)

    def read(self, wanted):
        end = self._at + wanted.max_bytes
        if wanted.until:
            end = self._all.find(wanted.until, self._at) + len(wanted.until)
        data = self._all[self._at : end]
        if self.stalls_at is not None and end - self._head_bytes > self.stalls_at:
            return Fetched(fault="not in time")
        if wanted.until and (not data.endswith(wanted.until) or len(data) > wanted.max_bytes):
            return Fetched(fault="the head is too long")
        if not wanted.until and len(data) < wanted.max_bytes:
            return Fetched(fault="closed")
        self._at = end
        return Fetched(data=data)


class World:
    """Runs one client. What it publishes is in `said`, with the second; `answer` may reply to each."""

    def __init__(self, client, server=None, answer=lambda topic, message: ()):
        self.client, self.server, self.answer = client, server or FileServer(), answer
        self.now_s = 0.0
        self.said = []
        self.subscribed = []
        self.fetches = []
        self._packet_id = 0
        self._to_read = None
        client.started(0.0)
        self.connect()

    def connect(self):
        self._packet_id = 0
        self.do(self.client.connected(self.now_s))

    def cut(self):
        self.do(self.client.disconnected(self.now_s))

    def kill(self):
        """As a process is killed: nothing is asked of it."""
        self._to_read = None
        self.client.started(self.now_s)
        self.connect()

    def do(self, actions):
        for action in actions:
            match action:
                case Publish():
                    self.said.append((self.now_s, action))
                    for topic, text in self.answer(action.topic, action.payload.decode()):
                        self.send(topic, text)
                case Subscribe():
                    self.subscribed.append(action)
                    self.do(self.client.subscribed(action.topic_filter, granted=True, now_s=self.now_s))
                case Fetch():
                    self.fetches.append(action)
                    self.server.fetch(action.request)
                case Read():
                    self._to_read = action
                case HangUp():
                    self._to_read = None
                case Restart():
                    self.now_s += action.after_s
                    self._to_read = None
                    self.client.started(self.now_s)
                    self.connect()
                    break

    def send(self, topic, text, *, qos=0, packet_id=None):
        if qos:
            self._packet_id += 1
        message = Incoming(
            topic=topic,
            payload=text.encode() if isinstance(text, str) else text,
            qos=qos,
            packet_id=packet_id or self._packet_id,
        )
        self.do(self.client.received(message, self.now_s))

    def run(self, for_s=60.0, until=lambda: False):
        end_s = self.now_s + for_s
        while not until():
            if self._to_read is not None:
                wanted, self._to_read = self._to_read, None
                self.do(self.client.fetched(self.server.read(wanted), self.now_s))
                continue
            at_s = self.client.next_deadline()
            if at_s is None or at_s > end_s:
                self.now_s = end_s
                return self
            self.now_s = max(self.now_s, at_s)
            self.do(self.client.tick(self.now_s))
        return self

    def texts(self):
        return [action.payload.decode() for _, action in self.said]

    def words(self):
        """What was said, in short: version, percent, state or code."""
        return [_word(json.loads(text)) for text in self.texts()]


def _word(message):
    report = message.get("report", {})
    if (message.get("type") or message.get("method")) == "report_version":
        return f"runs {report['version']}" if "version" in report else f"holds {report['resource_list']}"
    progress = report.get("progress", {})
    if progress.get("state") == "fail":
        return progress["result_code"]
    return progress.get("percent", progress.get("state", message.get("type")))


def notice(content, **changed):
    """update_firmware as the vendor's cloud writes it; a key of None is left out."""
    whole = {
        "file_size": len(content),
        "md5sum": hashlib.md5(content).hexdigest(),
        "type": "update_firmware",
        "url": URL,
        "version": "2.0.0",
    } | changed
    return json.dumps({key: value for key, value in whole.items() if value is not None}, separators=(",", ":"))


def offers(content, *, runs="2.0.0", **changed):
    """Answers each version report that is not the target's."""

    def answer(topic, text):
        message = json.loads(text)
        if message.get("type") == "report_version" and message["report"]["version"] != runs:
            yield topic.replace("report", "update"), notice(content, **changed)

    return answer
