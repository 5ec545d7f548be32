"""The block plane in a process of its own, told what it needs over a socket; the daemon's side of it.

The interpreter runs one thread at a time: beside commits and a planner, blocks would wait for both. Rules:

1. The process is started anew when it ends or falls silent, and the table is loaded into it again. What the daemon
   says while there is none is not kept, but for holds: the table comes from the database.
2. Nothing waits for it but `settled`, and that not longer than `SETTLE_S`: a process that does not answer is ended, and
   one that has ended serves nobody.
3. Who kills the daemon kills it: it ends with the socket. It does not take part in signals.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
import subprocess
import sys
from typing import Any, Final

from ota_bridge.block_plane import Listener, PlaneCounters, PlaneSettings
from ota_bridge.channel import Channel
from ota_bridge.core.errors import ConfigError, OtaBridgeError
from ota_bridge.core.messages import GrantsChanged, GrantState
from ota_bridge.core.served import ServedCounters
from ota_bridge.core.values import Limits, RolloutId
from ota_bridge.mqtt.blocks import LinkCounters

START_S: Final = 20.0
"""How long it may take to start, on a slow machine."""
SETTLE_S: Final = 5.0
STOP_S: Final = 1.0
RESTART_S: Final = 1.0
CHECK_S: Final = 5.0
MISSED_MAX: Final = 3
"""Checks in a row in which it said nothing, though it should every second: then it is ended."""
TOGETHER_MAX: Final = 64
"""How many devices' grants make one message: the other side answers nobody while it reads one."""
QUEUED_MAX_BYTES: Final = 1 << 27
"""What it does not take in may grow this large: then it is ended."""

_log = logging.getLogger(__name__)


class ProcessPlane:
    """The block plane elsewhere; see the module."""

    def __init__(self, settings: PlaneSettings) -> None:
        self.listener: Listener | None = None
        self._settings = settings
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._holds: dict[RolloutId, GrantState] = {}
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._heard = False
        self.counters = PlaneCounters(served=ServedCounters(), link=LinkCounters())

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._process.pid if self._process is not None else None

    def apply(self, *changes: GrantsChanged) -> None:
        """Replace what devices may fetch. In one message, what they have in common is written once."""
        for first in range(0, len(changes), TOGETHER_MAX):
            self._say("apply", changes[first : first + TOGETHER_MAX])

    def hold(self, rollout: RolloutId, state: GrantState | None) -> None:
        """Answer a whole rollout with `state` from now on; None: as each grant says."""
        if state is None:
            self._holds.pop(rollout, None)
        else:
            self._holds[rollout] = state
        self._say("hold", rollout, state)

    def set_limits(self, limits: Limits) -> None:
        """These fleet-wide caps from now on."""
        self._say("limits", limits)

    def open(self) -> None:
        """The table is whole: from now on who is not in it is refused."""
        self._say("open")

    async def settled(self) -> None:
        """Return once everything that was said before holds."""
        if not self._ready.is_set():
            return
        number = next(self._numbers)
        done = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._say("settle", number)
        try:
            async with asyncio.timeout(SETTLE_S):
                await done
        except TimeoutError:
            self._kill(f"it did not answer within {SETTLE_S:.0f} s")
        finally:
            self._waiting.pop(number, None)

    async def start(self) -> None:
        """Start the process; raises ConfigError where it does not come up."""
        try:
            await self._spawn()
        except (OSError, TimeoutError) as error:
            await self._reap()
            raise ConfigError(
                f"the block plane's process did not start ({error or 'no answer'}); "
                "to serve blocks in the daemon's own: blocks.process = shared"
            ) from error

    async def run(self) -> None:
        """Keep it alive until cancelled, then stop it; what it served until then is told."""
        try:
            while True:
                await self._watch()
                self._gone()
                await self._reap()
                _log.error("the block plane's process has ended; starting it again")
                await asyncio.sleep(RESTART_S)
                await self._again()
        finally:
            await self._stop()

    async def _again(self) -> None:
        try:
            await self._spawn()
            for rollout, state in self._holds.items():
                self._say("hold", rollout, state)
            if self.listener is not None:
                await self.listener.load()
        except (OSError, TimeoutError, OtaBridgeError) as error:
            self._kill(f"it could not be started again ({error}); trying once more")

    async def _spawn(self) -> None:
        self._ready.clear()
        self._ended.clear()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                files = [] if self._settings.files_descriptor is None else [self._settings.files_descriptor]
                command = [sys.executable, "-m", "ota_bridge.block_worker", str(theirs.fileno())]
                self._process = await asyncio.to_thread(
                    subprocess.Popen, command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno(), *files]
                )
        except OSError:
            ours.close()
            raise
        self._channel = Channel(ours, self._told, self._ended.set)
        self._channel.send(("settings", self._settings))
        ready = asyncio.create_task(self._ready.wait())
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({ready, ended}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if not self._ready.is_set():
            self._kill("it did not start")
            raise TimeoutError("it ended at once" if self._ended.is_set() else f"no answer within {START_S:.0f} s")

    async def _watch(self) -> None:
        """Return when it has ended or was ended for its silence."""
        missed = 0
        while not self._ended.is_set():
            self._heard = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), CHECK_S)
            missed = 0 if self._heard else missed + 1
            if missed >= MISSED_MAX:
                self._kill(f"it said nothing for {missed * CHECK_S:.0f} s")

    def _say(self, *message: Any) -> None:
        channel = self._channel
        if channel is None or not self._ready.is_set():
            return
        channel.send(message)
        if channel.queued_bytes > QUEUED_MAX_BYTES:
            self._kill("it does not take in what it is told")

    def _told(self, message: Any) -> None:
        self._heard = True
        match message:
            case ("served", served, counters):
                self.counters = counters
                if self.listener is not None:
                    self.listener.on_served(served)
            case ("state", up):
                self._tell_state(up=up)
            case ("settled", number):
                done = self._waiting.pop(number, None)
                if done is not None and not done.done():
                    done.set_result(None)
            case ("ready",):
                self._ready.set()
            case ("ended",):
                self._ended.set()

    def _tell_state(self, *, up: bool) -> None:
        if self.listener is not None:
            self.listener.set_plane(blocks=up)

    def _kill(self, why: str) -> None:
        _log.error("the block plane's process is ended: %s", why)
        if self._process is not None:
            self._process.kill()
        self._gone()
        self._ended.set()

    def _gone(self) -> None:
        """It serves nobody any more."""
        self._ready.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self._tell_state(up=False)
        for done in self._waiting.values():
            if not done.done():
                done.set_result(None)

    async def _reap(self) -> None:
        if self._process is not None:
            self._process.kill()  # a socket that has ended is the end of its process
            await asyncio.to_thread(self._process.wait)

    async def _stop(self) -> None:
        self._say("stop")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), STOP_S)
        await self._reap()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
