"""`serve`: run the daemon."""

from pathlib import Path
from typing import Annotated

import typer

from ota_bridge.cli.session import Session
from ota_bridge.log import set_up_logging


def serve(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file with the settings.")] = None,
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="mqtt:// or mqtts:// URL; none starts the embedded broker.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Database and artifacts.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object per line.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting of `config show`; may be repeated."),
    ] = None,
) -> None:
    """Run the bridge until SIGTERM or Ctrl-C."""
    session = Session.of(context)
    session.file = config or session.file
    session.flags |= flags_of(settings or [])
    if broker is not None:
        session.flags["broker.url"] = broker
    if data_dir is not None:
        session.flags["data_dir"] = str(data_dir)
    if log_json:
        session.flags["log.json"] = "true"
    chosen = session.config
    set_up_logging(chosen.log.level, as_json=chosen.log.json)
    from ota_bridge.daemon import run

    run(chosen)


def flags_of(settings: list[str]) -> dict[str, str]:
    """`--set` options by name."""
    flags: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {setting[:60]!r}: write it as section.key=value")
        flags[name.strip()] = value
    return flags
