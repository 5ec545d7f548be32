"""`user …`: who may do what."""

from typing import Annotated, Final

import typer

from ota_bridge.cli.output import when
from ota_bridge.cli.session import JsonOption, Session

commands = typer.Typer(no_args_is_help=True, help="Users and their roles: author, approver, operator, viewer, admin.")

ROLES: Final = "viewer|operator|approver|author|admin"

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="As the system calls them, or any name for tokens.")]


@commands.command("list")
def show(context: typer.Context, as_json: JsonOption = False) -> None:
    """List users with their roles."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("user.list", {})
    if session.shown_as_json("users", answer):
        return
    rows = [(one["name"], ", ".join(one["roles"]), when(one["created"]), one["created_by"]) for one in answer.result]
    empty = "no users yet: whoever can open the socket may do everything; begin with `ota-bridge user add`"
    session.output.table(("user", "roles", "since", "by"), rows, empty=empty)


@commands.command("add")
def add(
    context: typer.Context,
    user: UserArgument,
    roles: Annotated[list[str], typer.Option("--role", metavar=ROLES, help="May be repeated.")],
    as_json: JsonOption = False,
) -> None:
    """Give somebody roles; with the first user, roles begin to count."""
    session = Session.of(context, as_json=as_json)
    result = session.call("user.add", {"user": user, "roles": roles})
    if as_json:
        session.output.json(result)
    else:
        session.output.say(f"user {result['name']}: {', '.join(result['roles'])}")


@commands.command("roles")
def roles(
    context: typer.Context,
    user: UserArgument,
    add: Annotated[list[str] | None, typer.Option("--add", metavar=ROLES, help="May be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar=ROLES, help="May be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Give and take roles; the user's tokens follow at once."""
    if not add and not remove:
        raise typer.BadParameter("name at least one role with --add or --remove")
    session = Session.of(context, as_json=as_json)
    result = session.call("user.roles", {"user": user, "add": add, "remove": remove})
    if as_json:
        session.output.json(result)
    else:
        session.output.say(f"user {result['name']}: {', '.join(result['roles'])}")


@commands.command("remove")
def remove(context: typer.Context, user: UserArgument, as_json: JsonOption = False) -> None:
    """Take everything away from somebody, and revoke the tokens."""
    session = Session.of(context, as_json=as_json)
    result = session.call("user.remove", {"user": user})
    if as_json:
        session.output.json(result)
        return
    session.output.say(f"user {result['name']} is removed; tokens revoked: {result['revoked']}")
    if not result["users"]:
        session.output.note("that was the last user: whoever can open the socket may do everything again")
