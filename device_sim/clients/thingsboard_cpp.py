"""ThingsBoard's C++ client for Arduino and ESP (`thingsboard-client-sdk`), which asks; variant `push`: which is told.

What a server has to live with, and this client repeats:

1. Title and version are compared over the length of its own: a device that runs 1.1 takes 1.10 for what it runs, says
   UPDATED and downloads nothing. Another title is refused.
2. It counts `size / chunk + 1` chunks. With an exact multiple it asks for one past the end and wants an empty answer.
3. Index and length of a chunk have to be right; others are dropped, and the same chunk is asked again after 5 s, twelve
   times before it gives up.
4. A wrong checksum starts it anew from chunk 0 with the same request id; it says nothing of that, and never stops.
5. UPDATING is its last word. It boots, and what it runs then is in the first telemetry.
6. It waits 5 s for attributes; an answer without firmware is told as FAILED, and so is none. Both happen at every boot.
7. It unsubscribes from attribute answers as soon as it has one.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

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
from device_sim.clients.thingsboard_words import (
    ATTRIBUTES,
    ATTRIBUTES_REQUEST,
    ATTRIBUTES_RESPONSE,
    CHUNK_FILTER,
    KEYS,
    ROUNDS_MAX,
    TELEMETRY,
    Place,
    State,
    checksum,
    is_whole,
)

TIMEOUT_S: Final = 5.0
RETRIES: Final = 12
CHUNK_MAX_BYTES: Final = 0xFFFF
NOT_ANSWERED: Final = (
    "Did not receive requested shared attribute firmware keys. Ensure keys exist and device is connected"
)
NO_FIRMWARE: Final = "Missing shared attribute firmware keys. Ensure you assigned an OTA update with binary"
_BOOT_S: Final = 0.2


class CppClient:
    """One device with the C++ client."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._place = Place(prefix=options.prefix)
        self._chunk_bytes = min(options.block_bytes, CHUNK_MAX_BYTES)
        self._version, self._sha256 = options.version, ""
        self._installs = self._restarts = self._bad_rounds = 0
        self._failures: list[str] = []
        self._has_started = False
        self._power_on()

    def _power_on(self) -> None:
        self._is_connected = self._has_asked = self._is_push = False
        self._request = self._rid = self._attribute_request = 0
        """One counter for chunks and attributes."""
        self._answer_by_s: float | None = None
        self._info: dict[str, Any] | None = None
        self._data = bytearray()
        self._chunk = self._retries = 0
        self._chunk_by_s: float | None = None

    # --- what a runner calls -----------------------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            version=self._version,
            sha256=self._sha256,
            installs=self._installs,
            restarts=self._restarts,
            failures=tuple(self._failures),
            is_busy=self._info is not None or self._answer_by_s is not None,
        )

    def session(self) -> Session:
        """Its token is both client id and user name."""
        token = self._options.secret or self._options.name
        return Session(client_id=token, username=token, keepalive_s=15, is_clean=True)

    def started(self, now_s: float) -> Sequence[Action]:
        if self._has_started:
            self._restarts += 1
            self._power_on()
        self._has_started = True
        return []

    def connected(self, now_s: float) -> Sequence[Action]:
        self._is_connected = True
        out: list[Action] = [*self._place.added()]
        if self._is_push:
            out.append(self._subscribe(ATTRIBUTES))
        out += [self._subscribe(CHUNK_FILTER), self._unsubscribe(ATTRIBUTES_RESPONSE + "+")]
        self._answer_by_s = None
        if self._has_asked:
            return out
        self._has_asked = True
        out.append(
            self._json(TELEMETRY, {"current_fw_title": self._options.product, "current_fw_version": self._version})
        )
        self._request += 1
        self._rid = self._request
        if "push" in self._options.variants:
            self._is_push = True
            return [*out, self._subscribe(ATTRIBUTES)]
        self._request += 1
        self._attribute_request = self._request
        self._answer_by_s = now_s + TIMEOUT_S
        keys = {"sharedKeys": "".join(f"{key}," for key in KEYS)}
        return [
            *out,
            self._subscribe(ATTRIBUTES_RESPONSE + "+"),
            self._json(f"{ATTRIBUTES_REQUEST}{self._attribute_request}", keys),
        ]

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        """It does not look at what it was granted."""
        return []

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        topic = self._place.own(message.topic)
        if topic.startswith(f"v2/fw/response/{self._rid}/chunk/") and self._info is not None:
            return self._on_chunk(topic.rpartition("/")[2], message.payload, now_s)
        if self._answer_by_s is not None and topic == f"{ATTRIBUTES_RESPONSE}{self._attribute_request}":
            self._answer_by_s = None
            content = _object(message.payload)
            shared = content.get("shared", content)
            return [
                *self._on_firmware(shared if isinstance(shared, dict) else {}, now_s),
                self._unsubscribe(ATTRIBUTES_RESPONSE + "+"),
            ]
        if self._is_push and topic == ATTRIBUTES:
            content = _object(message.payload)
            if any(key in content for key in KEYS):
                return self._on_firmware(content, now_s)
        return []

    def disconnected(self, now_s: float) -> Sequence[Action]:
        """The download stays; its timer runs on."""
        self._is_connected = False
        return []

    def tick(self, now_s: float) -> Sequence[Action]:
        if self._answer_by_s is not None and now_s >= self._answer_by_s:
            self._answer_by_s = None
            return [self._failed(NOT_ANSWERED)] if self._is_connected else []
        if self._chunk_by_s is None or now_s < self._chunk_by_s:
            return []
        if self._retries == 0:
            self._info = self._chunk_by_s = None
            failed = self._failed("Failed to receive the requested firmware chunk")
            return [failed, self._unsubscribe(CHUNK_FILTER)] if self._is_connected else []
        self._retries -= 1
        return self._ask(now_s)

    def next_deadline(self) -> float | None:
        return min((at_s for at_s in (self._answer_by_s, self._chunk_by_s) if at_s is not None), default=None)

    # --- the update --------------------------------------------------------------------------------------------------

    def _on_firmware(self, shared: dict[str, Any], now_s: float) -> list[Action]:
        if any(key not in shared for key in KEYS):
            return [self._failed(NO_FIRMWARE)]
        texts = [shared[key] for key in KEYS if key != "fw_size"]
        if not all(isinstance(text, str) for text in texts):
            return [self._failed("Received shared attribute firmware keys were NULL")]
        title, mine = shared["fw_title"], self._options.product
        if not title.startswith(mine):
            return [
                self._failed(f"Received firmware title ({title}) is different and not meant for this device ({mine})")
            ]
        if shared["fw_version"].startswith(self._version):
            return [self._state(State.UPDATED)]
        algorithm = shared["fw_checksum_algorithm"]
        if checksum(algorithm, b"") is None:
            return [self._failed(f"Received checksum algorithm ({algorithm}) is not supported")]
        if not is_whole(shared["fw_size"]):
            raise WentWrong(f"fw_size is {shared['fw_size']!r}: the C++ client reads it as 0")
        self._info = shared
        self._bad_rounds = 0
        return [self._subscribe(CHUNK_FILTER), *self._from_the_beginning(now_s), self._state(State.DOWNLOADING)]

    def _from_the_beginning(self, now_s: float) -> list[Action]:
        self._data, self._chunk, self._retries = bytearray(), 0, RETRIES
        return self._ask(now_s)

    def _ask(self, now_s: float) -> list[Action]:
        self._chunk_by_s = now_s + TIMEOUT_S
        if not self._is_connected:
            return []
        topic = self._place.topic(f"v2/fw/request/{self._rid}/chunk/{self._chunk}")
        return [Publish(topic=topic, payload=str(self._chunk_bytes).encode())]

    def _on_chunk(self, index: str, payload: bytes, now_s: float) -> list[Action]:
        assert self._info is not None
        size: int = self._info["fw_size"]
        expected = max(0, min(self._chunk_bytes, size - self._chunk * self._chunk_bytes))
        if index != str(self._chunk) or len(payload) != expected:
            return []
        self._data += payload
        self._chunk += 1
        self._retries = RETRIES
        if self._chunk < size // self._chunk_bytes + 1:
            return self._ask(now_s)
        self._chunk_by_s = None
        return self._finish(bytes(self._data), now_s)

    def _finish(self, data: bytes, now_s: float) -> list[Action]:
        assert self._info is not None
        out: list[Action] = [self._state(State.DOWNLOADED)]
        if checksum(self._info["fw_checksum_algorithm"], data) != self._info["fw_checksum"]:
            self._bad_rounds += 1
            if self._bad_rounds > ROUNDS_MAX:
                raise WentWrong(f"{self._bad_rounds} downloads with a wrong checksum: the C++ client never stops")
            return [*out, *self._from_the_beginning(now_s)]
        self._version = self._info["fw_version"]
        self._sha256 = hashlib.sha256(data).hexdigest()
        self._installs += 1
        self._info = None
        return [*out, self._state(State.UPDATING), self._unsubscribe(CHUNK_FILTER), Restart(after_s=_BOOT_S)]

    # --- what it says ------------------------------------------------------------------------------------------------

    def _failed(self, error: str) -> Publish:
        self._failures.append(error)
        return self._state(State.FAILED, error)

    def _state(self, state: State, error: str = "") -> Publish:
        return self._json(TELEMETRY, {"fw_error": error, "fw_state": state.value})

    def _json(self, topic: str, content: dict[str, Any]) -> Publish:
        return Publish(topic=self._place.topic(topic), payload=json.dumps(content, separators=(",", ":")).encode())

    def _subscribe(self, topic_filter: str) -> Subscribe:
        return Subscribe(topic_filter=self._place.topic(topic_filter))

    def _unsubscribe(self, topic_filter: str) -> Unsubscribe:
        return Unsubscribe(topic_filter=self._place.topic(topic_filter))


def _object(payload: bytes) -> dict[str, Any]:
    """What the client reads of a message; anything else is logged and dropped, as if it were empty."""
    try:
        content = json.loads(payload)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
