"""The block plane's way of one message: request in → decode → serve → encode → blocks out.

Nothing that arrives here can raise past `handle`; every request gets blocks, a refusal, or, past the device's limit of
refusals, silence. It never waits for the database: what was served is drained in batches.

1. There are two lanes. The fast one takes the plain requests of a device that has been served before; whatever is
   unusual goes the general way, from the start and with nothing changed. Tests drive both with the same requests.
2. It never waits for the disk. A request for what is not in memory waits while a thread reads it, and the device's
   later ones wait behind it, so each device is answered in the order in which it asked. What waits is bounded, for
   each device and in all; what is over the bound is told "busy".
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ota_bridge.core.blocks import BlockServer, Client, Cold, Pass, Refused
from ota_bridge.core.errors import BlockRefusal, Malformed, StoreError
from ota_bridge.dialect import BlockDialect, MalformedRequest
from ota_bridge.mqtt.blocks import Pieces
from ota_bridge.mqtt.codec import publish_head
from ota_bridge.request_lines import TRIES_MAX, Read, RequestLines, Waiting, read_now

TOPICS_MAX: Final = 200_000
_NAME_MAX_BYTES: Final = 32
_DATA_MAX_BYTES: Final = 1 << 20
_PUBLISH_BYTES: Final = 7
"""The longest head of a PUBLISH at QoS 0, without the topic."""


class BlockGateway:
    """Joins a dialect's block codec to the server; hand `handle` to the block link."""

    def __init__(
        self,
        server: BlockServer,
        dialect: BlockDialect,
        *,
        read: Read | None = None,
        send: Callable[[Pieces], bool] = lambda _pieces: False,
        mono: Callable[[], float] = time.monotonic,
        fast: bool = True,
    ) -> None:
        """`read` None reads on the spot, `send` takes what is answered later; without `fast` there is but one lane."""
        self.server = server
        self.send = send
        self.strangers = 0
        """Requests on topics that name no device."""
        self._dialect = dialect
        self._quick = dialect.quick_request if fast else _nothing_is_plain
        self._pack_offset = dialect.pack_offset
        self._frame_bytes = _frame_bytes(dialect)
        self._clients: dict[bytes, Client] = {}
        self._lines = RequestLines(
            answer=self._answer,
            known=lambda asked: self._client(asked.topic),
            read=read or read_now,
            mono=mono,
            send=self._send_late,
        )

    def handle(self, topic: bytes, payload: bytes, now: float, out: Pieces) -> int:
        """Append the answer to one request; returns about how many bytes it has."""
        client = self._clients.get(topic)
        if client is None or client.is_gone:
            client = self._client(topic)
            if client is None:
                return 0
        server = self.server
        if client.ready_mono > now + server.slack_s:
            return self._busy(client, payload, now, out)
        if client.is_waiting:
            return self._wait(client, Waiting(topic, payload), now, out)
        request = self._quick(payload)
        if request is not None:
            artifact, offset, size, count = request
            passed = client.passes.get(artifact)
            if (
                passed is not None
                and passed.gate.state is None
                and offset < passed.end_bytes
                and size <= server.block_max
                and count <= server.window_max
                and (server.shares is None or now < client.free_until_mono)
            ):
                whole = len(out)
                try:
                    return self._serve(client, passed, request, now, out)
                except StoreError:
                    del out[whole:]
        return self._general(client, Waiting(topic, payload), now, out)

    # --- the fast lane -----------------------------------------------------------------------------------

    def _serve(self, client: Client, passed: Pass, request: Sequence[Any], now: float, out: Pieces) -> int:
        artifact, size, count = request[0], request[2], request[3]
        first: int = request[1]
        end: int = first + size * count
        end = min(end, passed.end_bytes)
        view, pack_offset = passed.artifact.view, self._pack_offset
        memo = passed.memo
        offset, blocks = first, 0
        while offset < end:
            length = size if offset + size <= end else end - offset
            packed = pack_offset(offset)
            key = length << 4 | len(packed)
            if memo is None or memo[0] != key:
                memo = passed.memo = self._frame(client, artifact, length, len(packed))
            out += (memo[1] + packed + memo[2], view(offset, length))
            offset += length
            blocks += 1
        self.server.account(client, passed, blocks, end - first, end, now)
        return end - first

    def _frame(self, client: Client, artifact: bytes, length: int, offset_bytes: int) -> tuple[int, bytes, bytes]:
        before, after = self._dialect.block_frame(artifact, length)
        size = len(before) + offset_bytes + len(after) + length
        head = publish_head(self._dialect.answer_topic(client.device), size)
        return length << 4 | offset_bytes, head + before, after

    # --- the general lane --------------------------------------------------------------------------------

    def _client(self, topic: bytes) -> Client | None:
        try:
            device = self._dialect.requester(topic)
        except Malformed:
            self.strangers += 1
            return None
        if len(self._clients) >= TOPICS_MAX:
            self._clients.clear()
        client = self._clients[topic] = self.server.client(device)
        client.frame_bytes = _PUBLISH_BYTES + len(self._dialect.answer_topic(device)) + self._frame_bytes
        return client

    def _general(self, client: Client, asked: Waiting, now: float, out: Pieces) -> int:
        before = len(out)
        cold = self._answer(client, asked, now, out)
        if cold is not None:
            return self._wait(client, asked, now, out, cold)
        return sum(map(len, out[before:]))

    def _answer(self, client: Client, asked: Waiting, now: float, out: Pieces) -> Cold | None:
        """Append blocks or a refusal; or, with nothing done, what has to be read first."""
        dialect = self._dialect
        try:
            request = dialect.decode_request(asked.payload)
        except MalformedRequest as error:
            refused = self.server.refuse(client, BlockRefusal.MALFORMED, mono=now)
            self._refusal(client, refused, error.artifact, error.offset, out)
            return None
        served = self.server.answer(client, request, mono=now)
        if isinstance(served, Cold):
            if asked.tries < TRIES_MAX:
                return served
            served = self.server.refuse(client, BlockRefusal.BUSY, mono=now)  # dropped again before it can be sent
        if isinstance(served, Refused):
            self._refusal(client, served, request.artifact, request.offset, out)
            return None
        for offset, data in served.blocks:
            packed = dialect.pack_offset(offset)
            _, before, after = self._frame(client, request.artifact, len(data), len(packed))
            out += (before + packed + after, data)
        return None

    def _refusal(self, client: Client, refused: Refused, artifact: bytes, offset: int, out: Pieces) -> int:
        if refused.silent:
            return 0
        payload = self._dialect.encode_refusal(
            artifact, offset, refused.code, refused.retry_after_s, self.server.block_max, self.server.window_max
        )
        out += (publish_head(self._dialect.answer_topic(client.device), len(payload)), payload)
        return len(payload)

    # --- what waits for the disk -------------------------------------------------------------------------

    def _wait(self, client: Client, asked: Waiting, now: float, out: Pieces, cold: Cold | None = None) -> int:
        if self._lines.wait(client, asked, cold):
            return 0
        return self._busy(client, asked.payload, now, out)

    def _send_late(self, pieces: Pieces) -> bool:
        return self.send(pieces)

    def _busy(self, client: Client, payload: bytes, now: float, out: Pieces) -> int:
        refused = self.server.refuse(client, BlockRefusal.BUSY, mono=now)
        if refused.silent:
            return 0
        try:
            request = self._dialect.decode_request(payload)
        except MalformedRequest as error:
            return self._refusal(client, refused, error.artifact, error.offset, out)
        return self._refusal(client, refused, request.artifact, request.offset, out)


def _frame_bytes(dialect: BlockDialect) -> int:
    """The most that a payload has beside a block's data; a refusal is all of that."""
    name, offset = bytes(_NAME_MAX_BYTES), (1 << 64) - 1
    before, after = dialect.block_frame(name, _DATA_MAX_BYTES)
    refusal = dialect.encode_refusal(name, offset, BlockRefusal.BUSY, 1 << 16, _DATA_MAX_BYTES, 1 << 16)
    return max(len(before) + len(dialect.pack_offset(offset)) + len(after), len(refusal))


def _nothing_is_plain(_payload: bytes) -> None:
    return None
