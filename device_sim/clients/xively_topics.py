"""The two topics of a Xively device, and the CONNECT of the vendor's example."""

from dataclasses import dataclass
from typing import Final

from device_sim.clients.model import ClientOptions

KEEPALIVE_S: Final = 20


@dataclass(frozen=True, slots=True)
class Topics:
    """Where it listens and where it speaks."""

    down: str
    up: str

    @classmethod
    def of(cls, options: ClientOptions) -> "Topics":
        base = f"{options.prefix}xi/ctrl/v1/{options.name}"
        return cls(down=f"{base}/cln", up=f"{base}/svc")
