"""`token …`: what stands for a user where the kernel cannot say who it is."""

from typing import Annotated

import typer

from ota_bridge.cli.output import when
from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.config import TOKEN_ENV

commands = typer.Typer(no_args_is_help=True, help="Tokens: for programs, and people who are no users of the machine.")


@commands.command("list")
def show(
    context: typer.Context,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Those of one user.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens; their secrets are not kept."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("token.list", {"user": user})
    if session.shown_as_json("tokens", answer):
        return
    rows = [
        (
            one["name"],
            one["user"],
            one["state"],
            when(one["expires"]),
            one["id"],
            when(one["created"]),
            one["created_by"],
        )
        for one in answer.result
    ]
    columns = ("token", "user", "state", "expires", "id", "by")
    session.output.table(columns, rows, empty="no tokens yet; make one with `ota-bridge token new`")


@commands.command("new")
def new(
    context: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="Whom it stands for, as `user list` says.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called, such as ci.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=366, help="How long it is good for.", show_default="90")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token. It is shown now and never again."""
    session = Session.of(context, as_json=as_json)
    result = session.call("token.new", {"user": user, "name": name, "days": days})
    if as_json:
        session.output.json(result)
        return
    session.output.say(result["token"])
    session.output.note(f"token {name} stands for {user} until {when(result['expires'])}; it is not shown again")
    session.output.note(f"use it as {TOKEN_ENV} in the environment, or with `ota-bridge --token`")


@commands.command("revoke")
def revoke(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name or its id, as `token list` says.")],
    as_json: JsonOption = False,
) -> None:
    """End a token, from the next request on."""
    session = Session.of(context, as_json=as_json)
    result = session.call("token.revoke", {"token": token})
    if as_json:
        session.output.json(result)
    else:
        session.output.say(f"token {result['name']} of {result['user']} is revoked")
