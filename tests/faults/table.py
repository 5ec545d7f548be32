"""The last results as a table in Markdown, for docs/reliability.md."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.families import Family
from tests.faults.registry import FAMILIES
from tests.faults.runs import RESULTS, Tally, read_lines

WHOLE_SOAK_MINUTES = 60


def table() -> str:
    """One row for each family and the soak: newest results of a whole size with all committed, else what there is."""
    rows = [
        "| family | runs | seeds | broken | what was hit | run time | commit | date |",
        "|---|--:|---|--:|---|--:|---|---|",
    ]
    for name in FAMILIES:
        files = list(RESULTS.glob(f"*/{name}.*.jsonl"))
        if files:
            rows.append(_row(name, max(files, key=partial(_worth, FAMILIES[name]))))
    soaks = [(json.loads(file.read_text(encoding="utf-8")), file) for file in RESULTS.glob("*/soak.*.summary.json")]
    if soaks:
        rows.append(_soak_row(*max(soaks, key=_soak_worth)))
    return "\n".join(rows)


def _soak_worth(found: tuple[dict[str, Any], Path]) -> tuple[bool, bool, float]:
    summary, file = found
    return not file.parent.name.endswith("-dirty"), summary["minutes"] >= WHOLE_SOAK_MINUTES, summary["ended_s"]


def _soak_row(summary: dict[str, Any], file: Path) -> str:
    missed = sum(goal["held"] is False for goal in summary["goals"])
    struck = sum(summary["strikes"].values()) + sum(summary["lines_struck"].values())
    hit = f"{summary['devices']:,} devices, {summary['deployments'].get('CONFIRMED', 0):,} updates, {struck:,} faults"
    memory = next(goal["found"] for goal in summary["goals"] if " and " in goal["name"])
    day = time.strftime("%Y-%m-%d", time.gmtime(summary["ended_s"]))
    return (
        f"| soak | 1 | {summary['seed']:,} | {missed} | {hit}; memory {memory} | {summary['minutes']:.1f} min"
        f" | `{file.parent.name}` | {day} |"
    )


def _worth(family: Family, file: Path) -> tuple[bool, bool, float]:
    is_whole = sum(1 for _ in read_lines(file)) >= family.faults
    return not file.parent.name.endswith("-dirty"), is_whole, file.stat().st_mtime


def _row(name: str, file: Path) -> str:
    tally, seeds = Tally(), []
    for line in read_lines(file):
        tally.add(line)
        seeds.append(line["seed"])
    hit = ", ".join(f"{word} {count:,}" for word, count in tally.words.most_common())
    minutes = f"{tally.seconds / 60:.1f} min"
    day = time.strftime("%Y-%m-%d", time.gmtime(file.stat().st_mtime))
    span = f"{min(seeds, default=0):,}–{max(seeds, default=0):,}"
    tree = file.parent.name
    return f"| {name} | {tally.runs:,} | {span} | {len(tally.broken)} | {hit} | {minutes} | `{tree}` | {day} |"
