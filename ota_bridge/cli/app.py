"""`ota-bridge`: the command line.

Exit codes: 0 done, 1 refused or failed, 2 the command line or configuration cannot be understood, 3 no daemon runs.
Every error is one sentence on stderr (with `--json` an object on stdout, too), never a traceback; those of the command
line, too.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.main import get_command

from ota_bridge import __version__
from ota_bridge.cli.output import Output
from ota_bridge.cli.serve import flags_of
from ota_bridge.cli.session import Session
from ota_bridge.config import TOKEN_ENV
from ota_bridge.core.errors import ConfigError, KeysetRefused, ManifestRefused, OperatorError, OtaBridgeError
from ota_bridge.web.local_client import DaemonNotRunning

PROGRAM: Final = "ota-bridge"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_DAEMON: Final = 3
EXIT_INTERRUPTED: Final = 130
EPILOG: Final = "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 no daemon runs."

GROUPS: Final = {
    "keys": "keys",
    "release": "release",
    "device": "device",
    "rollout": "rollout",
    "limits": "limits",
    "history": "history",
    "user": "user",
    "token": "token",
    "audit": "audit",
    "config": "config_cmd",
}
"""Name of a group of commands → its module."""
COMMANDS: Final = {
    "serve": "serve",
    "watch": "watch",
    "why": "watch",
    "tail": "tail",
    "events": "tail",
    "doctor": "doctor",
    "backup": "backup",
    "restore": "backup",
    "demo": "demo",
}
"""Name of a command → its module; the function has the same name."""


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name=PROGRAM,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for name, module in GROUPS.items():
        app.add_typer(import_module(f"ota_bridge.cli.{module}").commands, name=name)
    for name, module in COMMANDS.items():
        app.command(name)(getattr(import_module(f"ota_bridge.cli.{module}"), name))
    return app


@cache
def _command() -> Callable[..., object]:
    """The same, ready to run; to make it takes longer than most commands."""
    return get_command(build())


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ota-bridge {__version__}")
        raise typer.Exit


def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with the settings.", show_default="./ota-bridge.toml")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the daemon keeps its data.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting of `config show`; may be repeated."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_ENV, metavar="TOKEN", help="Act as its user; other users see it here, not in the environment."
        ),
    ] = None,
    show_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Over-the-air updates for microcontrollers, beside any MQTT broker."""
    del version
    session = context.obj
    assert isinstance(session, Session)
    session.file = config
    session.flags = flags_of(settings or [])
    if token is None and os.environ.get(TOKEN_ENV) == "":  # such as by a command in $(...) that failed
        token = ""
    if token == "":
        raise typer.BadParameter(f"the token is empty; unset {TOKEN_ENV} to act as yourself")
    session.token = token
    session.show_traceback = show_traceback
    if data_dir is not None:
        session.flags["data_dir"] = str(data_dir)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    session = Session()
    try:
        code = _command()(args=list(arguments), prog_name=PROGRAM, obj=session, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except typer.TyperException as error:
        session.as_json = "--json" in arguments
        return _say_usage(session, error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # such as `| head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the edge of the process
        return _say(session, error)


def _say_usage(session: Session, error: typer.TyperException) -> int:
    """A command line that cannot be understood; where words are missing, typer has shown the help by now."""
    message = error.format_message().strip()
    if message:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else PROGRAM
        message = message.removeprefix("Invalid value: ").replace("Value error, ", "").rstrip(".").replace("\n", " ")
        _tell(session, "usage", f"{message[0].lower()}{message[1:]}; see: {command} --help")
    return EXIT_USAGE


def _say(session: Session, error: Exception) -> int:
    code, message = _code(error), _sentence(error)
    if session.show_traceback:
        traceback.print_exception(error)
    _tell(session, code, message)
    if isinstance(error, DaemonNotRunning):
        return EXIT_NO_DAEMON
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def _tell(session: Session, code: str, message: str) -> None:
    output = Output(as_json=session.as_json)
    if session.as_json:
        output.json({"error": {"code": code, "message": message}})
    output.note(f"error: {message}")


def _code(error: Exception) -> str:
    if isinstance(error, OperatorError):
        return error.code
    if isinstance(error, ManifestRefused | KeysetRefused):
        return "refused"
    return "config" if isinstance(error, ConfigError) else "failed"


def _sentence(error: Exception) -> str:
    if isinstance(error, OtaBridgeError):
        return str(error)
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{place}"
    return f"{type(error).__name__}: {error} (this should not happen; --traceback before the command shows where)"


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))
