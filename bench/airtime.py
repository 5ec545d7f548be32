"""`python bench airtime`: bytes on the wire for each byte of the image, by block size and window.

One device, a hundred requests a second, segments as on Ethernet (MSS 1460). The kernel counts for the device's
connection (TCP_INFO): payload and segments of both directions, acknowledgements included; a segment has 52 bytes of
IPv4 and TCP header. So MQTT, msgpack, topic names, requests and TCP are in; link-layer framing and TLS are not.
"""

from pathlib import Path

from measure import WrongBlock, load
from stacks import Running

BLOCKS_BYTES, WINDOWS = (64, 256, 1024, 4096, 16_384), (1, 16)
MSS_BYTES = 1460
RATE_PER_S = 100  # below what one device may have, whatever its window
POINTS = tuple((block, window) for block in BLOCKS_BYTES for window in WINDOWS)


def airtime(
    directory: Path, serving: Running, block: int, window: int, *, seconds: float, first: int, warmup: float = 0.2
) -> dict:
    """One point."""
    options = {"devices": 1, "rate": RATE_PER_S, "mss": MSS_BYTES, "warmup": warmup, "first": first}
    with load(directory, serving, block=block, count=window, seconds=seconds, **options) as one:
        one.wait_for("ready", "begin", "end")
        found = one.result()
    payload = found["blocks"] * block
    if not payload:
        raise WrongBlock(f"{block} bytes, window {window}: no block arrived in {seconds:g} s")
    return {
        "block_bytes": block,
        "window": window,
        "blocks": found["blocks"],
        "wire_bytes": found["wire_bytes"],
        "overhead_percent": 100 * (found["wire_bytes"] / payload - 1),
        "lost": found["lost"],
        "refusals": found["refusals"],
    }


def table(points: list[dict]) -> str:
    lines = ["| block | " + " | ".join(f"window {window}" for window in WINDOWS) + " |", "|---" * 3 + "|"]
    of = {(point["block_bytes"], point["window"]): point["overhead_percent"] for point in points}
    for block in BLOCKS_BYTES:
        size = f"{block} B" if block < 1024 else f"{block // 1024} KiB"
        found = [f"{of[block, window]:.1f} %" if (block, window) in of else "" for window in WINDOWS]
        lines.append(f"| {size} | " + " | ".join(found) + " |")
    return "\n".join(lines)
