"""Random ids that no record has yet, and random bytes that nobody can guess."""

import secrets
from collections.abc import Callable
from typing import Final

from ota_bridge.core.errors import StoreError
from ota_bridge.core.people import SECRET_BYTES

_TRIES: Final = 64


def unused_id(prefix: str, random_bytes: int, is_used: Callable[[str], bool]) -> str:
    """`prefix` and lower-case hex digits of `random_bytes`; raises StoreError if the space is as good as full."""
    for _ in range(_TRIES):
        text = prefix + secrets.token_hex(random_bytes)
        if not is_used(text):
            return text
    raise StoreError(f"no unused id {prefix!r} with {random_bytes * 2} hex digits was found")


def new_secret() -> bytes:
    """What a token's secret is made of."""
    return secrets.token_bytes(SECRET_BYTES)
