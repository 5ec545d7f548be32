"""Bodies: artifacts that go to a device in one stream, piece by piece, under the same rules as blocks. No I/O.

A device that downloads by URL asks once and cannot be told to come back. So here the asking is done for it:

1. A piece is a block request to `BlockServer`: only what is open for the device, only verified bytes, a slot, the
   fleet-wide caps, and progress of its deployment. There is no other way to a byte.
2. Before its first piece a body may wait for its turn. From then on it has a lane (`shares`), where there can be one:
   at least one packet goes every LANE_STEP_S, however greedy the others are.
3. While rates are capped it takes no more than its even part of them at a time: bursts, and the waits that follow,
   are what devices die of. While none is capped it goes as fast as the device takes it.
4. What it waits for is noted for `why` once a second, as if the device had asked and been told.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from ota_bridge.core.blocks import FRAME_MAX_BYTES, BlockServer, Client, Cold, Declined, Served
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.messages import BlockRequest
from ota_bridge.core.shares import LANE_STEP_S, FairShares

FRAME_BYTES: Final = 128
"""What a piece costs beside its data: heads of TCP segments and TLS records. The first has the head of HTTP, too."""
LANE_PACKET_BYTES: Final = 2_048 + FRAME_BYTES
"""Ten KiB a second in a lane. Devices are known that give up below five."""
AT_ONCE_MAX: Final = 2
"""Most blocks of a piece."""
ASK_AGAIN_S: Final = 0.2
NOTE_S: Final = 1.0
LINE_UP_S: Final = 1.0
"""Without a lane it stands in line with the others, and asks no more often than they are told to."""
LEAST_BYTES: Final = 512
"""A smaller piece is not asked for, however many share the caps."""
_PASSING: Final = frozenset({BlockRefusal.BUSY, BlockRefusal.PAUSED})


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing now: ask again after this time. `code` None: it is only the body's own pace."""

    after_s: float
    code: BlockRefusal | None = None


@dataclass(frozen=True, slots=True)
class Over:
    """There will be nothing more: it is not open for the device any longer."""

    code: BlockRefusal


class Bodies:
    """All that are under way."""

    def __init__(self, server: BlockServer) -> None:
        self.server = server
        self.begun: set[Body] = set()

    def open(self, client: Client, artifact: bytes, offset: int, end: int) -> "Body":
        """One that brings this range of what the device may call `artifact`; nothing is asked for yet."""
        return Body(self, client, artifact, offset, end)


class Body:
    """One range of an artifact on its way to one device. `close` it, whatever happens."""

    def __init__(self, bodies: Bodies, client: Client, artifact: bytes, offset: int, end: int) -> None:
        self.client = client
        self.offset = offset
        """Up to here it has been handed out."""
        self.end = end
        self._bodies = bodies
        self._server = bodies.server
        self._artifact = artifact
        self._due_mono = 0.0
        self._noted_mono = -NOTE_S
        self._lined_up_mono = -LINE_UP_S

    @property
    def has_begun(self) -> bool:
        """True once a piece was handed out."""
        return self in self._bodies.begun

    def next(self, mono: float) -> bytes | Later | Over | Cold:
        """The next piece, at least one byte. To be asked only while `offset` is before `end`."""
        early_s = self.client.ready_mono - self._server.slack_s - mono
        if early_s > 0:
            return Later(early_s)
        shares = self._server.shares
        if shares is None or not shares.are_rates_capped:
            return self._handed(self._ask(self._server.block_max, AT_ONCE_MAX, mono), mono)
        if mono < self._due_mono:
            return Later(self._due_mono - mono)
        return self._paced(shares, mono)

    def rest(self, mono: float) -> None:
        """The device takes nothing for now: what is kept for it goes to the others."""
        if self._server.shares is not None:
            self._server.shares.close_lane(self, mono)

    def close(self, mono: float) -> None:
        """Nothing more will be asked for."""
        self._bodies.begun.discard(self)
        self.rest(mono)

    # --- at the pace of the caps -------------------------------------------------------------------------

    def _paced(self, shares: FairShares, mono: float) -> bytes | Later | Over | Cold:
        packet = LANE_PACKET_BYTES if shares.are_bytes_capped else self._server.block_max + FRAME_MAX_BYTES
        waits = shares.open_lane(self, self.client.device, packet, mono)
        if waits is not None and not self.has_begun:
            return self._handed(Declined(BlockRefusal.BUSY, waits), mono)
        part = self._even_part(shares)
        found = self._ask(*part, mono, spare=True)
        if isinstance(found, Declined) and found.waits is not None:
            if shares.has_lane(self):
                found = self._ask(packet - self._frame_bytes, 1, mono, lane=self)
            elif mono >= self._lined_up_mono + LINE_UP_S:
                self._lined_up_mono = mono
                found = self._ask(*part, mono)
        if isinstance(found, bytes):
            self._due_mono = mono + LANE_STEP_S
        return self._handed(found, mono)

    def _even_part(self, shares: FairShares) -> tuple[int, int]:
        """Size and number of the blocks that it asks for at each step."""
        blocks, bytes_ = shares.even(len(self._bodies.begun | {self}))
        if bytes_ is not None:
            return max(LEAST_BYTES, bytes_ - self._frame_bytes), 1
        assert blocks is not None
        return self._server.block_max, max(1, min(blocks, AT_ONCE_MAX))

    @property
    def _frame_bytes(self) -> int:
        return FRAME_BYTES if self.has_begun else FRAME_MAX_BYTES

    # --- asking ------------------------------------------------------------------------------------------

    def _ask(
        self, size: int, count: int, mono: float, *, lane: Hashable = None, spare: bool = False
    ) -> bytes | Declined | Cold:
        size = min(size, self._server.block_max, self.end - self.offset)
        request = BlockRequest(
            artifact=self._artifact, offset=self.offset, size=size, count=min(count, (self.end - self.offset) // size)
        )
        found = self._server.attempt(
            self.client, request, mono=mono, frame_bytes=self._frame_bytes, lane=lane, spare=spare
        )
        # A copy: what a slow device has not taken must not keep whole segments in memory.
        return b"".join(data for _, data in found.blocks) if isinstance(found, Served) else found

    def _handed(self, found: bytes | Declined | Cold, mono: float) -> bytes | Later | Over | Cold:
        match found:
            case bytes():
                self._bodies.begun.add(self)
                self.offset += len(found)
                return found
            case Cold():
                return found
            case Declined(code=code, waits=waits):
                if mono >= self._noted_mono + NOTE_S:
                    self._noted_mono = mono
                    self._server.note(self.client, code, mono=mono, waits=waits)
                return Later(ASK_AGAIN_S, code) if code in _PASSING else Over(code)
