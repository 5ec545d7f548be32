"""`make bench`: CPU per delivered block of the bridge and of naive servers, beside what mosquitto spends on it.

Candidates take turns, so that a noisy machine is equally unfair to all; the table shows medians with minimum and
maximum. Trust the ratios, not the absolute figures. One candidate: `python bench --stack bridge --shape 4096x1`.
"""

import argparse
import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop
from load import Load, Shape, connect
from stacks import bridge, cpu_s, image, mosquitto, naive

SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="4096x1", block_bytes=4096, blocks_per_request=1),
        Shape(name="1024x16", block_bytes=1024, blocks_per_request=16),
        Shape(name="256x1", block_bytes=256, blocks_per_request=1),
    )
}
STACKS = ("bridge", "paho", "aiomqtt")
WARM_UP_S = 1.0


@contextmanager
def server(stack: str, directory: Path, port: int):
    with bridge(directory, port) if stack == "bridge" else naive(stack, directory, port) as pid:
        yield pid


async def saturate(load: Load, port: int, pids: tuple[int, int], seconds: float) -> dict[str, float]:
    """Ask without a pause for so long; what it cost per block."""
    devices = await connect(load, "127.0.0.1", port)
    for device in devices:
        for _ in range(load.shape.outstanding):
            device.ask()
    await asyncio.sleep(WARM_UP_S)
    loop = asyncio.get_running_loop()
    before, blocks, began = [cpu_s(pid) for pid in pids], load.blocks, loop.time()
    load.is_measuring = True
    await asyncio.sleep(seconds)
    after, done, took = [cpu_s(pid) for pid in pids], load.blocks - blocks, loop.time() - began
    for device in devices:
        device.transport.abort()
    if load.error is not None:
        raise load.error
    if not done:
        raise RuntimeError("no block arrived")
    server_us, broker_us = ((end - start) / done * 1e6 for start, end in zip(before, after, strict=True))
    latencies = sorted(load.latencies_s)
    return {
        "server_us": server_us,
        "mosquitto_us": broker_us,
        "ratio": server_us / broker_us,
        "blocks_per_s": done / took,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


def one(stack: str, shape: Shape, seconds: float, directory: Path) -> dict[str, float]:
    content = image(directory).read_bytes()
    digest8 = hashlib.sha256(content).digest()[:8]
    load = Load(shape=shape, image=content, digest8=digest8, waits_for_offer=stack == "bridge")
    with (
        mosquitto(directory) as (port, broker_pid),
        server(stack, directory, port) as server_pid,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(saturate(load, port, (server_pid, broker_pid), seconds))


def table(results: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    lines = [
        "| shape | stack | server µs/block | mosquitto µs/block | ratio (min–max) | blocks/s | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (shape, stack), runs in results.items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        ratios = [run["ratio"] for run in runs]
        lines.append(
            f"| {shape} | {stack} | {middle['server_us']:.2f} | {middle['mosquitto_us']:.1f} "
            f"| {middle['ratio']:.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {middle['blocks_per_s']:,.0f} "
            f"| {middle['p50_ms']:.1f} | {middle['p99_ms']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--stack", choices=STACKS, action="append", help="may be repeated [all]")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="BLOCKxCOUNT, may be repeated [all]")
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single result")
    args = parser.parse_args()
    pairs = [(shape, stack) for shape in args.shape or SHAPES for stack in args.stack or STACKS]
    results: dict[tuple[str, str], list[dict[str, float]]] = {pair: [] for pair in pairs}
    with tempfile.TemporaryDirectory(prefix="ota-bench-") as name:
        for number in range(1, args.rounds + 1):
            for shape, stack in pairs:
                print(f"round {number} of {args.rounds}: {shape} {stack}", file=sys.stderr, flush=True)
                found = one(stack, replace(SHAPES[shape], devices=args.devices), args.seconds, Path(name))
                results[shape, stack].append(found)
    print(table(results))
    if args.json:
        rows = [{"shape": shape, "stack": stack, "runs": runs} for (shape, stack), runs in results.items()]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
