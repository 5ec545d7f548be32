"""The plan file that `rollout example` prints: a few devices, then more, each step on proof of the one before."""

from typing import Final

EXAMPLE: Final = """\
# A rollout in four steps. Check it with: ota-bridge rollout check FILE
# Start it with: ota-bridge rollout start --plan FILE

release = "demo/1.1.0"
to = "all"                        # or a list of devices; or percent = 50; or where = "a query"
# start = 2026-12-01T02:00:00+01:00   # not before; at once where it is left out
deadline = "14d"                  # what has not begun to install by then is canceled

# Each stage is larger than the one before and opens when that has succeeded.
[[stage]]
name = "canary"
devices = 5
success = { share = 1.0, soak = "1h", then = "wait" }   # a person looks: ota-bridge rollout next
failure = { count = 1, then = "pause" }

[[stage]]
name = "tenth"
percent = 10
success = { share = "90 %", min = 3, soak = "6h" }
failure = { share = "5 %", min = 10, then = "pause" }

[[stage]]
name = "half"
percent = 50
success = { share = "90 %", soak = "1d" }
failure = { share = "2 %", min = 50, then = "pause" }

[[stage]]
name = "rest"                     # no size: all that are left
failure = { share = "2 %", min = 50, then = "pause" }

# Ten devices a minute, twice as many after each hundred that confirmed, never more than 200.
[pace]
per_min = 10
factor = 2
per_success = 100
max_per_min = 200

# At night, where the device is. A device has its zone in its attribute `tz`.
[[window]]
cron = "0 1 * * *"
length = "4h"
tz = "Europe/Berlin"

[timeouts]
downloading = "30min"             # since the last byte
sleepers_wait = true              # a device that sleeps is not given up before its first block

[retries]
max_attempts = 3
backoff = "15min"
quarantine_after = 5
"""
