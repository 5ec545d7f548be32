"""One run of a command: its configuration, its way to the daemon, and its output.

Writes go to the running daemon. Plain reads do too, and where none runs they are answered from the database by
the same functions, and say as of when.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import typer

from ota_bridge.cli.output import Output, when
from ota_bridge.config import Config
from ota_bridge.web.local_client import DaemonNotRunning, LocalClient

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="RELEASE", help="PRODUCT/VERSION, or VERSION where only one product has it.")
]
DeviceArgument = Annotated[
    str, typer.Argument(metavar="DEVICE", help="PRODUCT/NAME, or a NAME or label that only one has.")
]

ANSWER_S = 60.0
UPLOAD_ANSWER_S = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a read; `as_of` is set where it came from the database of a stopped daemon."""

    result: Any
    as_of: str | None


@dataclass
class Session:
    """Kept in the context of the command line; one per process."""

    file: Path | None = None
    flags: dict[str, str] = field(default_factory=dict)
    as_json: bool = False
    show_traceback: bool = False
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, context: typer.Context, *, as_json: bool = False) -> "Session":
        """The session of this run; `as_json` is the command's `--json`."""
        session = cast("Session", context.find_root().obj)
        session.as_json = as_json
        return session

    @cached_property
    def config(self) -> Config:
        """The configuration; raises ConfigError."""
        return Config.load(self.flags, os.environ, Path.cwd(), file=self.file)

    @property
    def output(self) -> Output:
        """Where to print."""
        return Output(as_json=self.as_json)

    def client(self, *, answer_s: float = ANSWER_S) -> LocalClient:
        """The daemon."""
        return LocalClient(self.config.socket_path, answer_s=answer_s, token=self.token)

    def call(
        self,
        op: str,
        args: Mapping[str, Any],
        *,
        upload: tuple[BinaryIO, int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Carry out `op` in the daemon; raises DaemonNotRunning with the remedy."""
        client = self.client(answer_s=UPLOAD_ANSWER_S if upload else ANSWER_S)
        with _with_remedy():
            return client.call(op, _given(args), upload=upload, progress=progress)

    def stream(self, op: str, args: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Follow `op` of the daemon; raises DaemonNotRunning with the remedy."""
        with _with_remedy():
            yield from self.client().stream(op, _given(args))

    def read(self, op: str, args: Mapping[str, Any]) -> Answer:
        """Ask the daemon, or the database of a stopped one."""
        try:
            return Answer(self.client().call(op, _given(args)), None)
        except DaemonNotRunning as error:
            from ota_bridge.cli.offline import read_database

            result, wall = read_database(self.config, op, _given(args), error)
        as_of = datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.output.note(f"no daemon is running; as of {when(as_of)}:")
        return Answer(result, as_of)

    def shown_as_json(self, key: str | None, answer: Answer) -> bool:
        """With `--json`, print the result of a read as one object; a list stands under `key`."""
        if self.as_json:
            document = answer.result if key is None else {key: answer.result}
            self.output.json(document if answer.as_of is None else {**document, "as_of": answer.as_of})
        return self.as_json


@contextmanager
def _with_remedy() -> Iterator[None]:
    try:
        yield
    except DaemonNotRunning as error:
        raise DaemonNotRunning(f"{error}; start it with `ota-bridge serve`") from error


def _given(args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if value is not None}
