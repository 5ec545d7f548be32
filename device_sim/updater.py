"""One device's way from an offer to the trial boot: verify, pull, read back, ask, hand over to the bootloader.

1. Nothing is erased and no block asked for before the manifest and the ticket hold (`manifest.py`).
2. An offer must answer the latest check-in; the same deployment with the same manifest is only refreshed.
3. A download belongs to its manifest: another deployment of the same one goes on where the last one stopped.
4. Once the bridge's `go` was received (`install.py`), a cancel is `too_late`.
5. A deployment that this boot has ended stays ended: an offer that was on its way then is answered with that end.
6. Refusals of blocks are obeyed: stop and check in, wait, or ask for less; they never fail a download.
"""

from dataclasses import replace

from device_sim.download import ImageDownload, Outcome, list_bytes
from device_sim.errors import ManifestRefused, Refusal
from device_sim.gathering import Gathering
from device_sim.install import Installer
from device_sim.manifest import Manifest, check_ticket, judge, judge_needs, read_manifest, still_holds
from device_sim.model import FaultKind, Phase, Result
from device_sim.offers import Offer, Piece, check_sizes
from device_sim.outbox import Kind
from device_sim.puller import Limits, Puller, RoundTrip
from device_sim.session import Session
from device_sim.settings import Download, Final, Trial
from device_sim.trust import Trust
from device_sim.wire import BlockData, BlockRefusal

MAX_IDLE_REFUSALS = 8
SILENT_BEFORE_CHECK_IN = 5


