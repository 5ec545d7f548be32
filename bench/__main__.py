"""What the bridge costs, beside other servers of the same blocks and beside what mosquitto spends.

`python bench` measures the table, `python bench all` (= `make bench`) everything below it, and writes
docs/bench.json, docs/bench.svg and the figures of docs/performance.md. Stacks take turns, round by round, so that a
noisy machine is equally unfair to all. Trust the ratios, not the absolute figures.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import airtime
import chart
import flood
import memory
import mixed
import report
import rollout
from measure import DEVICES, SECONDS, lasting, measure
from quick import quick
from rows import ROWS, STACK_DOCS, STACKS
from stacks import missing, running

WHAT = {
    "table": "CPU per block, side by side",
    "flood": "one hostile device beside honest ones",
    "airtime": "bytes on the wire by block size and window",
    "mixed": "blocks, reports and a planner over 100,000 devices in one daemon",
    "memory": "what devices cost, and a large image at many places at once",
    "rollout": "the rollout engine: planner, reports with a kill, memory, bytes, slots",
    "all": "all but the rollout engine, written into docs/",
    "quick": "everything for a moment: is every block right?",
    "draw": "the chart and the page again, from docs/bench.json",
}
FLOOD_SECONDS, AIRTIME_SECONDS, HALF = 5.0, 1.5, 0.5


class Progress:
    """One line on stderr for each measurement, with the time that is left."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self.began = 0, total, time.monotonic()

    def __call__(self, what: str) -> None:
        left = ""
        if self.done:
            minutes = (time.monotonic() - self.began) / self.done * (self.total - self.done) / 60
            left = f", {minutes:.1f} min left"
        self.done += 1
        print(f"[{self.done}/{self.total}] {what}{left}", file=sys.stderr, flush=True)


