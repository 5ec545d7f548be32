"""The results as people read them: the table, and the generated parts of docs/performance.md."""

import json
import os
import platform
import re
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import airtime
import flood
import memory
import mixed
import rollout
from rows import ROWS
from stacks import HERE, tool

DOCS = HERE.parent / "docs"
RESULTS, CHART, PAGE = DOCS / "bench.json", DOCS / "bench.svg", DOCS / "performance.md"
REGION = re.compile(r"(<!-- bench: (\w+) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)
NOTHING_YET = "*Not measured yet; `make bench` writes it here.*"
MIB = 1 << 20


def median(runs: list[dict], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def span(runs: list[dict], name: str, digits: int) -> str:
    """Median, and in brackets minimum and maximum."""
    found = [run[name] for run in runs]
    return f"{statistics.median(found):.{digits}f} ({min(found):.{digits}f}–{max(found):.{digits}f})"


def table(rows: list[dict]) -> str:
    """All rows, each with the command that measures it again."""
    names = ("row", "stack", "server µs/block", "mosquitto µs/block", "ratio", "goal", "blocks/s", "p50 ms", "p99 ms")
    names += ("lost", "command")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for result in rows:
        row, stack, runs = ROWS[result["row"]], result["stack"], result["runs"]
        has_broker = "ratio" in runs[0]
        cells = [
            row.title,
            stack,
            span(runs, "server_us", 2),
            span(runs, "mosquitto_us", 1) if has_broker else "–",
            span(runs, "ratio", 2) if has_broker else "–",
            f"≤ {row.goal:.2f}" if stack == "bridge" else "",
            f"{median(runs, 'blocks_per_s'):,.0f}",
            f"{median(runs, 'p50_ms'):.2f}",
            f"{median(runs, 'p99_ms'):.2f}",
            f"{sum(run['lost'] for run in runs):,}",
            f"`{result['command']}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> dict[str, str | int | None]:
    """Where the figures are from."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _first(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "mosquitto": _first(r"version (\S+)", _said("mosquitto", "-h")),
        "nginx": _first(r"nginx/(\S+)", _said("nginx", "-v")),
        "date": datetime.now(tz=UTC).date().isoformat(),
    }


def _first(pattern: str, said: str) -> str | None:
    found = re.search(pattern, said)
    return found[1] if found else None


def _said(name: str, option: str) -> str:
    path = tool(name)
    done = path and subprocess.run([path, option], check=False, capture_output=True, text=True)
    return done.stdout + done.stderr if done else ""


# --- the regions of docs/performance.md ---------------------------------------------------------------------------


def runs_of(results: dict, row: str, stack: str) -> list[dict]:
    return next((one["runs"] for one in results.get("rows", []) if (one["row"], one["stack"]) == (row, stack)), [])


def _machine(results: dict) -> str:
    found = results["machine"]
    generator = results["rows"][0]["runs"][0]["generator"]
    least = min(len(one["runs"]) for one in results["rows"])
    return (
        f"{found['date']}: {found['cpus']} CPUs ({found['cpu']}), Linux {found['kernel']}, Python {found['python']}, "
        f"mosquitto {found['mosquitto']}, loopback; load generator in {generator}; medians of {least} interleaved "
        "rounds with minimum and maximum."
    )


def _capacity(results: dict) -> str:
    lines = [
        "| a device asks for | blocks/s | MiB/s | an image of 1 MiB for 10,000 devices takes |",
        "|---|---|---|---|",
    ]
    for name in ("4096x1", "1024x16", "256x1", "4096x1+tls"):
        row, runs = ROWS[name], runs_of(results, name, "bridge")
        if runs:
            per_s = median(runs, "blocks_per_s")
            minutes = 10_000 * MIB / (per_s * row.block_bytes) / 60
            mib_per_s = per_s * row.block_bytes / MIB
            lines.append(f"| {row.title} | {per_s:,.0f} | {mib_per_s:,.0f} | {minutes:,.0f} min |")
    return "\n".join(lines)


def _http(results: dict) -> str:
    lines = [
        "| block | bridge | bridge and mosquitto | nginx |",
        "|---|---|---|---|",
    ]
    for name in ("4096x1", "256x1"):
        ours, nginx = runs_of(results, name, "bridge"), runs_of(results, name, "nginx")
        if ours:
            bridge_us, broker_us = median(ours, "server_us"), median(ours, "mosquitto_us")
            theirs = f"{median(nginx, 'server_us'):.1f} µs" if nginx else "not measured"
            size = f"{ROWS[name].block_bytes:,} B"
            lines.append(f"| {size} | {bridge_us:.1f} µs | {bridge_us + broker_us:.1f} µs | {theirs} |")
    return "\n".join(lines)


def _with_command(written: str, command: str) -> str:
    return f"{written}\n\nMeasured with `{command}`."


REGIONS = {
    "machine": _machine,
    "table": lambda results: table(results["rows"]),
    "capacity": _capacity,
    "http": _http,
    "flood": lambda results: _with_command(flood.table(results["flood"]["runs"]), results["flood"]["command"]),
    "airtime": lambda results: _with_command(
        airtime.table(results["airtime"]["points"]), results["airtime"]["command"]
    ),
    "memory": lambda results: _with_command(
        memory.lines(results["memory"]["table"], results["memory"]["large"]), results["memory"]["command"]
    ),
    "mixed": lambda results: _with_command(mixed.table(results["mixed"]["rows"]), results["mixed"]["command"]),
    "rollout": lambda results: _with_command(rollout.table(results["rollout"]), results["rollout"]["command"]),
}


def rendered(page: str, results: dict) -> str:
    """`page` with its measured parts written anew; KeyError names a region that nothing writes."""

    def region(found: "re.Match[str]") -> str:
        write = REGIONS[found[2]]
        needed = found[2] if found[2] in {"flood", "airtime", "memory", "mixed", "rollout"} else "rows"
        return f"{found[1]}\n{write(results) if results.get(needed) else NOTHING_YET}\n\n{found[4]}"

    return REGION.sub(region, page)


def load_results(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def merge(path: Path, found: dict) -> dict:
    """`found` beside what the file holds of other rows; rows that were measured again are replaced."""
    results = load_results(path)
    rows = {(one["row"], one["stack"]): one for one in [*results.get("rows", []), *found.get("rows", [])]}
    order = [(name, stack) for name, row in ROWS.items() for stack in row.stacks]
    results |= {name: value for name, value in found.items() if name != "rows"} | {"machine": machine()}
    results["rows"] = [rows[pair] for pair in order if pair in rows]
    path.write_text(json.dumps(results, indent=1) + "\n")
    return results
