"""`audit …`: who did what, and whether the record of it is whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ota_bridge.cli.output import when
from ota_bridge.cli.session import JsonOption, Session

commands = typer.Typer(no_args_is_help=True, help="The audit log: who did what, in a chain that can be verified.")

_CUT: Final = "an end that was cut off does not show here: keep the head elsewhere, and name it with --head"


@commands.command("list")
def show(
    context: typer.Context,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="What was done to a device.")] = None,
    rollout: Annotated[str | None, typer.Option(metavar="ROLLOUT", help="What was done to a rollout.")] = None,
    actor: Annotated[str | None, typer.Option(metavar="USER", help="What somebody did.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2026-01-31 or 2026-01-31T12:00:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the last of them.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """List what was done and tried, oldest first."""
    session = Session.of(context, as_json=as_json)
    args = {"device": device, "rollout": rollout, "actor": actor, "since": since, "limit": limit}
    answer = session.read("audit.list", args)
    if session.shown_as_json("entries", answer):
        return
    rows = [
        (one["n"], when(one["at"]), one["actor"], one["how"], one["action"], one["subject"], one["result"], _said(one))
        for one in answer.result
    ]
    columns = ("n", "when", "who", "known by", "action", "subject", "result", "detail")
    session.output.table(columns, rows, empty="nothing was done that fits")


def _said(entry: Mapping[str, Any]) -> str:
    detail = dict(entry["detail"])
    return json.dumps(detail.pop("args", detail), separators=(", ", ": "))


@commands.command("verify")
def verify(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A database, such as one out of a backup.")
    ] = None,
    head: Annotated[str | None, typer.Option(metavar="N:HEX", help="A head that was kept elsewhere.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the whole log. Whether its end was cut off shows only beside a head that was kept elsewhere."""
    session = Session.of(context, as_json=as_json)
    if file is None:
        result = session.read("audit.verify", {"head": head}).result
    else:
        from ota_bridge.cli.offline import read_file

        result, _ = read_file(session.config, file, "audit.verify", {} if head is None else {"head": head})
    if as_json:
        session.output.json(result)
    elif result["holds"]:
        session.output.say(f"the log holds: {result['entries']} entries, head {result['head']}")
        if head is None:
            session.output.note(_CUT)
    else:
        session.output.note(f"error: the log does not hold: {result['reason']}")
    if not result["holds"]:
        raise typer.Exit(1)