def pairs(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The rows and stacks to measure; what this machine cannot run is named and left out."""
    for stack in args.stack or STACKS:
        why = missing(stack)
        if why:
            print(f"{stack}: left out, {why}", file=sys.stderr)
    for name in args.shape or ROWS:
        for stack in ROWS[name].stacks:
            if stack in (args.stack or STACKS) and not missing(stack):
                yield name, stack


def measure_table(args: argparse.Namespace, directory: Path, progress: Progress, chosen: list) -> list[dict]:
    runs: dict[tuple[str, str], list[dict]] = {pair: [] for pair in chosen}
    for number in range(1, args.rounds + 1):
        for name, stack in chosen:
            progress(f"round {number} of {args.rounds}: {name} {stack}")
            row = ROWS[name]
            with running(stack, directory, tls=row.tls) as serving:
                runs[name, stack].append(
                    measure(directory, serving, row, devices=args.devices, **lasting(row, args.devices, args.seconds))
                )
    return [
        {"row": name, "stack": stack, "command": command(args, f"--stack {stack} --shape {name}"), "runs": found}
        for (name, stack), found in runs.items()
    ]


def measure_flood(args: argparse.Namespace, directory: Path, progress: Progress) -> dict:
    runs = []
    for number in range(1, args.rounds + 1):
        progress(f"round {number} of {args.rounds}: flood")
        runs.append(flood.flood(directory, seconds=FLOOD_SECONDS, share=args.share))
    words = "flood" if args.share == HALF else f"flood --share {args.share:g}"
    return {"command": command(args, words), "runs": runs}


def measure_airtime(directory: Path, progress: Progress) -> dict:
    points = []
    with running("bridge", directory) as serving:
        for number, (block, window) in enumerate(airtime.POINTS):
            progress(f"airtime of {block} bytes, window {window}")
            found = airtime.airtime(directory, serving, block, window, seconds=AIRTIME_SECONDS, first=number)
            points.append(found)
    return {"command": "python bench airtime", "points": points}


def measure_memory(directory: Path, progress: Progress) -> dict:
    progress("memory of 10,000 open deployments")
    found = {"command": "python bench memory", "table": memory.table_memory(fresh(directory, "table"))}
    found["large"] = []
    for rate in (0, 3000):
        progress(f"memory with a large image, {rate or 'no'} limit of requests/s")
        found["large"].append(memory.large_memory(fresh(directory, f"large-{rate}"), rate=rate))
    return found


def measure_mixed(args: argparse.Namespace, directory: Path, progress: Progress) -> dict:
    progress("blocks, reports and a planner")
    mix = mixed.Mix(fleet=args.fleet)
    words = "mixed" if args.fleet == mixed.Mix().fleet else f"mixed --fleet {args.fleet}"
    return {"command": f"python bench {words}", "rows": mixed.measure(mix, fresh(directory, "mixed"))}


def fresh(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path


def command(args: argparse.Namespace, words: str) -> str:
    """What measures one figure again."""
    more = [f"--rounds {args.rounds}"]
    if args.seconds != SECONDS:
        more.append(f"--seconds {args.seconds:g}")
    if args.devices != DEVICES:
        more.append(f"--devices {args.devices}")
    return " ".join(["python bench", words, *(more if not words.startswith("flood") else more[:1])])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            f"  {name:<14}{doc}" if doc else f"{name}:"
            for name, doc in [
                ("what", ""),
                *WHAT.items(),
                ("stacks", ""),
                *STACK_DOCS.items(),
                ("shapes", ""),
                *((row.name, row.title) for row in ROWS.values()),
            ]
        ),
    )
    parser.add_argument("what", choices=WHAT, nargs="?", default="table", help="see below [table]", metavar="what")
    parser.add_argument("--stack", choices=STACKS, action="append", help="of the table; may be repeated [all]")
    parser.add_argument("--shape", choices=ROWS, action="append", help="row of the table; may be repeated [all]")
    parser.add_argument("--devices", type=int, default=DEVICES, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement of the table [%(default)g]")
    parser.add_argument("--share", type=float, default=HALF, help="of flood: what honest devices use [%(default)g]")
    parser.add_argument(
        "--fleet", type=int, default=100_000, help="of mixed and rollout: devices that report [%(default)s]"
    )
    parser.add_argument("--rate", type=float, default=rollout.RATE, help="of rollout: reports a second [%(default)g]")
    parser.add_argument("--quick", action="store_true", help="of rollout: a moment of each, correctness only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="merge the results, run by run, into FILE")
    return parser.parse_args()


def draw() -> None:
    results = report.load_results(report.RESULTS)
    if results.get("rows"):
        report.CHART.write_text(chart.drawn(results))
    report.PAGE.write_text(report.rendered(report.PAGE.read_text(), results))


def main() -> int:
    args = parsed()
    if args.what == "quick":
        return quick()
    if args.what == "rollout" and args.quick:
        return rollout.quick()
    wanted = {"table", "flood", "airtime", "memory", "mixed"} if args.what == "all" else {args.what}
    chosen = list(pairs(args)) if "table" in wanted else []
    rounds = len(chosen) + ("flood" in wanted)
    progress = Progress(
        args.rounds * rounds
        + (len(airtime.POINTS) if "airtime" in wanted else 0)
        + 3 * ("memory" in wanted)
        + ("mixed" in wanted)
        + 5 * ("rollout" in wanted)
    )
    target = report.RESULTS if args.what == "all" else args.json
    with tempfile.TemporaryDirectory(prefix="ota-bench-") as name:
        found = {}
        if chosen:
            found["rows"] = measure_table(args, Path(name), progress, chosen)
            print(report.table(found["rows"]), flush=True)
        if "flood" in wanted:
            found["flood"] = measure_flood(args, Path(name), progress)
            print(f"\n{flood.table(found['flood']['runs'])}", flush=True)
        if "airtime" in wanted:
            found["airtime"] = measure_airtime(Path(name), progress)
            print(f"\n{airtime.table(found['airtime']['points'])}", flush=True)
        if "mixed" in wanted:
            found["mixed"] = measure_mixed(args, Path(name), progress)
            print(f"\n{mixed.table(found['mixed']['rows'])}", flush=True)
        if "memory" in wanted:
            found["memory"] = measure_memory(Path(name), progress)
            print(f"\n{memory.lines(found['memory']['table'], found['memory']['large'])}", flush=True)
        if "rollout" in wanted:
            seconds = rollout.SECONDS if args.seconds == SECONDS else args.seconds
            options = {"fleet": args.fleet, "rate": args.rate, "seconds": seconds}
            words = "rollout" if seconds == rollout.SECONDS else f"rollout --seconds {seconds:g}"
            measured = rollout.measure(fresh(Path(name), "rollout"), progress, **options)
            found["rollout"] = {"command": f"python bench {words}", **measured}
            print(f"\n{rollout.table(found['rollout'])}", flush=True)
    if target and found:
        report.merge(target, found)
    if args.what in {"all", "draw"}:
        draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())
