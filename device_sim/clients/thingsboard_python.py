"""ThingsBoard's Python client (`tb-mqtt-client`), as an application that calls `get_firmware_update()` once runs it.

What a server has to live with, and this client repeats:

1. It downloads what differs from what it holds in memory, whatever the title; after a start that is "Initial"/"v0"
   unless the application says otherwise (variant `untitled`: it does not).
2. It appends every payload that comes for its request id: index, repetition and order mean nothing to it. It ends when
   it has exactly `fw_size` bytes; with more or fewer it asks for ever.
3. There is no timer. A chunk that is lost is waited for without end; only attributes that come anew free it, and then
   it begins at chunk 0 with the next request id.
4. Every message on attributes replaces all it knows of the firmware, whatever is in it.
5. A wrong checksum makes it ask for the attributes and download again, without end.
6. It sleeps in its receive callback: what it says in one leaves it late and in one piece.
7. After a reconnect it neither subscribes to chunks again nor asks (variant `asks-again`: the application does).
8. Chunk size 0 asks for the whole image in one message.

Anything but JSON on attributes ends its receive thread.
"""

import hashlib
import json
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Final

from device_sim.clients.model import Action, ClientOptions, Incoming, Outcome, Publish, Session, Subscribe, WentWrong
from device_sim.clients.thingsboard_words import (
    ATTRIBUTES,
    ATTRIBUTES_REQUEST,
    ATTRIBUTES_RESPONSE,
    CHUNK_FILTER,
    KEYS,
    PATIENCE_S,
    ROUNDS_MAX,
    RPC_REQUEST,
    RPC_RESPONSE,
    TELEMETRY,
    Place,
    State,
    checksum,
    is_whole,
    little_endian_crc32,
)

_SLEEP_S: Final = 1.0
_SERVICE_LOOP_S: Final = 0.05

Sleeps = Generator[float, None, None]
"""A thread of the client: yields how long it sleeps."""


