"""What the gateway counts, since the start of the process."""

from dataclasses import dataclass


@dataclass(slots=True)
class GatewayCounters:
    """Since the start of the process."""

    reports: int = 0
    rejected: int = 0
    strangers: int = 0
    retained_dropped: int = 0
    flooded: int = 0
    committed: int = 0
    store_failures: int = 0
    core_failures: int = 0
    unsent: int = 0
    clock_steps: int = 0
