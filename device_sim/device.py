"""A simulated microcontroller, without sockets, clock or sleep (`native-protocol.md` §2 to §7, the device's side).

`boot`, `connected`, `update`, `block` and `tick` take what happened and the time, and return what to do:
publish these bytes, or reboot. `deadline_s` says when `tick` is due. The same seed, flash and events give the
same actions.

1. Whatever bytes come, nothing is raised: what is malformed or not asked for is counted and dropped.
2. Each report is repeated until the bridge acknowledges it; a final report waits in flash.
3. A trial is confirmed only after the acknowledgement of its check-in; otherwise the watchdog bites and the
   bootloader goes back.
4. After a restart the download goes on as soon as the check-in is acknowledged.
5. Without a sign of its bridge for `stale_after_s` it is STALE, and says so in its next check-in (`freshness.py`).
"""

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

from device_sim import bootloader
from device_sim.download import held_image
from device_sim.errors import Malformed
from device_sim.freshness import Freshness
from device_sim.manifest import Identity
from device_sim.model import Action, DeviceConfig, Fault, FaultKind, Phase, Result, Snapshot, Stats
from device_sim.offers import read_offer
from device_sim.outbox import Kind
from device_sim.rotation import Rotation
from device_sim.session import Session
from device_sim.settings import Settings, Trial
from device_sim.storage import Storage
from device_sim.trust import Trust, kept
from device_sim.updater import Updater
from device_sim.wire import BlockData, decode_block, decode_update, text

log = logging.getLogger(__name__)

DIGEST_BYTES = 8
ENDS = {"rolled_back": Result.ROLLED_BACK, "fail": Result.FAILED, "canceled": Result.CANCELED}
NONCE_BYTES = 16
FAULTY_WATCHDOG_S = 5.0
MIN_CHECK_IN_GAP_S = 1.0
MAX_SEQS = 64
LOGGED_BOOTS = 64


