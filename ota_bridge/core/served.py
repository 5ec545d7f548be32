"""What the block plane counts: of one deployment until it is told, and of everything since its start."""

import math
from dataclasses import dataclass, field

from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.values import DeploymentId, DeviceId


@dataclass(slots=True)
class Activity:
    """What was served of one deployment since it was last drained."""

    device: DeviceId
    deployment: DeploymentId | None  # None: what needs none
    mono: float = 0.0
    told_mono: float = -math.inf
    bytes_sent: int = 0
    blocks_sent: int = 0
    requests: int = 0
    high_water_bytes: int = 0


@dataclass(slots=True)
class ServedCounters:
    """Since the start of the process."""

    requests: int = 0
    blocks: int = 0
    bytes: int = 0
    refused: dict[BlockRefusal, int] = field(default_factory=dict)
    silent: int = 0
    damaged: int = 0
