"""`limits …`: fleet-wide caps on what is served, changed while everything runs."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ota_bridge.cli.output import when
from ota_bridge.cli.session import JsonOption, Session

commands = typer.Typer(
    invoke_without_command=True, help="Fleet-wide caps: blocks and bytes per second, simultaneous downloads."
)


@commands.callback()
def limits(context: typer.Context, as_json: JsonOption = False) -> None:
    """Fleet-wide caps: blocks and bytes per second, simultaneous downloads. Without a command, show them."""
    if context.invoked_subcommand is None:
        show(context, as_json=as_json)


@commands.command("show")
def show(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show the fleet-wide caps, and how they are used."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("limits.show", {})
    if not session.shown_as_json(None, answer):
        _print(session, answer.result)


@commands.command("set")
def change(
    context: typer.Context,
    blocks_per_s: Annotated[
        int | None, typer.Option("--blocks-per-s", metavar="N", help="Blocks per second to all devices; 0 lifts it.")
    ] = None,
    bytes_per_s: Annotated[
        int | None,
        typer.Option("--bytes-per-s", metavar="N", help="Bytes per second, packets as a whole; 0 lifts it."),
    ] = None,
    downloads: Annotated[
        int | None, typer.Option("--downloads", metavar="N", help="Devices that download at a time; 0 lifts it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change fleet-wide caps while everything runs; what is not named stays."""
    named = {"blocks_per_s": blocks_per_s, "bytes_per_s": bytes_per_s, "downloads": downloads}
    if all(value is None for value in named.values()):
        raise typer.BadParameter("name at least one of --blocks-per-s, --bytes-per-s, --downloads; 0 lifts it")
    session = Session.of(context, as_json=as_json)
    result = session.call("limits.set", named)
    if as_json:
        session.output.json(result)
    else:
        _print(session, result)


def _print(session: Session, limits: Mapping[str, Any]) -> None:
    used = limits.get("in_use") or {}
    session.output.facts(
        [
            ("blocks per second", limits["blocks_per_s"] or "no limit"),
            ("bytes per second", limits["bytes_per_s"] or "no limit"),
            ("downloads at a time", limits["downloads"] or "no limit"),
            ("set", f"{when(limits['set'])} by {limits['set_by']}" if limits["set"] else None),
            ("download slots held", used.get("slots_held") if limits["downloads"] else None),
            ("devices that wait", _waiting(used) if used and _is_any(limits) else None),
        ]
    )


def _is_any(limits: Mapping[str, Any]) -> bool:
    return bool(limits["blocks_per_s"] or limits["bytes_per_s"] or limits["downloads"])


def _waiting(used: Mapping[str, Any]) -> str:
    return f"{used['waiting_for_slot']} for a slot, {used['waiting_for_share']} for a share"
