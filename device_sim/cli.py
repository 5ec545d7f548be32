"""`device-sim`: the command line. Errors are one sentence on stderr and exit code 2, never a traceback.

Exit codes: 0 every device that was meant to confirm has, 1 at least one has not, 2 the run could not be made. With
`--dialect` 1 also means that a client went wrong; stderr then says which and how.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from device_sim.clients.fleet import BLOCK_BYTES, DialectOptions, as_line, as_text, refuse_options, run_dialect
from device_sim.clients.runner import RunReport
from device_sim.errors import DeviceSimError, OptionError
from device_sim.fleet import Progress, run_fleet
from device_sim.model import DEFAULT_STALE_AFTER_S
from device_sim.options import BrokerUrl, FleetOptions, parse_sleep_pattern
from device_sim.report import FleetReport

_Report = TypeVar("_Report")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def device_sim() -> None:
    """Simulated microcontrollers that are updated over MQTT."""


@app.command()
def run(
    ctx: typer.Context,
    broker: Annotated[str, typer.Option(help="mqtt[s]://[user[:password]@]host[:port]")] = "mqtt://127.0.0.1:1883",
    count: Annotated[int, typer.Option(help="how many devices")] = 1,
    product: Annotated[str, typer.Option(help="their product")] = "demo",
    hw: Annotated[str, typer.Option(help="their hardware id")] = "r1",
    name_prefix: Annotated[str, typer.Option(help="names are PREFIX0001, PREFIX0002, ...")] = "dev-",
    version: Annotated[str, typer.Option(help="the version they leave the factory with")] = "1.0.0",
    until: Annotated[str, typer.Option(help="settle at this version; default: any but --version")] = "",
    root: Annotated[str, typer.Option(help="the topic root")] = "$ota",
    trust: Annotated[Path, typer.Option(help="the trust document")] = Path("ota-trust.json"),
    block: Annotated[int, typer.Option(help="bytes asked for at once")] = 1024,
    window: Annotated[int, typer.Option(help="blocks per request")] = 4,
    max_packet: Annotated[int, typer.Option(help="largest MQTT packet they say they can take")] = 20_000,
    loss: Annotated[float, typer.Option(help="share of blocks and of requests that get lost")] = 0.0,
    dup: Annotated[float, typer.Option(help="share of requests that are sent twice")] = 0.0,
    seed: Annotated[int, typer.Option(help="seed of loss and jitter")] = 1,
    pace: Annotated[int, typer.Option(help="bytes/s per device, 0 is no limit")] = 0,
    telemetry_hz: Annotated[float, typer.Option(help="measurements per second and device, 0 is none")] = 1.0,
    sleep_pattern: Annotated[str, typer.Option(help="AWAKE_S/ASLEEP_S, such as 10/50")] = "",
    state: Annotated[Path | None, typer.Option(help="keep the flash files here, and go on from them")] = None,
    encoding: Annotated[str, typer.Option(help="msgpack or json")] = "msgpack",
    level: Annotated[str, typer.Option(help="L1 checks every chunk, L0 only the whole image")] = "L1",
    fault: Annotated[
        str,
        typer.Option(
            help="never_confirm, reboot_in=DOWNLOADED|INSTALLING|TRIAL, factory_reset, corrupt_chunk[_once]=N,"
            " power_cuts=N"
        ),
    ] = "none",
    fault_count: Annotated[int | None, typer.Option(help="only so many devices have the fault")] = None,
    watchdog_s: Annotated[float, typer.Option(help="a trial that is not confirmed by then is over")] = 120.0,
    check_in_every_s: Annotated[float, typer.Option(help="the poll of an idle device")] = 30.0,
    stale_after_s: Annotated[
        float, typer.Option(help="STALE after so long without a sign of the bridge")
    ] = DEFAULT_STALE_AFTER_S,
    slot_kib: Annotated[int, typer.Option(help="size of one image slot")] = 16 * 1024,
    timeout_s: Annotated[float, typer.Option(help="end after this time in any case")] = 600.0,
    connect_timeout_s: Annotated[float, typer.Option(help="give up when nobody connects by then")] = 30.0,
    dialect: Annotated[str, typer.Option(help="another vendor's protocol, spoken by an independent client of it")] = "",
    variant: Annotated[str, typer.Option(help="with --dialect: which of the vendor's clients, A,B")] = "",
    prefix: Annotated[str, typer.Option(help="with --dialect: put before each topic; {device} is the name")] = "",
    secret: Annotated[str, typer.Option(help="with --dialect: password, device secret or token")] = "",
    stay: Annotated[bool, typer.Option("--stay", help="stay connected when all have settled")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
    username_from_id: Annotated[
        bool, typer.Option("--username-from-id", help="each logs in as {product}/{device}")
    ] = False,
    password: Annotated[str | None, typer.Option(help="for all devices")] = None,
    cafile: Annotated[Path | None, typer.Option(help="who signed the broker's certificate")] = None,
    certfile: Annotated[Path | None, typer.Option(help="client certificate")] = None,
    keyfile: Annotated[Path | None, typer.Option(help="its key")] = None,
) -> None:
    """Run devices until each has settled, and report."""
    given = _given(ctx)
    refuse_options(given, dialect=dialect)
    if encoding not in {"msgpack", "json"}:
        raise OptionError(f"--encoding: {encoding!r} is neither msgpack nor json")
    if level not in {"L0", "L1"}:
        raise OptionError(f"--level: {level!r} is neither L0 nor L1")
    awake_s, asleep_s = parse_sleep_pattern(sleep_pattern)
    options = FleetOptions(
        broker=BrokerUrl.parse(broker), trust=trust, count=count, product=product, hw=hw, name_prefix=name_prefix,
        version=version, until=until, root=root, block_bytes=block, window=window, max_packet=max_packet, loss=loss,
        dup=dup, seed=seed, pace_bps=pace, telemetry_hz=telemetry_hz, awake_s=awake_s, asleep_s=asleep_s,
        state=state, encoding="json" if encoding == "json" else "msgpack", level="L0" if level == "L0" else "L1",
        fault=fault, fault_count=fault_count, watchdog_s=watchdog_s, check_in_every_s=check_in_every_s,
        stale_after_s=stale_after_s, slot_bytes=slot_kib * 1024, timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s, stay=stay, username_from_id=username_from_id, password=password,
        cafile=cafile, certfile=certfile, keyfile=keyfile,
    )  # fmt: skip
    if dialect:
        variants = frozenset(filter(None, variant.split(",")))
        own = DialectOptions(dialect=dialect, variants=variants, prefix=prefix, secret=secret)
        _run_dialect(options, own, block_bytes=block if "block" in given else BLOCK_BYTES, as_json=as_json)
    if as_json:
        report = _with_loop(_until_signal(options, _print_line))
        _print_line(report.as_json())
    else:
        from device_sim.screen import live_progress, print_report

        with live_progress(count) as on_progress:
            report = _with_loop(_until_signal(options, on_progress))
        print_report(report)
    raise typer.Exit(0 if report.ok else 1)


def _given(ctx: typer.Context) -> frozenset[str]:
    """The parameters that stand on the command line."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name != "DEFAULT")


def _run_dialect(shared: FleetOptions, own: DialectOptions, *, block_bytes: int, as_json: bool) -> NoReturn:
    async def work() -> RunReport:
        return await run_dialect(shared, own, block_bytes=block_bytes, stop=_stop_by_signal())

    report = _with_loop(work())
    for client in report.clients:
        if as_json:
            _print_line(as_line(client))
        else:
            sys.stdout.write(as_text(client) + "\n")
    for sentence in report.went_wrong:
        sys.stderr.write(f"device-sim: {sentence}\n")
    raise typer.Exit(0 if report.is_ok else 1)


async def _until_signal(options: FleetOptions, on_progress: Progress) -> FleetReport:
    return await run_fleet(options, on_progress, _stop_by_signal())


def _stop_by_signal() -> asyncio.Event:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _with_loop(work: Coroutine[Any, Any, _Report]) -> _Report:
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except DeviceSimError as error:
        sys.stderr.write(f"device-sim: {error}\n")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
