"""The MQTT side of the SDK: who it says that it is, and which messages get through to the handlers.

QoS 1 messages are dropped when their packet id is among the last ten, and that memory outlives a reconnection. What
is longer than the receive buffer is thrown away. The buffer is not cleared: see `tencent_scan`.
"""

import base64
import binascii
import hashlib
import hmac
import string
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from device_sim.clients.model import Action, ClientOptions, Incoming, Publish, Session
from device_sim.clients.tencent_download import Build
from device_sim.errors import OptionError

KEEPALIVE_S: Final = 240
APP_ID: Final = "21010406"
NEVER: Final = (1 << 63) - 1
CONNECTION_ID_CHARACTERS: Final = 5
REMEMBERED_IDS: Final = 10
BUFFER_BYTES: Final = 2048
REMAINING_MAX_BYTES: Final = 2045
PRODUCT_MAX_BYTES: Final = 10
NAME_MAX_BYTES: Final = 48


class Link:
    """Of one process."""

    def __init__(self, options: ClientOptions) -> None:
        if len(options.product.encode()) > PRODUCT_MAX_BYTES or len(options.name.encode()) > NAME_MAX_BYTES:
            raise OptionError(f"{options.product}/{options.name}: at most 10 bytes of product and 48 of name")
        self.client_id = options.product + options.name
        self._key = _key(options.secret) if options.secret and "tls" not in options.variants else None
        self._rng = Random(options.seed)
        self.lost: list[str] = []
        """What did not get through, and why: for tests."""
        self.restart()

    def restart(self) -> None:
        """RAM is gone."""
        self._ids: deque[int] = deque(maxlen=REMEMBERED_IDS)
        self._buffer = bytearray(BUFFER_BYTES)

    def session(self) -> Session:
        """A new connection id each time, and so another user name."""
        letters = string.ascii_letters + string.digits
        connection = "".join(self._rng.choice(letters) for _ in range(CONNECTION_ID_CHARACTERS))
        username = f"{self.client_id};{APP_ID};{connection};{NEVER}"
        password = None
        if self._key is not None:
            password = hmac.new(self._key, username.encode(), hashlib.sha1).hexdigest() + ";hmacsha1"
        return Session(client_id=self.client_id, username=username, password=password, keepalive_s=KEEPALIVE_S)

    def take(self, message: Incoming) -> bytes | None:
        """The text that a handler reads: to the first NUL, wherever that is. None: it does not get through."""
        topic = message.topic.encode()
        head = 2 + len(topic) + (2 if message.qos else 0)
        remaining = head + len(message.payload)
        if remaining > REMAINING_MAX_BYTES:
            self.lost.append(f"{remaining} bytes on {message.topic}: more than fit")
            return None
        start = 1 + (1 if remaining < 1 << 7 else 2) + head
        self._buffer[start : start + len(message.payload)] = message.payload
        if message.qos:
            if message.packet_id in self._ids:
                self.lost.append(f"packet {message.packet_id} on {message.topic}: that id was here already")
                return None
            self._ids.append(message.packet_id)
        return bytes(self._buffer[start:]).partition(b"\0")[0]


def build(options: ClientOptions) -> Build:
    """How the variants say that it was built."""
    via = next((variant.removeprefix("via=") for variant in options.variants if variant.startswith("via=")), "")
    host, _, port = via.rpartition(":")
    if via and not (host and port.isdigit()):
        raise OptionError(f"variant via={via}: an address and a port are wanted, such as via=127.0.0.1:8080")
    return Build(
        is_explorer="explorer" in options.variants,
        has_tls="tls" in options.variants,
        via=(host, int(port)) if via else None,
    )


def placed(actions: Sequence[Action], prefix: str) -> Sequence[Action]:
    """With the broker's mount point before the topics of what is published."""
    if not prefix:
        return actions
    return [replace(one, topic=prefix + one.topic) if isinstance(one, Publish) else one for one in actions]


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret, validate=True)
    except binascii.Error:
        raise OptionError("the secret is not base64") from None
