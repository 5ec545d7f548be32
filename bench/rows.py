"""The rows of the table: what is asked for, of whom, and the ratio that the bridge shall not exceed."""

from dataclasses import dataclass

SERVERS = ("bridge", "floor", "paho", "aiomqtt")
STACKS = (*SERVERS, "nginx")
STACK_DOCS = {
    "bridge": "this bridge, every check on",
    "floor": "raw C, no checks",
    "paho": "the same server written naturally with paho",
    "aiomqtt": "the same server written naturally with aiomqtt",
    "nginx": "HTTP Range requests, keep-alive, no broker",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """`rate_per_s` 0 is saturation: a closed loop with 4 requests on the way for each device."""

    name: str
    title: str
    block_bytes: int
    count: int = 1
    rate_per_s: int = 0
    tls: bool = False
    goal: float
    stacks: tuple[str, ...] = SERVERS


ROWS = {
    row.name: row
    for row in (
        Row(name="4096x1", title="4 KiB × 1, saturated", block_bytes=4096, goal=0.20, stacks=STACKS),
        Row(name="1024x16", title="1 request → 16 × 1 KiB, saturated", block_bytes=1024, count=16, goal=0.15),
        Row(name="256x1", title="256 B × 1, saturated", block_bytes=256, goal=0.35, stacks=STACKS),
        Row(name="4096x1@300", title="4 KiB at 300 requests/s", block_bytes=4096, rate_per_s=300, goal=0.9),
        Row(name="4096x1@3000", title="4 KiB at 3,000 requests/s", block_bytes=4096, rate_per_s=3000, goal=0.7),
        Row(
            name="4096x1+tls",
            title="4 KiB × 1, saturated, TLS on the bridge's links",
            block_bytes=4096,
            tls=True,
            goal=0.45,
            stacks=("bridge",),
        ),
    )
}
