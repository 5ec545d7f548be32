"""ThingsBoard's devices: `cpp` among the variants is the C++ client, everything else the Python one.

Variants of the Python client: `untitled` (the application does not say what it runs), `asks-again` (it asks for
updates after each reconnect). Of the C++ client: `push` (it waits for attributes instead of asking for them).
"""

from typing import Final

from device_sim.clients.model import ClientOptions, VendorClient
from device_sim.clients.thingsboard_cpp import CppClient
from device_sim.clients.thingsboard_python import PythonClient
from device_sim.errors import OptionError

_PYTHON: Final = frozenset({"asks-again", "python", "untitled"})
_CPP: Final = frozenset({"cpp", "push"})
VARIANTS: Final = _PYTHON | _CPP


def thingsboard_client(options: ClientOptions) -> VendorClient:
    """A client as its options say; raises OptionError for a variant that there is not."""
    unknown = options.variants - VARIANTS
    if unknown:
        raise OptionError(f"thingsboard has no variant {min(unknown)!r}; it has {', '.join(sorted(VARIANTS))}")
    is_cpp = "cpp" in options.variants
    wrong = options.variants - (_CPP if is_cpp else _PYTHON)
    if wrong:
        raise OptionError(f"the {'C++' if is_cpp else 'Python'} client of thingsboard has no variant {min(wrong)!r}")
    return CppClient(options) if is_cpp else PythonClient(options)
