"""`python bench/rehearsal.py`: does a rehearsal say what a real rollout then does?

One mosquitto, one daemon with its shipped settings, one `device-sim` fleet, and one plan file that is rehearsed and
then started. Compared are the times at which stages open and all have succeeded, and how many devices ended how.
Exits with 1 where a time is off by more than a fifth or a count by more than three standard deviations.
"""

import argparse
import contextlib
import json
import math
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stacks import Bridge, mosquitto, process, until

PLAN = """
release = "demo/2.0.0"
to = "all"

[[stage]]
name = "canary"
devices = 5
success = {{ share = "60 %", soak = "5s" }}

[[stage]]
name = "tenth"
percent = 10
success = {{ share = "{share} %" }}

[[stage]]
name = "half"
percent = 50
success = {{ share = "{share} %" }}

[[stage]]
name = "rest"
success = {{ share = "{share} %" }}
"""
OFF = 0.2
SIGMAS = 3.0
EVERY_S = 0.2


def enrolled(database: Path) -> int:
    """How many devices have checked in, asked of the file: the daemon is not disturbed."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(*) FROM devices").fetchone()[0]


def told(bridge: Bridge, *words: str):
    done = subprocess.run(
        [*bridge.command, *bridge.flags, *words, "--json"],
        check=False,
        cwd=bridge.directory,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def rehearsed(bridge: Bridge, args) -> dict[str, object]:
    """When the stages open, when all is through, and the counts, as the rehearsal says."""
    began = time.monotonic()
    options = ["--devices", str(args.devices), "--seed", str(args.seed), "--link", f"{args.link}B/s"]
    options += ["--fail", f"{args.fail}%", "--site", f"{args.site}B/s"] if args.site else ["--fail", f"{args.fail}%"]
    view = told(bridge, "rollout", "rehearse", "plan.toml", *options)
    (rollout,) = view["rollouts"]
    return {
        "opened": [stage["opened_s"] for stage in rollout["stages"]], "through": rollout["through_s"],
        "counts": rollout["counts"], "took_s": time.monotonic() - began, "last": view["last_end_s"],
    }  # fmt: skip


def really(bridge: Bridge, args) -> dict[str, object]:
    """The same of the rollout, by the clock of whoever looks at it."""
    from ota_bridge.web.local_client import LocalClient

    client = LocalClient(bridge.database.parent / "ota-bridge.sock", answer_s=60)
    began = time.monotonic()
    told(bridge, "rollout", "start", "--plan", "plan.toml")
    began = time.monotonic() - (time.monotonic() - began) / 2
    opened: dict[int, float] = {}
    through = last = None
    one = {}
    while time.monotonic() - began < args.limit_s:
        (one,) = client.call("rollout.list", {})
        now_s = time.monotonic() - began
        for number, stage in enumerate(one["stages"]):
            if stage["state"] != "waiting":
                opened.setdefault(number, now_s)
        if one["stages"][-1]["state"] == "done" and through is None:
            through = now_s
        if one["complete"]:
            last = now_s
            break
        time.sleep(EVERY_S)
    return {"opened": list(opened.values()), "through": through, "last": last, "counts": one["counts"]}


def compared(plan: dict, real: dict, devices: int) -> bool:
    """Print both; True if the rehearsal was near enough."""
    rows = [
        (f"stage {number + 1} opens", *pair)
        for number, pair in enumerate(zip(plan["opened"], real["opened"], strict=False))
    ]
    rows += [
        ("all have succeeded", plan["through"], real["through"]),
        ("the last one ends", plan["last"], real["last"]),
    ]
    good = len(plan["opened"]) == len(real["opened"])
    for name, said, came in rows:
        if said is None or came is None:
            print(f"{name:<20} {said} {came}")
            good = False
            continue
        off = abs(said - came)
        is_near = off <= OFF * came or off < 2.0  # the planner looks once a second
        good = good and is_near
        share = (said - came) / max(came, 1e-9)
        print(f"{name:<20} rehearsed {said:7.1f} s  real {came:7.1f} s  {share:+6.1%}  {'' if is_near else 'OFF'}")
    for state in sorted({*plan["counts"], *real["counts"]}):
        said, came = plan["counts"].get(state, 0), real["counts"].get(state, 0)
        sigma = math.sqrt(max(said * (devices - said) / devices, 1.0))
        is_near = abs(said - came) <= SIGMAS * sigma
        good = good and is_near
        print(f"{state:<20} rehearsed {said:7,}    real {came:7,}    {'' if is_near else 'OFF'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--link", type=int, default=8000, help="bytes per second of one device [%(default)s]")
    parser.add_argument("--site", type=int, default=0, help="bytes per second of all; 0: no limit [%(default)s]")
    parser.add_argument("--size", type=int, default=64 * 1024, help="of the image [%(default)s]")
    parser.add_argument(
        "--fail", type=float, default=2.0, help="percent of the devices that never confirm [%(default)g]"
    )
    parser.add_argument("--share", type=float, default=90.0, help="percent that a stage waits for [%(default)g]")
    parser.add_argument("--limit-s", type=float, default=600.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ota-rehearsal-") as name, mosquitto(Path(name)) as broker:
        directory = Path(name)
        bridge = Bridge(directory, broker)
        bridge("keys", "new", "--vendor", "example.com")
        (directory / "plan.toml").write_text(PLAN.format(share=args.share))
        (directory / "fw.bin").write_bytes(bytes(range(256)) * (args.size // 256))
        with bridge.serving():
            bridge("release", "add", "fw.bin", "--product", "demo", "--version", "2.0.0", "--hw", "r1")
            command = [
                sys.executable, "-m", "device_sim", "run", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--count",
                str(args.devices), "--pace", str(args.link), "--fault", "never_confirm", "--fault-count",
                str(round(args.devices * args.fail / 100)), "--telemetry-hz", "0", "--stay", "--timeout-s", "1200",
                "--slot-kib", "1024", "--seed", str(args.seed), "--connect-timeout-s", "200", "--json",
            ]  # fmt: skip
            with process(command, directory / "devices.log", cwd=directory):
                for _ in range(20):
                    with contextlib.suppress(TimeoutError):
                        until(
                            lambda: enrolled(bridge.database) >= args.devices, "all check in", directory / "devices.log"
                        )
                        break
                time.sleep(3)
                plan = rehearsed(bridge, args)
                real = really(bridge, args)
    print(f"{args.devices} devices, seed {args.seed}; rehearsed in {plan['took_s']:.1f} s")
    return 0 if compared(plan, real, args.devices) else 1


if __name__ == "__main__":
    sys.exit(main())
