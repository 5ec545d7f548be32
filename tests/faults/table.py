"""The last results as a table in Markdown, for docs/reliability.md."""

import time
from pathlib import Path

from tests.faults.registry import FAMILIES
from tests.faults.runs import RESULTS, Tally, read_lines


def table() -> str:
    """One row for each family: its newest results with everything committed, else its newest."""
    rows = [
        "| family | runs | seeds | broken | what was hit | run time | commit | date |",
        "|---|--:|---|--:|---|--:|---|---|",
    ]
    for name in FAMILIES:
        files = sorted(RESULTS.glob(f"*/{name}.*.jsonl"), key=_age)
        if files:
            rows.append(_row(name, files[0]))
    return "\n".join(rows)


def _age(file: Path) -> tuple[bool, float]:
    return file.parent.name.endswith("-dirty"), -file.stat().st_mtime


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
