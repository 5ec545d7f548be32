"""The block plane's way of one message: request in → decode → serve → encode → blocks out.

Nothing that arrives here can raise past `handle`; every request gets blocks, a refusal, or, past the device's limit of
refusals, silence. It never waits for the database: what was served is drained in batches.
"""

import time
from collections.abc import Callable, Iterable

from ota_bridge.core.delivery import BlockServer, Refused
from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.values import DeviceId
from ota_bridge.dialect import BlockDialect, MalformedRequest

Answer = tuple[bytes, "tuple[bytes | memoryview, ...]"]


class BlockGateway:
    """Joins a dialect's block codec to the server; hand `handle` to the block link."""

    def __init__(self, server: BlockServer, dialect: BlockDialect, *, wall: Callable[[], float] = time.time) -> None:
        self.server = server
        self.strangers = 0
        """Requests on topics that name no device."""
        self._dialect = dialect
        self._wall = wall

    def handle(self, topic: bytes, payload: bytes, mono: float) -> Iterable[Answer]:
        """The answers to one request, in order."""
        dialect = self._dialect
        try:
            device = dialect.requester(topic)
        except Malformed:
            self.strangers += 1
            return
        try:
            request = dialect.decode_request(payload)
        except MalformedRequest as error:
            refused = self.server.refuse(device, BlockRefusal.MALFORMED, mono=mono)
            yield from self._refusal(device, refused, error.artifact, error.offset)
            return
        served = self.server.answer(device, request, wall=self._wall(), mono=mono)
        if isinstance(served, Refused):
            yield from self._refusal(device, served, request.artifact, request.offset)
            return
        answer_topic = dialect.answer_topic(device)
        for offset, data in served.blocks:
            yield answer_topic, tuple(dialect.encode_block(request.artifact, offset, data))

    def _refusal(self, device: DeviceId, refused: Refused, artifact: bytes, offset: int) -> Iterable[Answer]:
        if refused.silent:
            return
        payload = self._dialect.encode_refusal(
            artifact, offset, refused.code, refused.retry_after_s, self.server.block_max, self.server.window_max
        )
        yield self._dialect.answer_topic(device), (payload,)
