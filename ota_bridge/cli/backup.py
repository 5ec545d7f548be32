"""`backup` and `restore`: the database and the artifacts in one file, and back."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ota_bridge.cli.output import ago, size, when
from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.core.errors import OperatorError
from ota_bridge.core.views import iso
from ota_bridge.web.local_client import DaemonNotRunning

_NAME: Final = "ota-bridge-%Y%m%dT%H%M%SZ.tar"
_EXIT_INCOMPLETE: Final = 1


def backup(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="[default: ota-bridge-TIME.tar in this directory]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the database and every artifact that it names to one file, while the daemon runs or not.

    Exit code 1 if an artifact was missing or damaged: the backup is made, and says which.
    """
    session = Session.of(context, as_json=as_json)
    name = f"{datetime.now(UTC):{_NAME}}"
    target = (Path(name) if file is None else file / name if file.is_dir() else file).absolute()
    try:
        made = _by_the_daemon(session, target)
    except DaemonNotRunning:
        made = _directly(session, target)
    if as_json:
        session.output.json(made)
    else:
        session.output.say(
            f"{made['file']}: {size(made['size_bytes'])}, {made['devices']} devices, {made['releases']} releases, "
            f"{made['artifacts']} artifacts, as of {when(made['as_of'] or made['taken'])}"
        )
    if made["missing"]:
        session.output.note(f"warning: the backup lacks {_named(made['missing'])}; add the files again")
        raise typer.Exit(_EXIT_INCOMPLETE)


def _by_the_daemon(session: Session, target: Path) -> Mapping[str, Any]:
    with session.output.bar(f"writing {target.name}", 1) as bar:
        for told in session.client().stream("backup", {"file": str(target)}):
            if "made" in told:
                made: Mapping[str, Any] = told["made"]
                return made
            bar.update(bar.task_ids[0], completed=told["done"], total=told["total"])
    raise OperatorError("the daemon ended the backup without a word; its log may say why")


def _directly(session: Session, target: Path) -> Mapping[str, Any]:
    from ota_bridge.backup import backup_view
    from ota_bridge.daemon import DATABASE
    from ota_bridge.store.backup import Progress, make_backup

    data_dir = session.config.data_dir
    with session.output.bar(f"writing {target.name}", 1) as bar:
        progress = Progress(told=lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total))
        return backup_view(
            make_backup(data_dir / DATABASE, data_dir, target, taken_s=int(time.time()), progress=progress)
        )


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `backup` wrote it, or a copy of a database.")],
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the daemon keeps its data.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of what a stopped daemon left; what was there is kept aside."""
    from ota_bridge.daemon import DATABASE
    from ota_bridge.store.backup import Progress
    from ota_bridge.store.restore import restore as put_back

    session = Session.of(context, as_json=as_json)
    if data_dir is not None:
        session.flags["data_dir"] = str(data_dir)
    with session.output.bar(f"reading {file.name}", 1) as bar:
        progress = Progress(told=lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total))
        done = put_back(file, session.config.data_dir, DATABASE, wall=time.time(), progress=progress)
    as_of = iso(done.as_of_s)
    if as_json:
        session.output.json(
            {
                "data_dir": str(done.data_dir),
                "as_of": as_of,
                "schema": done.schema,
                "devices": done.devices,
                "releases": done.releases,
                "artifacts": done.artifacts,
                "missing": list(done.missing),
                "aside": str(done.aside) if done.aside else None,
            }
        )
    else:
        session.output.say(
            f"{done.data_dir} is as of {when(as_of)} ({ago(as_of)}): {done.devices} devices, {done.releases} releases"
        )
        if done.aside is not None:
            session.output.say(f"what was there before is in {done.aside}")
        session.output.note(
            "start the daemon: what devices report from then on counts, whatever the backup says of them"
        )
    if done.missing:
        session.output.note(f"warning: the files of {_named(done.missing)} are not there; add them again")


def _named(what: "list[str] | tuple[str, ...]") -> str:
    shown = ", ".join(what[:5])
    return shown if len(what) <= 5 else f"{shown} and {len(what) - 5} more"  # noqa: PLR2004 - a sentence's length
