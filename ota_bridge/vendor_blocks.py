"""Block requests in vendors' protocols: the same server, the same rights and caps; only the messages are others.

1. Which artifact a request means is looked up in what its device was granted: by digest, component or version, as far
   as the protocol names them. What is granted to no deployment is never served here.
2. Nothing that arrives here can raise past `handle`. What a dialect does not answer stays unanswered.
3. A download that began with one artifact is not continued with another, where the protocol tells downloads apart.
4. A request that repeats the one just answered stays unanswered where its dialect wants that: some devices take a
   second answer for the next block. After any other message of the device it is no repeat.
5. A request that the caps hold up is kept until its turn comes where its device would not ask again; the next message
   of the device takes its place.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from ota_bridge.core.blocks import BUSY_RETRY_S, BlockServer, Client, Cold, Declined, Refused
from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.messages import BlockRequest, Grant
from ota_bridge.core.values import DeviceId, Sha256
from ota_bridge.dialect import Asked, MalformedFrom, PatientBlocks, Piece, VendorBlocks
from ota_bridge.mqtt.blocks import Pieces
from ota_bridge.mqtt.codec import publish_head
from ota_bridge.request_lines import TRIES_MAX, Read, RequestLines, Turns, Waiting, read_now
from ota_bridge.wire import matches

ANSWERED_MAX: Final = 100_000
"""Devices whose last request is remembered; all are forgotten at once above that."""


class VendorBlockGateway:
    """Joins the vendors' block codecs to the server; hand `handle` what is not the native protocol's."""

    def __init__(
        self,
        server: BlockServer,
        vendors: Sequence[VendorBlocks],
        *,
        read: Read | None = None,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self.send: Callable[[Pieces], bool] = lambda _pieces: False
        self.strangers = 0
        self._filters = [(name, vendor) for vendor in vendors for name in vendor.filters()]
        self._answered: dict[bytes, tuple[bytes, float]] = {}
        """The last request on each topic that was answered, and when."""
        self._begun: dict[DeviceId, tuple[Hashable, Sha256]] = {}
        """The download that a device began last, and of what."""
        self._lines = RequestLines(
            answer=self._answer, known=self._known, read=read or read_now, mono=mono, send=self._send_late
        )
        self._turns = Turns()
        self.is_patient = any(isinstance(vendor, PatientBlocks) for vendor in vendors)
        """Requests may have to wait for their turn: `take_turns` is to be called."""

    def filters(self) -> Sequence[str]:
        """What the block link subscribes for them."""
        return list(dict.fromkeys(name for name, _ in self._filters))

    def handle(self, topic: bytes, payload: bytes, now: float, out: Pieces) -> int:
        """Append the answer to one request; returns about how many bytes it has."""
        self._turns.drop(topic)
        return self._handle(Waiting(topic, payload), now, out)

    def take_turns(self, now: float) -> None:
        """Answer what was kept and may be served now."""
        out = Pieces()
        for waiting in self._turns.due(now):
            self._handle(waiting, now, out)
        if out:
            self.send(out)

    def _handle(self, waiting: Waiting, now: float, out: Pieces) -> int:
        before, topic = len(out), waiting.topic
        asked = self._read_request(waiting)
        if asked is None:
            self._answered.pop(topic, None)
            return 0
        if waiting.until_mono is None:
            self._turns.drop_of(asked.device)
        client = self.server.client(asked.device)
        if isinstance(asked, MalformedFrom):
            self._refuse_malformed(client, asked, self._vendor(topic), now, out)
        elif client.is_waiting:
            if not self._lines.wait(client, waiting):
                self._busy(client, asked, self._vendor(topic), now, out)
        elif client.ready_mono > now + self.server.slack_s:
            self._busy(client, asked, self._vendor(topic), now, out)
        else:
            cold = self._answer(client, waiting, now, out)
            if cold is not None and not self._lines.wait(client, waiting, cold):
                self._busy(client, asked, self._vendor(topic), now, out)
        return sum(map(len, out[before:]))

    def _vendor(self, topic: bytes) -> VendorBlocks:
        text = topic.decode("utf-8", "replace")
        return next(vendor for name, vendor in self._filters if matches(name, text))

    def _read_request(self, waiting: Waiting) -> Asked | MalformedFrom | None:
        text = waiting.topic.decode("utf-8", "replace")
        vendor = next((vendor for name, vendor in self._filters if matches(name, text)), None)
        if vendor is None:
            self.strangers += 1
            return None
        try:
            return vendor.read(waiting.topic, waiting.payload)
        except MalformedFrom as error:
            return error
        except Malformed:
            self.strangers += 1
            return None

    def _known(self, waiting: Waiting) -> Client | None:
        asked = self._read_request(waiting)
        return None if asked is None else self.server.client(asked.device)

    def _answer(self, client: Client, waiting: Waiting, now: float, out: Pieces) -> Cold | None:
        """Append blocks or a refusal; or, with nothing done, what has to be read first."""
        asked = self._read_request(waiting)
        if not isinstance(asked, Asked) or self._is_repeat(waiting, now):
            return None
        vendor = self._vendor(waiting.topic)
        grant = self._grant(client, asked)
        if grant is None and not self.server.is_loaded and self._keep(vendor, client, waiting, BUSY_RETRY_S, now):
            return None
        if grant is None or not self._is_same_download(asked, grant):
            self._refuse(vendor, asked, self.server.refuse(client, self._closed(), mono=now), out)
            return None
        client.frame_bytes = asked.frame_bytes
        size = asked.size or max(1, grant.manifest.size_bytes - asked.offset)
        request = BlockRequest(
            artifact=grant.manifest.sha256, offset=asked.offset, size=size, count=asked.count, missing=asked.missing
        )
        bounds = (vendor.block_max_bytes, vendor.count_max)
        served = self.server.attempt(client, request, mono=now, frame_bytes=client.frame_bytes, bounds=bounds)
        if isinstance(served, Cold):
            if waiting.tries < TRIES_MAX:
                return served
            served = Declined(BlockRefusal.BUSY)
        if isinstance(served, Declined):
            self._decline(vendor, client, asked, served, waiting, now, out)
            return None
        self._remember(waiting, now)
        _append(out, vendor.blocks_of(asked, served.blocks, grant.manifest.size_bytes))
        return None

    def _decline(
        self, vendor: VendorBlocks, client: Client, asked: Asked, declined: Declined, waiting: Waiting, now: float,
        out: Pieces,
    ) -> None:  # fmt: skip
        retry_after_s = BUSY_RETRY_S if declined.waits is None else declined.waits.retry_after_s
        if declined.code is BlockRefusal.BUSY and self._keep(vendor, client, waiting, retry_after_s, now):
            self.server.note(client, declined.code, mono=now, waits=declined.waits)
            return
        self._refuse(vendor, asked, self.server.refuse(client, declined.code, mono=now, waits=declined.waits), out)

    def _keep(self, vendor: VendorBlocks, client: Client, waiting: Waiting, retry_after_s: float, now: float) -> bool:
        """Let it wait for its turn, if its device is one that would not ask again."""
        if not isinstance(vendor, PatientBlocks):
            return False
        if waiting.until_mono is None:
            waiting.until_mono = now + vendor.wait_max_s
        due_mono = now + retry_after_s
        return due_mono <= waiting.until_mono and self._turns.keep(client.device, waiting, due_mono=due_mono)

    def _closed(self) -> BlockRefusal:
        return BlockRefusal.NOT_OPEN if self.server.is_loaded else BlockRefusal.BUSY

    def _grant(self, client: Client, asked: Asked) -> Grant | None:
        found = _wanted(client.grants, asked)
        if found is None and self.server.is_loaded:
            self.server.catch_up()
            found = _wanted(client.grants, asked)
        return found

    def _is_same_download(self, asked: Asked, grant: Grant) -> bool:
        if asked.download is None:
            return True
        sha256 = grant.manifest.sha256
        if asked.offset:
            download, begun = self._begun.get(asked.device, (None, sha256))
            return download != asked.download or begun == sha256
        if len(self._begun) >= ANSWERED_MAX:
            self._begun.clear()
        self._begun[asked.device] = (asked.download, sha256)
        return True

    # --- what is asked twice -----------------------------------------------------------------------------

    def _is_repeat(self, waiting: Waiting, now: float) -> bool:
        repeat_s = self._vendor(waiting.topic).repeat_s
        payload, mono = self._answered.get(waiting.topic, (None, 0.0))
        return payload == waiting.payload and now - mono < repeat_s

    def _remember(self, waiting: Waiting, now: float) -> None:
        if self._vendor(waiting.topic).repeat_s <= 0:
            return
        if len(self._answered) >= ANSWERED_MAX:
            self._answered.clear()
        self._answered[waiting.topic] = (waiting.payload, now)

    # --- refusals ----------------------------------------------------------------------------------------

    def _busy(self, client: Client, asked: Asked, vendor: VendorBlocks, now: float, out: Pieces) -> None:
        self._refuse(vendor, asked, self.server.refuse(client, BlockRefusal.BUSY, mono=now), out)

    def _refuse(self, vendor: VendorBlocks, asked: Asked, refused: Refused, out: Pieces) -> None:
        if not refused.silent:
            _append(out, vendor.refusal(asked, refused.code, refused.retry_after_s))

    def _refuse_malformed(
        self, client: Client, error: MalformedFrom, vendor: VendorBlocks, now: float, out: Pieces
    ) -> None:
        refused = self.server.refuse(client, BlockRefusal.MALFORMED, mono=now)
        if not refused.silent:
            _append(out, vendor.malformed(error))

    def _send_late(self, pieces: Pieces) -> bool:
        return self.send(pieces)


def _wanted(grants: Sequence[Grant], asked: Asked) -> Grant | None:
    """The grant that a request means; None where none does, or more than one."""
    found = [
        grant
        for grant in grants
        if grant.manifest.sha256.startswith(asked.artifact)
        and asked.component in {"", grant.manifest.component}
        and asked.version in {"", grant.manifest.version}
    ]
    return found[0] if len(found) == 1 else None


def _append(out: Pieces, messages: Sequence[Piece]) -> None:
    for topic, pieces in messages:
        out.append(publish_head(topic, sum(map(len, pieces))))
        out += pieces
