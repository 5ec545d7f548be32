"""The process of the block plane: `python -m ota_bridge.block_worker FD`, started by `block_process` alone.

It is told what to do over the socket FD and ends with it: whatever ends the daemon ends this process too. Signals are
the daemon's business; it says when to stop.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from typing import Any, Final

import uvloop

from ota_bridge import garbage
from ota_bridge.block_plane import LocalPlane, PlaneSettings, Served, build_plane
from ota_bridge.channel import Channel
from ota_bridge.core.messages import Grant, GrantsChanged
from ota_bridge.log import set_up_logging
from ota_bridge.store.blobs import BlobStore

_KNOWN_MAX: Final = 10_000


class _Shared:
    """What many grants have in common, kept once: each message brings a copy of its own.

    A manifest goes by the digest of its envelope, which is what it was read from.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def of(self, change: GrantsChanged) -> GrantsChanged:
        """The same change, made of what is known already."""
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()
        return GrantsChanged(
            device=change.device,
            grants=tuple(self._grant(grant) for grant in change.grants),
            inline=tuple(self._known.setdefault(one, one) for one in change.inline),
        )

    def _grant(self, grant: Grant) -> Grant:
        share = self._known.setdefault
        return Grant(
            deployment=grant.deployment,
            rollout=grant.rollout,
            state=grant.state,
            manifest=share(grant.manifest.digest, grant.manifest),  # the whole of it takes longer to compare
            inline=tuple(share(one, one) if one[0] == grant.manifest.digest else one for one in grant.inline),
            fetched_wall=grant.fetched_wall,
            is_whole=grant.is_whole,
        )


class Worker:
    """The block plane and the channel to the daemon."""

    def __init__(self, sock: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._settings: asyncio.Future[PlaneSettings] = asyncio.get_running_loop().create_future()
        self._shared = _Shared()
        self._plane: LocalPlane | None = None
        self._channel = Channel(sock, self._told, self._stop.set)

    async def run(self) -> None:
        """Serve until told to stop, or until the daemon is gone."""
        ending = asyncio.create_task(self._stop.wait(), name="stop")
        waiting: set[asyncio.Future[Any]] = {self._settings, ending}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._stop.is_set():
            return
        settings = self._settings.result()
        set_up_logging(settings.log.level, as_json=settings.log.json)
        blobs = BlobStore(settings.data_dir, cache_bytes=settings.blocks.cache_bytes, writes=False)
        self._plane = build_plane(settings, blobs)
        self._plane.listener = self
        self._plane.server.catch_up = self._channel.read_now  # an offer may have been faster than its grant
        self._channel.send(("ready",))
        serving = asyncio.create_task(self._plane.run(), name="block-plane")
        tidying = asyncio.create_task(garbage.tidy(), name="tidy")
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        tidying.cancel()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        self._channel.send(("ended",))

    async def load(self) -> None:
        """The daemon does, once it has heard that this process is ready."""

    def set_plane(self, *, blocks: bool) -> None:
        """Tell the daemon."""
        self._channel.send(("state", blocks))

    def on_served(self, served: Served) -> None:
        """Tell the daemon."""
        assert self._plane is not None
        self._channel.send(("served", served, self._plane.counters))

    def _told(self, message: Any) -> None:
        match message:
            case ("settings", settings):
                self._settings.set_result(settings)
            case ("apply", changes):
                assert self._plane is not None
                self._plane.apply(*map(self._shared.of, changes))
            case ("limits", limits):
                assert self._plane is not None
                self._plane.set_limits(limits)
            case ("settle", number):
                self._channel.send(("settled", number))
            case ("stop",):
                self._stop.set()
            case ("hold", rollout, state):
                assert self._plane is not None
                self._plane.hold(rollout, state)
            case ("open",):
                assert self._plane is not None
                self._plane.open()
                garbage.settle()  # the table stays


async def _serve(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)
    with socket.socket(fileno=descriptor) as sock:
        await Worker(sock).run()


def main() -> None:
    """Run on the descriptor that the daemon passed."""
    uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
