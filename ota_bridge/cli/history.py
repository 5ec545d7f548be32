"""`history …`: what is old made small, now instead of in the next daily sweep."""

from typing import Annotated, Any

import typer

from ota_bridge.cli.session import JsonOption, Session

commands = typer.Typer(no_args_is_help=True, help="Old deployments and reports, made small.")


@commands.callback()
def history() -> None:
    """Old deployments and reports, made small."""


@commands.command("compact")
def compact(
    context: typer.Context,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", metavar="N", min=1, help="Keep so many days [history.keep_days].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compact what is older than history.keep_days; it may be interrupted and begun again."""
    session = Session.of(context, as_json=as_json)
    done = {"deployments": 0, "reports": 0}
    after: Any = None
    while True:
        result = session.call("history.compact", {"keep_days": keep_days, "after": after})
        done = {name: number + result[name] for name, number in done.items()}
        after = result["next"]
        if after is None:
            break
    if as_json:
        session.output.json(done)
    else:
        session.output.say(f"compacted {done['deployments']} deployments and removed {done['reports']} old reports")
