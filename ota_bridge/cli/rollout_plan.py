"""Plan files on the command line: `rollout check`, `schema`, `example`, and what `rollout start --plan` reads.

What is wrong with a file is shown with its lines, all of it at once; with `--json` as `problems` of the error.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.core.errors import InvalidInput
from ota_bridge.web.local_client import DaemonNotRunning

if TYPE_CHECKING:
    from ota_bridge.plan_file import PlanFile, PlanFileError


def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan file, TOML or YAML.")],
    as_json: JsonOption = False,
) -> None:
    """Check a plan file; with a daemon or its database, also that the release is there and that it could be started."""
    session = Session.of(context, as_json=as_json)
    with problems_told(session):
        found = read_plan(file)
        with placed(found):
            asked = _asked(session, found)
    stages = [str(stage) for stage in found.plan.stages]
    if as_json:
        session.output.json({"file": str(file), **found.arguments, "stages": stages, "asked": asked is not None})
        return
    session.output.say(f"{file}: {found.release} to {_whom(found.target)}")
    for number, stage in enumerate(stages, start=1):
        session.output.say(f"  {number}. {stage}")


def schema() -> None:
    """Print the JSON Schema of plan files, for editors."""
    from ota_bridge.plan_file import plan_schema

    sys.stdout.write(json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n")


def example() -> None:
    """Print a plan file to begin with: canary, a tenth, half, the rest."""
    from ota_bridge.plan_file.example import EXAMPLE

    sys.stdout.write(EXAMPLE)


def read_plan(file: Path) -> "PlanFile":
    """A plan file whose queries compile and whose windows open; raises PlanFileError."""
    from ota_bridge.calendars import CronCalendar
    from ota_bridge.plan_file import read_plan_file
    from ota_bridge.queries import CelQueries

    return read_plan_file(file, query=CelQueries(), window=CronCalendar().check)


def changed(plan: Mapping[str, Any], *, start: str | None, urgent: bool) -> dict[str, Any]:
    """A plan as it is sent, with what the command line says beside it."""
    from ota_bridge.plan_file.values import Instant, Wrong

    found = dict(plan)
    if start is not None:
        try:
            found["start_wall"] = Instant().value(start)
        except Wrong as wrong:
            raise typer.BadParameter(f"--start: {wrong}") from wrong
    if urgent:
        found["is_urgent"] = True
    return found


@contextmanager
def placed(found: "PlanFile") -> Iterator[None]:
    """What the daemon says of a part of the plan is said of its place in the file."""
    try:
        yield
    except InvalidInput as error:
        raise found.placed(error) from error


@contextmanager
def problems_told(session: Session) -> Iterator[None]:
    """Show all that is wrong with a file, and end."""
    from ota_bridge.plan_file import PlanFileError

    try:
        yield
    except PlanFileError as error:
        if session.as_json:
            session.output.json({"error": _as_json(error)})
        session.output.note(error.shown())
        count = len(error.problems)
        session.output.note(f"error: {error.file}: {count} problem" + ("s" if count > 1 else ""))
        raise typer.Exit(1) from error


def _as_json(error: "PlanFileError") -> dict[str, Any]:
    problems = [
        {"file": error.file, "line": one.mark.line, "column": one.mark.column, "message": one.message}
        for one in error.problems
    ]
    return {"code": error.code, "message": str(error), "problems": problems}


def _asked(session: Session, found: "PlanFile") -> Mapping[str, Any] | None:
    """What the daemon or its database says to it; None where there is neither."""
    try:
        answer = session.read("rollout.check", found.arguments)
    except DaemonNotRunning:
        session.output.note("no daemon is running and there is no database: releases and devices were not looked at")
        return None
    checked: Mapping[str, Any] = answer.result
    return checked


def _whom(target: Mapping[str, Any]) -> str:
    if "devices" in target:
        return f"{len(target['devices'])} named"
    share = f"{target['percent']} %" if "percent" in target else "all"
    return f"{share} where {target['where']}" if "where" in target else share