class Updater:
    """The update part of a running firmware."""

    def __init__(self, session: Session) -> None:
        self._s = session
        self._trip = RoundTrip()
        self._download: ImageDownload | None = None
        self._gathering: Gathering | None = None
        self._limits = Limits(block_bytes=session.config.block_bytes, window=session.config.window)
        self._stopped = False
        self._refused_in_row = 0
        self._stale_in_row = 0
        self._told_percent = 0
        self._told_at_s = float("-inf")
        self.installer = Installer(session)

    @property
    def position(self) -> tuple[int, int, str]:
        """Bytes in flash, bytes in all, and the version that is coming."""
        if self._download is None:
            return 0, 0, ""
        manifest = self._download.manifest
        return self._download.position, manifest.size_bytes, manifest.version

    def offer(self, offer: Offer, now_s: float) -> bool:
        """An offer came; False when it is dropped because it answers another check-in."""
        s = self._s
        record = s.storage.settings.download
        if (
            self._download is not None
            and record is not None
            and (record.id, record.envelope_digest)
            == (
                offer.id,
                offer.manifest.digest,
            )
        ):
            self._stopped = False
            self.installer.offered(offer, now_s)
            return True
        if (offer.boot, offer.nonce) != (s.boot.number, s.nonce) or not s.nonce:
            return False
        if offer.component != s.config.component or s.phase in {Phase.INSTALLING, Phase.TRIAL}:
            return False
        if self._gathering is not None and self._gathering.offer == offer:
            return True
        if s.ended is not None and s.ended.id == offer.id:
            s.send_final(s.ended, now_s)
            return True
        try:
            check_sizes(offer)
        except ManifestRefused as refused:
            self._refuse(offer, refused, now_s)
            return True
        self._gathering = Gathering(offer, self._small_puller)
        self._gathered(now_s)
        return True

    def apply(self, deployment: str, now_s: float) -> None:
        """The operator releases an offer that waited for a command."""
        record = self._s.storage.settings.download
        if record is not None and record.id == deployment:
            self.installer.release(now_s)

    def cancel(self, deployment: str, now_s: float) -> None:
        """The operator wants it no more: `canceled`, or `too_late` once `go` was received."""
        s, settings = self._s, self._s.storage.settings
        gone = settings.trial_id == deployment and (settings.trial is not Trial.NONE or settings.installing)
        if gone or settings.installed_id == deployment:
            final = Final(id=deployment, state="too_late", code="0", reason="", version=settings.version)
            s.send_final(final, now_s)
            return
        version = settings.version
        mine = settings.download is not None and settings.download.id == deployment
        if mine and self._download is not None:
            version = self._download.manifest.version
        final = Final(id=deployment, state="canceled", code="0", reason="", version=version)
        if mine:
            s.storage.save(download=None, final=final)
        if mine or (self._gathering is not None and self._gathering.offer.id == deployment):
            self._forget()
            s.finish(final, Result.CANCELED, now_s)
        else:
            s.send_final(final, now_s)

    def downloaded_acknowledged(self) -> None:
        """The bridge knows that the image is here."""
        if self._s.phase is Phase.DOWNLOADED and self._s.fault.fires(FaultKind.REBOOT_IN, Phase.DOWNLOADED):
            self._s.reboot()

    def checked_in(self, now_s: float) -> None:
        """A check-in was acknowledged: go on with what flash holds, or with what was refused."""
        self._stopped = False
        if (puller := self._puller()) is not None:
            puller.wake(now_s)
        record = self._s.storage.settings.download
        if self._download is not None or self._gathering is not None or record is None or not record.id:
            return
        envelope = self._s.storage.envelope(record.slot)
        try:
            manifest = still_holds(self._s.trust, envelope or b"")
        except ManifestRefused:
            manifest = None
        if manifest is None or manifest.envelope_digest != record.envelope_digest:
            self._s.storage.save(download=None)
            return
        self._begin(manifest, released=record.apply_now, now_s=now_s)

    def revoked_by(self, trust: Trust) -> bool:
        """Whether another keyset would not take what is being downloaded."""
        record = self._s.storage.settings.download
        if record is None:
            return False
        try:
            still_holds(trust, self._s.storage.envelope(record.slot) or b"")
        except ManifestRefused:
            return True
        return False

    def revoked(self) -> None:
        """What was being downloaded is out of the flash's record: stop."""
        self._forget()

    def reconnected(self, now_s: float) -> None:
        """What was outstanding before the line broke is lost."""
        if (puller := self._puller()) is not None:
            puller.resume(now_s)

    def block(self, block: BlockData, now_s: float) -> bool:
        """A piece of an artifact came; False when nobody asked for it."""
        puller = self._puller()
        if puller is None or block.artifact != puller.artifact:
            return False
        if self._gathering is not None:
            self._gathering.take(block, now_s)
            self._gathered(now_s)
        elif self._download is not None:
            self._refused_in_row = 0
            self._download.take(block, now_s)
            self._download_progress(now_s)
        return True

    def refused(self, refusal: BlockRefusal, now_s: float) -> bool:
        """The bridge would not give a block; False when that was not about our request."""
        puller = self._puller()
        if puller is None or refusal.artifact not in {puller.artifact, b""}:
            return False
        rng, after_s = self._s.rng, min(refusal.retry_after_s, 3600.0)
        if refusal.code in {1, 2, 6}:
            self._stop_and_check_in(now_s, after_s)
        elif refusal.code == 3:  # noqa: PLR2004  native-protocol.md §5: limits
            self._limits.block_bytes = max(1, min(self._limits.block_bytes, refusal.size_max))
            self._limits.window = max(1, min(self._limits.window, refusal.count_max))
            puller.pause(now_s, max(after_s, 0.05))
        else:
            busy = refusal.code == 4  # noqa: PLR2004  it has a place in a line, which asking earlier does not better
            puller.pause(now_s, max(after_s, 0.3) * rng.uniform(1.0, 1.5), firm=busy)
        return True

    def deadline_s(self) -> float | None:
        """When `poll` has something to do."""
        if self._s.phase in {Phase.DOWNLOADED, Phase.INSTALLING}:
            return self.installer.deadline_s()
        puller = self._puller()
        return None if puller is None or self._stopped else puller.deadline_s()

    def poll(self, now_s: float) -> None:
        """Send the block request that is due."""
        s = self._s
        if s.phase in {Phase.DOWNLOADED, Phase.INSTALLING}:
            self.installer.poll(now_s)
            return
        puller = self._puller()
        if puller is None or self._stopped:
            return
        repeats = puller.retries
        request = puller.poll(now_s)
        if request is not None:
            s.stats.retries += puller.retries - repeats
            s.send("get", request)
            if puller.silent and puller.silent % SILENT_BEFORE_CHECK_IN == 0:
                s.check_in_within(now_s, 0.0, 2.0)

    def _puller(self) -> Puller | None:
        if self._gathering is not None:
            return self._gathering.puller
        if self._download is not None and self._download.outcome is Outcome.PULLING:
            return self._download.puller
        return None

    def _stop_and_check_in(self, now_s: float, after_s: float) -> None:
        s = self._s
        self._stopped = True
        self._refused_in_row += 1
        if (puller := self._puller()) is not None:
            puller.pause(now_s, 0.0)
        wait_s = max(after_s, min(60.0, 0.5 * 2.0**self._refused_in_row))
        if self._refused_in_row >= MAX_IDLE_REFUSALS:
            record = s.storage.settings.download
            if record is not None:
                s.storage.save(download=replace(record, id=""))
            self._forget()
        s.check_in_at_s = None
        s.check_in_within(now_s, wait_s / 2, wait_s)

    def _small_puller(self, piece: Piece) -> Puller:
        return Puller(
            digest=piece.digest,
            size_bytes=piece.size_bytes,
            position=0,
            limits=self._limits,
            pace_bps=self._s.config.pace_bps,
            trip=self._trip,
            rng=self._s.rng,
        )

    def _gathered(self, now_s: float) -> None:
        gathering, s = self._gathering, self._s
        assert gathering is not None
        if gathering.outcome is Outcome.PULLING:
            s.phase, self._download = Phase.FETCHING, None
            return
        self._gathering = None
        if s.phase is Phase.FETCHING:
            s.phase = Phase.IDLE
        if gathering.outcome is Outcome.BAD:
            detail = "what was fetched is not what was offered"
            self._refuse(gathering.offer, ManifestRefused(Refusal.SIG, detail), now_s)
            return
        self._consider(gathering.offer, gathering.envelope, gathering.ticket, now_s)

    def _consider(self, offer: Offer, envelope: bytes, ticket: bytes | None, now_s: float) -> None:
        s, installed = self._s, self._s.installed()
        try:
            manifest = read_manifest(s.trust, envelope)
            already = judge(manifest, s.identity, installed)
            check_ticket(s.trust, manifest, ticket, identity=s.identity, nonce=s.nonce)
            if ticket is not None and s.trust.online:
                s.freshness.held(now_s)
            if not already:
                judge_needs(manifest, installed)
        except ManifestRefused as refused:
            self._refuse(offer, refused, now_s)
            return
        self._stale_in_row = 0
        if already:
            s.progress(Kind.CLAIM, "done", now_s, deployment=offer.id, version=manifest.version)
            s.check_in_within(now_s, 0.0, 0.5)
            return
        self._accept(offer, manifest, envelope)
        self._begin(manifest, released=False, now_s=now_s)
        self.installer.offered(offer, now_s)

    def _accept(self, offer: Offer, manifest: Manifest, envelope: bytes) -> None:
        storage = self._s.storage
        at_once = offer.apply_now and offer.start_in_s is None  # a window is not known after a restart
        slot, record = 1 - storage.settings.active, storage.settings.download
        self._forget()
        self._limits = Limits(
            block_bytes=min(self._s.config.block_bytes, offer.block_max),
            window=min(self._s.config.window, offer.window_max),
        )
        if record is not None and record.envelope_digest == manifest.envelope_digest:
            storage.save(download=replace(record, id=offer.id, apply_now=at_once))
            return
        storage.save(download=None)
        leaves = list_bytes(manifest) if self._s.config.level == "L1" else 0
        storage.prepare(slot, envelope=envelope, image_bytes=manifest.size_bytes, list_bytes=leaves)
        storage.save(
            download=Download(id=offer.id, slot=slot, envelope_digest=manifest.envelope_digest, apply_now=at_once)
        )

    def _begin(self, manifest: Manifest, *, released: bool, now_s: float) -> None:
        s = self._s
        s.result, s.reason = Result.NONE, ""
        s.phase = Phase.DOWNLOADING
        self.installer.reset(released=released)
        self._download = ImageDownload(
            config=s.config,
            storage=s.storage,
            manifest=manifest,
            limits=self._limits,
            trip=self._trip,
            rng=s.rng,
            stats=s.stats,
            fault=s.fault,
        )
        self._told_percent = self._download.position * 10 // manifest.size_bytes * 10
        self._download_progress(now_s)

    def _download_progress(self, now_s: float) -> None:
        s, download, record = self._s, self._download, self._s.storage.settings.download
        assert download is not None
        assert record is not None
        manifest = download.manifest
        if download.outcome is Outcome.COMPLETE and s.phase is Phase.DOWNLOADING:
            s.phase = Phase.DOWNLOADED
            s.outbox.drop(Kind.PROGRESS)
            s.progress(Kind.DOWNLOADED, "downloaded", now_s, deployment=record.id, version=manifest.version)
            self.installer.burn_if_due(now_s)
        elif download.outcome is Outcome.BAD:
            reason = "the image does not match its manifest"
            final = Final(id=record.id, state="fail", code=Refusal.DIGEST, reason=reason, version=manifest.version)
            s.storage.save(download=None, final=final)
            self._forget()
            s.finish(final, Result.FAILED, now_s)
        else:
            percent = download.position * 10 // manifest.size_bytes * 10
            if percent > self._told_percent and now_s - self._told_at_s >= 1.0:
                self._told_percent, self._told_at_s = percent, now_s
                s.progress(
                    Kind.PROGRESS, "downloading", now_s, deployment=record.id, version=manifest.version, percent=percent
                )

    def _refuse(self, offer: Offer, refused: ManifestRefused, now_s: float) -> None:
        s = self._s
        if refused.code is Refusal.STALE:
            s.freshness.failed()
            self._stale_in_row += 1
            wait_s = min(300.0, 2.0 ** min(self._stale_in_row, 9))  # 2.0 ** 1024 is no number any more
            s.reason = str(refused)
            s.progress(
                Kind.DEFER, "defer", now_s, deployment=offer.id, version=s.storage.settings.version,
                code=refused.code, reason=refused.detail, retry_after_s=wait_s,
            )  # fmt: skip
            s.check_in_within(now_s, wait_s / 2, wait_s)
            return
        final = Final(
            id=offer.id,
            state="fail",
            code=refused.code,
            reason=refused.detail,
            version=s.storage.settings.version,
        )
        s.storage.save(final=final)
        s.finish(final, Result.FAILED, now_s)

    def _forget(self) -> None:
        self._download = self._gathering = None
        self.installer.reset()
        self._stopped = False
        self._refused_in_row = 0
        self._s.phase = Phase.IDLE
        for kind in (Kind.BURNING, Kind.PROGRESS, Kind.DOWNLOADED, Kind.DEFER):
            self._s.outbox.drop(kind)