class Device:
    """One device; it keeps its counters over a reboot, everything else is in flash or gone."""

    def __init__(self, *, config: DeviceConfig, storage: Storage, trust: Trust, rng: Random, fault: Fault) -> None:
        self.config = config
        self.stats = Stats()
        self.boot_log: deque[bootloader.Boot] = deque(maxlen=LOGGED_BOOTS)
        self._storage, self._factory_trust, self._rng, self._fault = storage, trust, rng, fault
        self._went_back: str | None = None
        self._freshness = Freshness(config.stale_after_s)
        self._identity = Identity.of(
            trust, product=config.product, device=config.device, hw=config.hw, component=config.component
        )
        self._online = False
        self._watchdog_at_s: float | None = None
        self._checked_in = self._heard = False  # in this boot: said, acknowledged
        self._checked_in_at_s = float("-inf")
        self._result, self._reason = Result.NONE, ""
        self._session: Session
        self._updater: Updater
        self._rotation: Rotation

    def boot(self, now_s: float) -> None:
        """Run the bootloader, then begin with an empty memory. Call it before anything else."""
        self.stats.boots += 1
        self._freshness.began(now_s)
        self._storage.mount(self.config.version)
        trust = kept(self._factory_trust, self._storage.settings.keyset)
        if trust.epoch != self._storage.settings.epoch:  # the factory put in a newer keyset
            self._storage.save(epoch=trust.epoch, seqs={})
        booted = bootloader.boot(self._storage, trust, self._identity, factory_version=self.config.version)
        self.boot_log.append(booted)
        self._online = False
        self._session = session = Session(
            config=self.config,
            storage=self._storage,
            trust=trust,
            identity=self._identity,
            boot=booted,
            rng=self._rng,
            stats=self.stats,
            fault=self._fault,
            freshness=self._freshness,
        )
        self._updater = Updater(session)
        self._rotation = Rotation(session, self._updater)
        self._checked_in = self._heard = False
        self._checked_in_at_s = float("-inf")
        session.result, session.reason = self._result, self._reason
        self._watchdog_at_s = None
        if booted.trial:
            faulty = self._fault.kind is FaultKind.NEVER_CONFIRM
            watchdog_s = min(FAULTY_WATCHDOG_S, self.config.watchdog_s) if faulty else self.config.watchdog_s
            self._watchdog_at_s = now_s + watchdog_s
        final = self._storage.settings.final
        if final is not None and final.state in ENDS:
            session.result, session.reason = ENDS[final.state], final.sentence

    def connected(self, now_s: float) -> list[Action]:
        """The broker took us, both subscriptions stand."""
        session = self._session
        if self.stats.started_s is None:
            self.stats.started_s = now_s
        self._online = True
        session.outbox.send_again(now_s)
        self._updater.reconnected(now_s)
        self._rotation.reconnected(now_s)
        if not self._checked_in:
            self._check_in(now_s)  # the first word of a boot
            if self._storage.settings.final is not None:
                session.send_final(self._storage.settings.final, now_s)
        elif not session.outbox.waits(Kind.CHECK_IN):
            session.check_in_within(now_s, 0.0, 0.5)
        return self.tick(now_s)

    def disconnected(self) -> None:
        """The line is gone; everything waits for `connected`."""
        self._online = False

    def update(self, payload: bytes, now_s: float) -> list[Action]:
        """A message of our update topic."""
        try:
            self._dispatch(decode_update(payload), now_s)
        except Malformed as error:
            self.stats.malformed += 1
            log.debug("%s: %s", self.config.device, error)
        return self.tick(now_s)

    def block(self, payload: bytes, now_s: float) -> list[Action]:
        """A message of our block topic."""
        try:
            message = decode_block(payload)
        except Malformed as error:
            self.stats.malformed += 1
            log.debug("%s: %s", self.config.device, error)
            return self.tick(now_s)
        if isinstance(message, BlockData):
            self.stats.blocks += 1
            self.stats.bytes_payload += len(message.data)
            known = self._rotation.block(message, now_s) or self._updater.block(message, now_s)
        else:
            self.stats.block_refusals += 1
            known = self._rotation.refused(message, now_s) or self._updater.refused(message, now_s)
        self.stats.dropped += not known
        return self.tick(now_s)

    def tick(self, now_s: float) -> list[Action]:
        """Do what is due."""
        session = self._session
        if self._watchdog_at_s is not None and now_s >= self._watchdog_at_s:
            self._watchdog_at_s = None
            session.reboot()
        self.look_stale(now_s)
        if self._online:
            self._updater.poll(now_s)
            self._rotation.poll(now_s)
            if session.check_in_at_s is not None and now_s >= session.check_in_at_s:
                self._check_in(now_s)
            for body in session.outbox.due(now_s):
                session.send("report", body)
        actions, session.actions = session.actions, []
        self._result, self._reason = session.result, session.reason
        return actions

    def deadline_s(self) -> float | None:
        """When `tick` has something to do, if nothing else happens."""
        times = [self._watchdog_at_s, self._freshness.deadline_s()]
        if self._online:
            times += [
                self._session.check_in_at_s,
                self._session.outbox.deadline_s(),
                self._updater.deadline_s(),
                self._rotation.deadline_s(),
            ]
        return min((time_s for time_s in times if time_s is not None), default=None)

    def look_stale(self, now_s: float) -> bool:
        """Whether it is STALE, told once; also for a device that has no connection and therefore no `tick`."""
        if self._freshness.look(now_s):
            log.warning("%s is STALE: no sign of its bridge for %.0f s", self.config.device, self.config.stale_after_s)
        return self._freshness.stale

    @property
    def mark(self) -> tuple[Phase, Result, bool]:
        """What an observer wants to hear of at once when it changes."""
        return self._session.phase, self._session.result, self._freshness.stale

    @property
    def version(self) -> str:
        """What runs now."""
        return self._session.boot.version

    def snapshot(self) -> Snapshot:
        """What there is to see now; before the first boot not much."""
        if not self.boot_log:
            return Snapshot(
                device=self.config.device,
                phase=Phase.IDLE,
                result=Result.NONE,
                reason="not started",
                version=self._storage.settings.version,
                offered_version="",
                position=0,
                size_bytes=0,
                settled=False,
                stale=False,
                stats=self.stats,
            )
        session = self._session
        position, size, coming = self._updater.position
        running = session.boot.manifest
        if not size and running is not None and (session.boot.trial or running.version != self.config.version):
            position = size = running.size_bytes
        waits = any(session.outbox.waits(kind) for kind in (Kind.FINAL, Kind.CLAIM))
        result, reason = session.result, session.reason
        if result is Result.NONE and self._went_back is not None:
            result, reason = Result.ROLLED_BACK, self._went_back  # another attempt does not unsay it
        return Snapshot(
            device=self.config.device,
            phase=session.phase,
            result=result,
            reason=reason,
            version=session.boot.version,
            offered_version=coming,
            position=position,
            size_bytes=size,
            # The bridge must know what runs now; that a later, periodic check-in is on its way unsettles nothing.
            settled=self._went_back is not None
            or (result is not Result.NONE and self._heard and not waits and session.phase is Phase.IDLE),
            stale=self._freshness.stale,
            stats=self.stats,
        )

    def _dispatch(self, message: dict[str, Any], now_s: float) -> None:
        match message["type"]:
            case "report_ack":
                self._acknowledged(message, now_s)
            case "update_firmware":
                self.stats.dropped += not self._updater.offer(read_offer(message), now_s)
            case "update_keys":
                self.stats.dropped += not self._rotation.notice(message, now_s)
            case "cancel_update":
                self._updater.cancel(text(message, "id", 32), now_s)
            case "apply_update":
                self._updater.apply(text(message, "id", 32), now_s)
            case "check_in":
                if now_s - self._checked_in_at_s >= MIN_CHECK_IN_GAP_S:
                    self._session.check_in_within(now_s, 0.0, 0.1)
            case other:
                raise Malformed(f"a message of type {other[:32]!r}")

    def _acknowledged(self, message: dict[str, Any], now_s: float) -> None:
        session = self._session
        seqs = _numbers(message.get("seqs"))
        go, stop = _texts(message.get("go", [])), _texts(message.get("stop", []))
        if message.get("boot") != session.boot.number or isinstance(message.get("boot"), bool):
            return
        kinds = session.outbox.acknowledge(seqs, keep=Kind.BURNING)
        if Kind.FINAL in kinds:
            self._storage.save(final=None)
        if Kind.DOWNLOADED in kinds:
            self._updater.downloaded_acknowledged()
        if Kind.CHECK_IN in kinds:
            self._check_in_acknowledged(now_s)
        if Kind.BURNING in kinds:
            for deployment, verdict in [*((name, False) for name in stop), *((name, True) for name in go)]:
                if self._updater.installer.waits_for(deployment):
                    self._updater.installer.verdict(go=verdict)

    def _check_in_acknowledged(self, now_s: float) -> None:
        session, settings = self._session, self._storage.settings
        self._heard = True
        self._freshness.acknowledged(now_s)
        if session.result is Result.ROLLED_BACK:
            self._went_back = session.reason
        if session.phase is Phase.TRIAL:
            if self._fault.fires(FaultKind.REBOOT_IN, Phase.TRIAL):
                session.reboot()
            elif self._fault.kind is not FaultKind.NEVER_CONFIRM:
                self._confirm(now_s)
            return
        confirmed = settings.version == self.config.until if self.config.until else not settings.factory
        if confirmed and settings.version != self.config.version and session.phase is Phase.IDLE:
            if self._fault.fires(FaultKind.FACTORY_RESET):
                self._factory_reset()
                return
            session.result, session.reason = Result.CONFIRMED, ""
            self.stats.ended_s = now_s
        self._updater.checked_in(now_s)

    def _confirm(self, now_s: float) -> None:
        session, settings = self._session, self._storage.settings
        manifest = session.boot.manifest
        assert manifest is not None
        self._storage.save(
            active=session.boot.slot,
            factory=False,
            version=manifest.version,
            digest=manifest.digest,
            size_bytes=manifest.size_bytes,
            envelope_digest=manifest.envelope_digest,
            seqs={**settings.seqs, manifest.component: manifest.seq},
            security_counter=max(settings.security_counter, manifest.security_counter or 0),
            trial=Trial.NONE,
            trial_id="",
            installed_id=settings.trial_id,
            download=None,
        )
        self._watchdog_at_s = None
        session.phase = Phase.IDLE
        session.boot = replace(session.boot, trial=False)
        self._check_in(now_s)

    def _factory_reset(self) -> None:
        fresh = Settings(version=self.config.version, active=self._storage.settings.active)
        stays = {"boot", "keyset", "epoch"}  # who may sign is not for a reset to decide
        changes = {name: getattr(fresh, name) for name in Settings.__dataclass_fields__ if name not in stays}
        self._storage.save(**changes)
        self._session.reboot()

    def _check_in(self, now_s: float) -> None:
        session, config = self._session, self.config
        running, settings = session.boot, self._storage.settings
        manifest = running.manifest
        session.nonce = self._rng.randbytes(NONCE_BYTES)
        digest = b"" if manifest is None else manifest.digest[:DIGEST_BYTES]
        trial_seq = manifest.seq if manifest is not None and running.trial else 0
        seq = trial_seq or settings.seqs.get(config.component, 0)
        # Blocks tell the bridge enough while they flow; and each check-in asks for an offer.
        every_s = config.check_in_every_s * (4 if session.phase is Phase.DOWNLOADING else 1)
        held = held_image(self._storage, session.trust)
        message: dict[str, Any] = {
            "type": "report_version",
            "report": {"version": running.version},
            "proto": 1,
            "hw": config.hw,
            "nonce": session.nonce,
            "max_packet": config.max_packet,
            "max_block": config.block_bytes,
            "max_window": config.window,
            "next_s": round(max(1.0, every_s + config.sleeps_s)),
            "parts": {config.component: [running.version, seq, digest, int(running.trial)]},
            "have": [] if held is None else [[held[0][:DIGEST_BYTES], held[1]]],
            "keys": session.trust.version,
        }
        if session.keyset_refused:
            message["keys_refused"] = session.keyset_refused
        if self._freshness.stale:
            message["stale_s"] = round(self._freshness.without_s(now_s))
        self._checked_in, self._checked_in_at_s = True, now_s
        session.outbox.add(Kind.CHECK_IN, message, now_s)
        session.check_in_at_s = None
        # A check-in changes the nonce that offers must answer, so the next is not soon, unless asked for.
        session.check_in_within(now_s, every_s * 0.9, every_s * 1.1)


def _numbers(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > MAX_SEQS or any(type(item) is not int for item in value):
        raise Malformed("seqs is not a list of numbers")
    return value


def _texts(value: Any) -> Iterable[str]:
    if not isinstance(value, list) or len(value) > MAX_SEQS or any(not isinstance(item, str) for item in value):
        raise Malformed("go or stop is not a list of deployments")
    return value
