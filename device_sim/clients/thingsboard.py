"""ThingsBoard's devices: `cpp` among the variants is the C++ client, everything else the Python one.

Variants of the Python client: `untitled` (the application does not say what it runs), `asks-again` (it asks for
updates after each reconnect). Of the C++ client: `push` (it waits for attributes instead of asking for them).
"""

from typing import Final

from device_sim.clients.model import ClientOptions, VendorClient
from device_sim.clients.thingsboard_cpp import CppClient
from device_sim.clients.thingsboard_python import PythonClient
from device_sim.errors import OptionError

VARIANTS: Final = frozenset({"asks-again", "cpp", "push", "python", "untitled"})


def thingsboard_client(options: ClientOptions) -> VendorClient:
    """A client as its options say; raises OptionError for a variant that there is not."""
    unknown = options.variants - VARIANTS
    if unknown:
        raise OptionError(f"thingsboard has no variant {min(unknown)!r}; it has {', '.join(sorted(VARIANTS))}")
    return CppClient(options) if "cpp" in options.variants else PythonClient(options)
