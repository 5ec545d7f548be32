"""`config show`: every setting, its value, and where the value came from."""

from typing import Annotated, Any

import typer

from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.config import SETTINGS, Config
from ota_bridge.settings import Setting

commands = typer.Typer(no_args_is_help=True, help="Settings: from flags, the environment, a TOML file, defaults.")


@commands.command("show")
def show(
    context: typer.Context,
    docs: Annotated[bool, typer.Option("--docs", help="Say what each setting means, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting, its value, and where the value came from. Secrets are shown as ***."""
    session = Session.of(context, as_json=as_json)
    config = session.config
    if as_json:
        session.output.json({"file": str(config.file) if config.file else None, "settings": _as_json(config)})
        return
    columns = ("setting", "value", "from", *(("environment", "allowed", "meaning") if docs else ()))
    rows = [
        (
            setting.name,
            config.shown(setting.name),
            config.provenance[setting.name],
            *((setting.env_name, setting.allowed, setting.doc) if docs else ()),
        )
        for setting in SETTINGS
    ]
    session.output.table(columns, rows, empty="no settings")


@commands.command("table", hidden=True)
def table() -> None:
    """Print the table of settings as Markdown, for the documentation."""
    typer.echo(settings_markdown(), nl=False)


def settings_markdown() -> str:
    """The table of settings in Markdown; generated, so that it cannot differ from the program."""
    lines = ["| setting | environment | default | allowed | meaning |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        default = _default(setting)
        lines.append(f"| `{setting.name}` | `{setting.env_name}` | {default} | {setting.allowed} | {setting.doc} |")
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    text = setting.shown(setting.default)
    return f"`{text}`" if text else "(empty)"


def _as_json(config: Config) -> dict[str, Any]:
    return {
        setting.name: {
            "value": config.shown(setting.name),
            "from": config.provenance[setting.name],
            "environment": setting.env_name,
            "allowed": setting.allowed,
            "meaning": setting.doc,
        }
        for setting in SETTINGS
    }
