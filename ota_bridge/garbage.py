"""The search for garbage in cycles, tuned for the two processes of a bridge, which run for months."""

import asyncio
import gc
import time
from typing import Final

YOUNG_MAX: Final = 50_000
"""New objects that start a search: hardly any garbage in cycles is made here, and a group of reports has more."""
TIDY_S: Final = 10.0
"""How often all new objects are looked at: only that empties Python's lists of freed tuples, which otherwise grow for
hours, to thousands of each length. What was there at the start is not looked at, so it takes a few milliseconds; a
quarter of a second was seen where 100,000 devices had reported since."""
_SHARE: Final = 0.001
"""Of all time, at most so much goes into it, where there is much to look at."""


def settle() -> None:
    """What was built so far stays: no search need look at it again."""
    gc.collect()
    gc.freeze()


def search_less() -> None:
    """Search for garbage less often, and not at all in what was built so far."""
    settle()
    gc.set_threshold(YOUNG_MAX)


async def tidy() -> None:
    """Give back what is free, for ever."""
    wait_s = TIDY_S
    while True:
        await asyncio.sleep(wait_s)
        began = time.monotonic()
        gc.collect()
        wait_s = max(TIDY_S, (time.monotonic() - began) / _SHARE)
