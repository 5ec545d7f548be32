"""The CC3200 client of Xively's examples: Secure File Transfer over a plain subscription, for one file, `firmware`.

It is stricter with chunks than the library, knows no FILE_STATUS, never knows its own revision (`-1`, always), wants
the fingerprint in hex, and takes no new list before the download at hand has ended, well or badly. Only a restart or
an error ends it: a connection that breaks does not. FILE_INFO goes out once per start, when its button is pressed.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from device_sim.clients import xively_messages as messages
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
from device_sim.clients.xively_files import RUNNING, Files
from device_sim.clients.xively_messages import CHUNK_BYTES, number
from device_sim.clients.xively_topics import KEEPALIVE_S, Topics

NAME: Final = "firmware"
REVISION: Final = "-1"
RESTART_S: Final = 3.0
_REVISION_CHARACTERS_MAX: Final = 49
_FINGERPRINT_CHARACTERS_MAX: Final = 64
_STATUS_MAX: Final = 1
"""0: fine; 1: fine, and the last; what is above is an error."""


class ExtClient:
    """One such device; its button is pressed as soon as it is connected after a start."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._topics = Topics.of(options)
        self.files = Files(options.state)
        if self.files.read(RUNNING) is None:
            self.files.write(RUNNING, options.version.encode())
        self._is_told = False
        self._is_downloading = False
        self._is_ended = False
        """Well: the restart is due, and nothing may come before it."""
        self._has_failed = False
        self._revision = self._fingerprint = ""
        self._size_bytes = 0
        self._content = bytearray()
        self._to_boot: str | None = None
        self._installs = self._restarts = 0
        self._sha256 = ""
        self._failures: list[str] = []

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            version=(self.files.read(RUNNING) or b"").decode(),
            sha256=self._sha256,
            installs=self._installs,
            restarts=self._restarts,
            failures=tuple(self._failures),
            is_busy=self._is_downloading,
        )

    def session(self) -> Session:
        name, secret = self._options.name, self._options.secret
        return Session(client_id=name, username=name, password=secret or None, keepalive_s=KEEPALIVE_S)

    def started(self, now_s: float) -> Sequence[Action]:
        self._is_told = self._is_downloading = self._is_ended = self._has_failed = False
        self._content.clear()
        if self._to_boot is not None:
            revision, self._to_boot = self._to_boot, None
            self._restarts += 1
            if "rolls-back" not in self._options.variants:
                self._installs += 1
                self._sha256 = hashlib.sha256(self.files.read(NAME) or b"").hexdigest()
                self.files.write(RUNNING, revision.encode())
        return []

    def connected(self, now_s: float) -> Sequence[Action]:
        return [Subscribe(topic_filter=self._topics.down, qos=0)]

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        if not granted:
            raise WentWrong("the broker refuses its control topic: it never hears of an update")
        if self._is_told:
            return []
        self._is_told = True
        return [self._publish(messages.file_info([(NAME, REVISION)], takes_urls=None))]

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        fields = messages.fields_of(message.payload) if message.topic == self._topics.down else None
        match fields and fields.get("msgtype"):
            case 1 if fields and not self._is_downloading:
                if message.retain:
                    raise WentWrong("a retained FILE_UPDATE_AVAILABLE: it installs the same after every start")
                if self._is_ended:
                    raise WentWrong("a list between the end of a download and the restart: it overwrites its image")
                return self._begin(fields)
            case 3 if fields:
                return self._chunk(fields)
        return []

    def disconnected(self, now_s: float) -> Sequence[Action]:
        return []

    def tick(self, now_s: float) -> Sequence[Action]:
        return []

    def next_deadline(self) -> float | None:
        return None

    def _begin(self, fields: dict[Any, Any]) -> list[Action]:
        self._has_failed = False
        entries = fields.get("list")
        if fields.get("msgver") != 1 or not isinstance(entries, list) or not entries:
            return self._fail("a list of another version, or an empty one")
        for entry in entries:
            if not isinstance(entry, dict):
                return self._fail("a field is missing")
            name, revision, fingerprint = (entry.get(key) for key in ("N", "R", "F"))
            if name != NAME:
                return self._fail(f"unexpected file {name!r}")
            if not isinstance(revision, str) or "S" not in entry or not isinstance(fingerprint, str | bytes):
                return self._fail("a field is missing")
            text = fingerprint.decode("latin-1") if isinstance(fingerprint, bytes) else fingerprint
            if len(text) > _FINGERPRINT_CHARACTERS_MAX:
                return self._fail("fingerprint too long")
            self._revision = revision[:_REVISION_CHARACTERS_MAX]
            self._fingerprint, self._size_bytes = text, number(entry, "S")
        self._is_downloading = True
        self._content.clear()
        return [self._ask()]

    def _ask(self) -> Publish:
        return self._publish(messages.get_chunk(NAME, self._revision, len(self._content), CHUNK_BYTES))

    def _chunk(self, fields: dict[Any, Any]) -> list[Action]:
        if self._is_ended:
            raise WentWrong("a chunk between the end of a download and the restart: its file is closed")
        if not self._is_downloading:
            self._has_failed = True
            return []
        data = fields.get("C")
        if fields.get("msgver") != 1 or not {"O", "L", "S", "C"} <= set(fields) or not isinstance(data, bytes):
            return self._fail("a field is missing")
        if number(fields, "O") != len(self._content):
            return self._fail(f"unexpected offset {number(fields, 'O')}")
        if not data or len(self._content) + len(data) > self._size_bytes:
            return self._fail("an empty chunk, or one beyond the end")
        self._content += data
        if number(fields, "S") > _STATUS_MAX:
            return self._fail("the service tells an error")
        return [self._ask()] if len(self._content) < self._size_bytes else self._verify()

    def _verify(self) -> list[Action]:
        if hashlib.sha256(self._content).hexdigest() != self._fingerprint or "bad-flash" in self._options.variants:
            return self._fail("fingerprint mismatch")
        self._is_downloading, self._is_ended = False, True
        self.files.write(NAME, bytes(self._content))
        self._to_boot = self._revision
        return [Restart(after_s=RESTART_S)]

    def _fail(self, why: str) -> list[Action]:
        """It says nothing of it on the control topic."""
        self._is_downloading, self._has_failed = False, True
        self._failures.append(why)
        return []

    def _publish(self, payload: bytes) -> Publish:
        return Publish(topic=self._topics.up, payload=payload)
