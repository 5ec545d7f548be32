"""`python bench flood`: one hostile device asks 20,000 times a second while 100 honest ones work at half load.

Three loads on one bridge, one after the other: 100 devices without a pause, which gives the throughput to halve; the
same number at half of it (or another share), undisturbed; and once more with the flood beside them. Each has devices
of its own.
"""

import re
import socket
import statistics
import time
from pathlib import Path

from load import packet, text
from measure import Load, load
from stacks import Running, cpu_s, running, waited_s

HONEST, FLOOD_PER_S = 100, 20_000
BLOCK_BYTES = 4096
MARGIN_S = 0.5
DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"


def dropped(port: int) -> int:
    """What mosquitto dropped since its start; it tells once a second."""
    time.sleep(1.2)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text("bench-counters")))
        sock.sendall(packet(0x82, b"\x00\x01" + text(DROPPED_TOPIC) + b"\x00"))
        came, topic = b"", DROPPED_TOPIC.encode()
        while topic not in came:
            came += sock.recv(4096)
    return int(re.match(rb"\d+", came.partition(topic)[2])[0])


def half_load(directory: Path, serving: Running, options: dict) -> dict:
    """Honest devices, undisturbed; what they and the servers saw."""
    with load(directory, serving, **options) as honest:
        honest.wait_for("ready")
        return measured(serving, honest)


def flooded_load(directory: Path, serving: Running, options: dict) -> tuple[dict, dict]:
    """The same beside a flood, which begins earlier and ends later than what is measured; and what the flooder saw."""
    options = {**options, "warmup": options["warmup"] + 2 * MARGIN_S}
    hostile = {
        "block": options["block"], "devices": 1, "flood": 1, "rate": FLOOD_PER_S, "first": options["first"] + HONEST,
        "warmup": 0, "seconds": options["warmup"] + options["seconds"] + MARGIN_S,
    }  # fmt: skip
    with load(directory, serving, **options) as honest:
        honest.wait_for("ready")
        with load(directory, serving, **hostile) as flooder:
            flooder.wait_for("ready", "begin")
            found = measured(serving, honest)
            flooder.wait_for("end")
            return found, flooder.result()


def measured(serving: Running, honest: Load) -> dict:
    """The result of the honest load, and the share of a CPU that bridge and broker took meanwhile."""
    pids = (serving.server_pid, serving.broker.pid)
    honest.wait_for("begin")
    before, waited = [cpu_s(pid) for pid in pids], waited_s(serving.broker.pid)
    honest.wait_for("end")
    server_s, broker_s = (cpu_s(pid) - earlier for pid, earlier in zip(pids, before, strict=True))
    waited = waited_s(serving.broker.pid) - waited
    found = honest.result()
    took_s = found["seconds"]
    shares = {"server_cpu": server_s / took_s, "mosquitto_cpu": broker_s / took_s, "mosquitto_waited": waited / took_s}
    return found | shares


def flood(directory: Path, *, seconds: float, share: float = 0.5, warmup: float = 1.0) -> dict:
    """One round, with a bridge of its own."""
    with running("bridge", directory) as serving:
        return beside(directory, serving, seconds=seconds, warmup=warmup, share=share, first=0)


def beside(directory: Path, serving: Running, *, seconds: float, warmup: float, first: int, share: float = 0.5) -> dict:
    """One round on a bridge that runs; it takes three times 100 devices and one more, from number `first` on."""
    options = {"block": BLOCK_BYTES, "devices": HONEST, "seconds": seconds, "warmup": warmup}
    saturated = half_load(directory, serving, {**options, "first": first})
    options["rate"] = saturated["blocks"] / saturated["seconds"] * share
    quiet = half_load(directory, serving, {**options, "first": first + HONEST})
    before = dropped(serving.port)
    flooded, flooder = flooded_load(directory, serving, {**options, "first": first + 2 * HONEST})
    lost_by_broker = dropped(serving.port) - before
    sent_per_s = flooder["sent"] / flooder["seconds"]
    # The broker drops for everybody; counted as if all of it were the flooder's, the cost is an upper bound.
    received_per_s = max(sent_per_s - lost_by_broker / flooder["seconds"], 1)
    return {
        "share": share,
        "saturated_blocks_per_s": saturated["blocks"] / saturated["seconds"],
        "quiet_blocks_per_s": quiet["blocks"] / quiet["seconds"],
        "flooded_blocks_per_s": flooded["blocks"] / flooded["seconds"],
        "honest_percent": 100 * (flooded["blocks"] / flooded["seconds"]) / (quiet["blocks"] / quiet["seconds"]),
        "quiet_p99_ms": quiet["p99_ms"],
        "flooded_p99_ms": flooded["p99_ms"],
        "flood_sent_per_s": sent_per_s,
        "bridge_us_per_flooded": (flooded["server_cpu"] - quiet["server_cpu"]) / received_per_s * 1e6,
        "mosquitto_us_per_flooded": (flooded["mosquitto_cpu"] - quiet["mosquitto_cpu"]) / sent_per_s * 1e6,
        "mosquitto_cpu": flooded["mosquitto_cpu"],
        "mosquitto_waited": flooded["mosquitto_waited"],
        "flooder_blocks_per_s": flooder["blocks"] / flooder["seconds"],
        "flooder_refusals": flooder["refusals"],
        "broker_dropped": lost_by_broker,
        "honest_lost": flooded["lost"],
        "honest_refusals": flooded["refusals"],
    }


def table(runs: list[dict]) -> str:
    """What the honest devices noticed, and what the flooder got."""
    of = {name: statistics.median(run[name] for run in runs) for name in runs[0] if not name.endswith("refusals")}
    refusals = sum(sum(run["flooder_refusals"].values()) for run in runs)
    honest = sum(sum(run["honest_refusals"].values()) for run in runs)
    rows = [
        (f"100 honest devices at {of['share']:.0%} of saturation, alone", f"{of['quiet_blocks_per_s']:,.0f} blocks/s"),
        ("the same beside the flood", f"{of['flooded_blocks_per_s']:,.0f} blocks/s, {of['honest_percent']:.1f} %"),
        ("their p99, alone and beside the flood", f"{of['quiet_p99_ms']:.1f} ms and {of['flooded_p99_ms']:.1f} ms"),
        ("their requests lost, refused", f"{of['honest_lost']:,.0f} in each run, {honest} in all"),
        ("the flooder asks", f"{of['flood_sent_per_s']:,.0f} times a second"),
        ("the flooder gets", f"{of['flooder_blocks_per_s']:,.0f} blocks/s, {refusals} refusals in all runs"),
        ("bridge, for each flooded request", f"{of['bridge_us_per_flooded']:.2f} µs"),
        ("mosquitto, for each flooded request", f"{of['mosquitto_us_per_flooded']:.2f} µs"),
        (
            "mosquitto meanwhile",
            f"had a CPU {of['mosquitto_cpu']:.0%} of the time, waited for one {of['mosquitto_waited']:.0%}",
        ),
        ("messages that mosquitto dropped", f"{of['broker_dropped']:,.0f} in each run"),
    ]
    return "\n".join(["| what | median |", "|---|---|", *(f"| {what} | {found} |" for what, found in rows)])
