"""Alibaba's devices: the demo of the C Link SDK 4.1, or with `field` or `polls` a hand-written client.

The files of the two tell of the other variants.
"""

from typing import Final

from device_sim.clients.alibaba_field import FieldClient
from device_sim.clients.alibaba_sdk import SdkClient
from device_sim.clients.model import ClientOptions, VendorClient
from device_sim.errors import OptionError

SDK: Final = frozenset({"bad-flash", "brisk", "queries", "reverts", "sdk", "subscribed"})
FIELD: Final = frozenset({"field", "polls", "reverts"})


def alibaba_client(options: ClientOptions) -> VendorClient:
    """A client as its options say; raises OptionError for a variant that there is not."""
    is_field = bool(options.variants & {"field", "polls"})
    known = FIELD if is_field else SDK
    unknown = {name for name in options.variants - known if is_field or not name.startswith("module=")}
    if unknown:
        raise OptionError(f"alibaba has no variant {min(unknown)!r} here; it has {', '.join(sorted(known))}")
    return FieldClient(options) if is_field else SdkClient(options)
