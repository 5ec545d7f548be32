"""The settings of the core, as the configuration has them. A rollout's plan may have times and tries of its own."""

from dataclasses import dataclass, field

from ota_bridge.core.delivery import Pacing
from ota_bridge.core.fleet import Enrol
from ota_bridge.core.rollout.policy import Retries


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of the core."""

    enrol: Enrol = Enrol.OPEN
    enrol_per_s: float = 100
    enrol_burst: int = 1000
    unique_names: bool = False
    """True: user names cannot hold a `/`, so a device name belongs to one product only (native protocol §1)."""
    block_max: int = 16_384
    window_max: int = 16
    public_url: str = ""
    """URL template with `{sha256}` for devices that download by URL, where there are no links of the bridge's own."""
    pacing: Pacing = field(default_factory=Pacing)
    retries: Retries = field(default_factory=Retries)
    keep_history_s: float | None = 2_592_000
    """What is older is compacted; None: everything is kept as it is."""
