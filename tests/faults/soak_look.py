"""What a soak reads of processes and files: /proc and sizes. What has ended meanwhile is left out."""

import contextlib
import os
from pathlib import Path

from tests.faults.soak_judge import BLOCKS, DAEMON, Process, Sample
from tests.harness import Site, worker_of

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def process(pid: int) -> Process:
    """One process now; OSError where it has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if "RssAnon" not in lines:
        raise ProcessLookupError(f"process {pid} has no memory any more")
    return Process(
        pid=pid,
        anon_kib=int(lines["RssAnon"].split()[0]),
        fds=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=int(lines["Threads"]),
    )


def look(here: Site, second: float) -> Sample:
    """The daemon, its block process and its database now."""
    found: dict[str, Process] = {}
    assert here.process is not None
    with contextlib.suppress(OSError):
        found[DAEMON] = process(here.process.pid)
    with contextlib.suppress(OSError, ValueError):
        found[BLOCKS] = process(worker_of(here))
    database = here.data / "ota-bridge.sqlite"
    return Sample(
        second=round(second, 2),
        processes=found,
        database_bytes=_size(database),
        wal_bytes=_size(database.with_name(f"{database.name}-wal")),
    )


def busy_s(pid: int | None) -> float:
    """Processor time that a process has used, None being this one; with what its ended children used."""
    fields = (
        Path(f"/proc/{pid or 'self'}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    return sum(map(int, fields[11:15])) / TICKS_PER_S


def _size(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.stat().st_size
    return 0
