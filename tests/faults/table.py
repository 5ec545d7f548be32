"""The last results as a table in Markdown, for docs/reliability.md."""

import time
from functools import partial
from pathlib import Path

from tests.faults.families import Family
from tests.faults.registry import FAMILIES
from tests.faults.runs import RESULTS, Tally, read_lines


def table() -> str:
    """One row for each family: its newest results of a whole size with everything committed, else what there is."""
    rows = [
        "| family | runs | seeds | broken | what was hit | run time | commit | date |",
        "|---|--:|---|--:|---|--:|---|---|",
    ]
    for name in FAMILIES:
        files = list(RESULTS.glob(f"*/{name}.*.jsonl"))
        if files:
            rows.append(_row(name, max(files, key=partial(_worth, FAMILIES[name]))))
    return "\n".join(rows)


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
