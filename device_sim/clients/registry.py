"""Which dialects there are clients for: name -> module and class, imported when it is asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from device_sim.clients.model import ClientOptions, VendorClient
from device_sim.errors import OptionError

Factory = Callable[[ClientOptions], VendorClient]

CLIENTS: Final[Mapping[str, str]] = {
    "alibaba": "device_sim.clients.alibaba:alibaba_client",
    "aws": "device_sim.clients.aws:AwsClient",
    "tencent": "device_sim.clients.tencent:tencent_client",
    "thingsboard": "device_sim.clients.thingsboard:thingsboard_client",
    "xively": "device_sim.clients.xively:xively_client",
}
"""`module:factory`, of which the factory takes `ClientOptions`."""


def factory(dialect: str) -> Factory:
    """What makes a client of this dialect; `OptionError` where there is none."""
    place = CLIENTS.get(dialect)
    if place is None:
        raise OptionError(f"--dialect: {dialect[:40]!r} is not one of {', '.join(sorted(CLIENTS))}")
    module, _, name = place.partition(":")
    try:
        made: Factory = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise OptionError(f"--dialect: there is no client for {dialect} in this version") from None
    return made