class PythonClient:
    """One process of the Python client."""

    def __init__(self, options: ClientOptions, *, patience_s: float = PATIENCE_S) -> None:
        self._options, self._patience_s = options, patience_s
        self._place = Place(prefix=options.prefix)
        self._version, self._sha256 = options.version, ""
        self._installs = self._restarts = self._bad_rounds = 0
        self._failures: list[str] = []
        self._has_started = False
        self._power_on()

    def _power_on(self) -> None:
        is_untitled = "untitled" in self._options.variants
        self._current = {
            "current_fw_title": "Initial" if is_untitled else self._options.product,
            "current_fw_version": "v0" if is_untitled else self._version,
            "fw_state": State.IDLE.value,
            "fw_error": "",
        }
        self._attribute_request = self._rid = self._rpc = self._chunk = self._target_bytes = 0
        self._info: dict[str, Any] = {}
        self._data: bytearray | None = None
        self._first_stray = ""
        self._is_connected = self._has_asked = False
        self._asked_at_s: float | None = None
        self._backlog: deque[Incoming] = deque()
        self._callback: Sleeps | None = None
        self._service: Sleeps | None = None
        self._callback_at_s = self._service_at_s = self._now_s = 0.0
        self._said: list[Action] = []
        """By the receive callback, which holds up what it publishes until it returns."""
        self._out: list[Action] = []

    # --- what a runner calls -----------------------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            version=self._version,
            sha256=self._sha256,
            installs=self._installs,
            restarts=self._restarts,
            failures=tuple(self._failures),
            is_busy=self._asked_at_s is not None or self._callback is not None or self._service is not None,
        )

    def session(self) -> Session:
        """Its token is the user name; the broker gives it a client id."""
        token = self._options.secret or self._options.name
        return Session(client_id="", username=token, keepalive_s=120, is_clean=True)

    def started(self, now_s: float) -> Sequence[Action]:
        if self._has_started:
            self._restarts += 1
            self._power_on()
        self._has_started, self._now_s = True, now_s
        return []

    def connected(self, now_s: float) -> Sequence[Action]:
        self._is_connected = True
        self._out += self._place.added()
        for topic in (ATTRIBUTES, ATTRIBUTES_RESPONSE + "+", RPC_REQUEST + "+", RPC_RESPONSE + "+"):
            self._out.append(Subscribe(topic_filter=self._place.topic(topic), qos=1))
        self._rpc = 1
        self._out.append(
            self._json(f"{RPC_REQUEST}{self._rpc}", {"method": "getSessionLimits", "params": {"timeout": 5000}})
        )
        if not self._has_asked or "asks-again" in self._options.variants:
            self._has_asked = True
            self._out.append(Subscribe(topic_filter=self._place.topic(CHUNK_FILTER)))
            self._out.append(self._telemetry())
            self._out.append(self._attributes_request())
        return self._go_on(now_s)

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        """It does not look at what it was granted."""
        return self._go_on(now_s)

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        self._backlog.append(message)
        return self._go_on(now_s)

    def disconnected(self, now_s: float) -> Sequence[Action]:
        """What waits to be sent is thrown away; what it holds of the image stays."""
        self._is_connected = False
        self._backlog.clear()
        for _ in self._callback or ():
            pass
        self._callback = None
        self._said.clear()
        self._out.clear()
        return self._go_on(now_s)

    def tick(self, now_s: float) -> Sequence[Action]:
        if self._asked_at_s is not None and now_s >= self._asked_at_s + self._patience_s:
            raise WentWrong(
                f"the Python client has no timer: it waits for chunk {self._chunk} of request {self._rid} without end"
            )
        return self._go_on(now_s)

    def next_deadline(self) -> float | None:
        deadlines = [self._callback_at_s] if self._callback is not None else []
        if self._service is not None and self._is_connected:
            deadlines.append(self._service_at_s)
        if self._asked_at_s is not None:
            deadlines.append(self._asked_at_s + self._patience_s)
        return min(deadlines, default=None)

    # --- its two threads ---------------------------------------------------------------------------------------------

    def _go_on(self, now_s: float) -> list[Action]:
        self._now_s = now_s
        while True:
            if self._callback is None and self._backlog:
                self._callback, self._callback_at_s = self._on_message(self._backlog.popleft()), now_s
            if self._callback is not None and now_s >= self._callback_at_s:
                slept = next(self._callback, None)
                if slept is None:
                    self._callback = None
                    self._out += self._said
                    self._said.clear()
                else:
                    self._callback_at_s = now_s + slept
            elif self._service is not None and self._is_connected and now_s >= self._service_at_s:
                slept = next(self._service, None)
                if slept is None:
                    self._service = None
                else:
                    self._service_at_s = now_s + slept
            else:
                break
        out, self._out = self._out, []
        return out

    def _on_message(self, message: Incoming) -> Sleeps:
        topic = self._place.own(message.topic)
        if topic.startswith(f"v2/fw/response/{self._rid}/chunk/"):
            yield from self._on_chunk(topic, message.payload)
        elif topic.startswith(ATTRIBUTES):
            yield from self._on_attributes(topic, message.payload)
        elif topic.startswith(RPC_RESPONSE):
            _judge_limits(_read(message.payload))

    def _on_chunk(self, topic: str, payload: bytes) -> Sleeps:
        if self._data is None:
            raise WentWrong("a chunk came before any download: the receive thread ends by an AttributeError")
        if topic.rpartition("/")[2] != str(self._chunk) and not self._first_stray:
            self._first_stray = f"; {topic} came when chunk {self._chunk} was expected"
        self._data += payload
        self._chunk += 1
        self._asked_at_s = None
        if len(self._data) == self._target_bytes:
            yield from self._process_firmware(bytes(self._data))
            return
        have = f"{len(self._data)} of {self._target_bytes} bytes"
        if len(self._data) > self._target_bytes:
            raise WentWrong(f"the Python client has {have}: it asks without end{self._first_stray}")
        if not payload:
            raise WentWrong(f"an empty chunk with {have}: the Python client asks for the next without end")
        self._said.append(self._chunk_request())

    def _on_attributes(self, topic: str, payload: bytes) -> Sleeps:
        content = _read(payload)
        if "/response/" in topic:
            content = content.get("shared", {}) if isinstance(content, dict) else {}
        if not isinstance(content, dict):
            raise WentWrong(f"{topic}: no object, so the receive thread ends: {payload[:80]!r}")
        self._info = content
        title, version = content.get("fw_title"), content.get("fw_version")
        if (version is None or version == self._current["current_fw_version"]) and (
            title is None or title == self._current["current_fw_title"]
        ):
            return
        self._data, self._chunk, self._first_stray = bytearray(), 0, ""
        self._say(State.DOWNLOADING)
        yield _SLEEP_S
        self._rid += 1
        size = self._info.get("fw_size", 0)
        if not is_whole(size):
            raise WentWrong(f"fw_size is {size!r}, no number: the receive thread ends by a TypeError")
        self._target_bytes = size
        self._said.append(self._chunk_request())

    def _process_firmware(self, data: bytes) -> Sleeps:
        self._say(State.DOWNLOADED)
        yield _SLEEP_S
        if self._is_right(data):
            self._say(State.VERIFIED)
            yield _SLEEP_S
            self._bad_rounds = 0
            self._service, self._service_at_s = self._install(data), self._now_s + _SERVICE_LOOP_S
            return
        self._bad_rounds += 1
        self._say(State.FAILED, "Checksum verification failed!")
        if self._bad_rounds > ROUNDS_MAX:
            raise WentWrong(
                f"{self._bad_rounds} downloads in a row with a wrong checksum: the Python client never stops"
            )
        self._said.append(self._attributes_request())

    def _is_right(self, data: bytes) -> bool:
        wanted, algorithm = self._info.get("fw_checksum"), self._info.get("fw_checksum_algorithm")
        if wanted is None:
            return False
        if not isinstance(algorithm, str):
            raise WentWrong(f"fw_checksum_algorithm is {algorithm!r}: the receive thread ends by an AttributeError")
        if algorithm.upper() == "CRC32":
            return bool(wanted == little_endian_crc32(data))
        return bool(wanted == checksum(algorithm.upper(), data))

    def _install(self, data: bytes) -> Sleeps:
        """The service loop, which calls the application; what it publishes goes out at once."""
        self._current |= {"fw_state": State.UPDATING.value, "fw_error": ""}
        self._out.append(self._telemetry())
        yield _SLEEP_S
        self._version = str(self._info.get("fw_version"))
        self._sha256 = hashlib.sha256(data).hexdigest()
        self._installs += 1
        self._current |= {
            "current_fw_title": str(self._info.get("fw_title")),
            "current_fw_version": self._version,
            "fw_state": State.UPDATED.value,
        }
        self._out.append(self._telemetry())

    # --- what it says ------------------------------------------------------------------------------------------------

    def _say(self, state: State, error: str = "") -> None:
        self._current |= {"fw_state": state.value, "fw_error": error}
        if state is State.FAILED:
            self._failures.append(error)
        self._said.append(self._telemetry())

    def _telemetry(self) -> Publish:
        return self._json(TELEMETRY, [self._current])

    def _attributes_request(self) -> Publish:
        self._attribute_request += 1
        return self._json(f"{ATTRIBUTES_REQUEST}{self._attribute_request}", {"sharedKeys": ",".join(KEYS)})

    def _chunk_request(self) -> Publish:
        size = self._options.block_bytes
        payload = b"" if not size or size > self._info.get("fw_size", 0) else str(size).encode()
        self._asked_at_s = self._now_s
        return Publish(
            topic=self._place.topic(f"v2/fw/request/{self._rid}/chunk/{self._chunk}"), payload=payload, qos=1
        )

    def _json(self, topic: str, content: Any) -> Publish:
        payload = json.dumps(content, separators=(",", ":")).encode()
        return Publish(topic=self._place.topic(topic), payload=payload, qos=1)


def _read(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        raise WentWrong(f"no JSON, so the receive thread ends: {payload[:80]!r}") from None


def _judge_limits(answer: Any) -> None:
    """Refuse what would end the thread that reads the answer to getSessionLimits."""
    if not isinstance(answer, dict | list | str):
        raise WentWrong(f"an RPC answer of {answer!r}: the receive thread ends by a TypeError")
    if not isinstance(answer, dict) or "error" in answer or not answer.get("rateLimits"):
        return
    limits = answer["rateLimits"]
    values = limits.values() if isinstance(limits, dict) else None
    if values is None or any(not isinstance(value, str) or not _is_rates(value) for value in values):
        raise WentWrong(f"rate limits that do not parse: {limits!r}")


def _is_rates(text: str) -> bool:
    rates = [rate.split(":") for rate in text.split(",") if rate]
    return all(len(rate) == 2 and all(part.isascii() and part.isdigit() for part in rate) for rate in rates)  # noqa: PLR2004
