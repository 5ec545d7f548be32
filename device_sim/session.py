"""What a device holds in RAM between two boots, shared by `Device` and its `Updater`."""

from random import Random
from typing import Any

from device_sim.bootloader import Boot
from device_sim.freshness import Freshness
from device_sim.manifest import Identity, Installed
from device_sim.model import Action, DeviceConfig, Fault, Phase, Publish, Reboot, Result, Stats
from device_sim.outbox import Kind, Outbox
from device_sim.settings import Final
from device_sim.storage import Storage
from device_sim.trust import Trust

MAX_REASON_CHARS = 128


class Session:
    """One boot of one device."""

    def __init__(
        self,
        *,
        config: DeviceConfig,
        storage: Storage,
        trust: Trust,
        identity: Identity,
        boot: Boot,
        rng: Random,
        stats: Stats,
        fault: Fault,
        freshness: Freshness,
    ) -> None:
        self.config, self.storage, self.trust, self.identity = config, storage, trust, identity
        self.boot, self.rng, self.stats, self.fault = boot, rng, stats, fault
        self.freshness = freshness
        self.outbox = Outbox(boot=boot.number, encoding=config.encoding, rng=rng)
        self.phase = Phase.TRIAL if boot.trial else Phase.IDLE
        self.nonce = b""
        self.keyset_refused = ""
        self.check_in_at_s: float | None = None
        self.ended: Final | None = None
        self.result = Result.NONE
        self.reason = ""
        self.actions: list[Action] = []

    def installed(self) -> Installed:
        """What manifests are judged by."""
        settings = self.storage.settings
        return Installed(
            digest=settings.digest,
            epoch=self.trust.epoch,
            seqs=settings.seqs,
            security_counter=settings.security_counter,
            slot_bytes=self.storage.free_slot.size_bytes,
        )

    def check_in_within(self, now_s: float, low_s: float, high_s: float) -> None:
        """Check in at a random time from now, unless one is due before."""
        at_s = now_s + self.rng.uniform(low_s, high_s)
        self.check_in_at_s = at_s if self.check_in_at_s is None else min(self.check_in_at_s, at_s)

    def progress(
        self, kind: Kind, state: str, now_s: float, *, deployment: str, version: str, code: str = "0", reason: str = "",
        percent: int | None = None, retry_after_s: float | None = None,
    ) -> None:  # fmt: skip
        """Report a state of a deployment."""
        progress: dict[str, Any] = {"state": state, "result_code": code, "result_msg": reason[:MAX_REASON_CHARS]}
        if percent is not None:
            progress["percent"] = str(percent)
        message: dict[str, Any] = {
            "type": "report_progress",
            "report": {"progress": progress, "version": version},
            "id": deployment,
            "component": self.config.component,
        }
        if retry_after_s is not None:
            message["retry_after_s"] = round(retry_after_s)
        self.outbox.add(kind, message, now_s)

    def finish(self, final: Final, result: Result, now_s: float) -> None:
        """Send the last word on a deployment; the caller has put it into flash."""
        self.result, self.reason = result, final.sentence
        self.send_final(final, now_s)

    def send_final(self, final: Final, now_s: float) -> None:
        """Send what flash still holds."""
        if final.state != "too_late":
            self.ended = final
        self.progress(
            Kind.FINAL,
            final.state,
            now_s,
            deployment=final.id,
            version=final.version,
            code=final.code,
            reason=final.reason,
        )

    @property
    def will_reboot(self) -> bool:
        """Whether a reboot has been asked for and nothing more should begin."""
        return any(isinstance(action, Reboot) for action in self.actions)

    def reboot(self) -> None:
        """Ask the shell for a reboot, after what was to be sent."""
        self.actions.append(Reboot())

    def send(self, topic: str, payload: bytes) -> None:
        """Ask the shell to publish."""
        if topic == "report":
            self.stats.reports += 1
            self.actions.append(Publish("report", payload))
        else:
            self.stats.requests += 1
            self.actions.append(Publish("get", payload))
