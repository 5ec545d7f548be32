"""The runner of vendors' clients on a real mosquitto: what it hands over, carries out, survives and reports."""

import asyncio
import contextlib
import json
import subprocess
import sys

import pytest
from brokers import client, eventually, mosquitto_on
from vendor_fake import FakeClient, FakeDownloader

from device_sim.clients.model import ClientOptions
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.errors import BrokerUnreachable
from device_sim.options import BrokerUrl
from device_sim.shell import end_tasks

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def mosquitto(tmp_path):
    with mosquitto_on(tmp_path) as broker:
        yield broker


def clients(count, **options):
    names = [f"dev-{number}" for number in range(count)]
    return {name: FakeClient(ClientOptions(product="p", name=name), **options) for name in names}


def run_options(broker, **named):
    return RunOptions(broker=BrokerUrl.parse(broker.url), reconnect_s=0.01, **{"timeout_s": 20, **named})


@contextlib.asynccontextmanager
async def server(broker, answer):
    """Answers each question by what `answer(question)` gives."""
    async with client(broker.address) as link:
        await link.subscribe("up/#", qos=1)

        async def serve():
            async for message in link.messages:
                question = json.loads(message.payload)
                if (reply := answer(question)) is not None:
                    await link.publish(f"down/{question['name']}", json.dumps(reply), qos=1)

        task = asyncio.create_task(serve())
        try:
            yield link
        finally:
            await end_tasks({task})


async def test_clients_restart_into_the_version_and_report_it_before_the_run_ends(mosquitto):
    fleet, asked = clients(20), []

    def answer(question):
        asked.append((question["name"], question["runs"]))
        return {"version": "2.0.0"}

    async with server(mosquitto, answer):
        report = await ClientFleet(fleet, run_options(mosquitto, until="2.0.0")).run()
        await eventually(lambda: len(asked) == 40, what="the broker has them all")
    assert report.is_ok
    assert {(name, runs) for name in fleet for runs in ("1.0.0", "2.0.0")} == set(asked)
    assert [(1, 1, 2)] * 20 == [
        (seen.outcome.installs, seen.outcome.restarts, seen.connections) for seen in report.clients
    ]
    assert all(one.told == ["started", "connected", "subscribed True"] * 2 for one in fleet.values())


async def test_a_message_is_handed_over_with_packet_id_and_qos(mosquitto):
    fleet = clients(1)
    async with server(mosquitto, lambda _question: {"version": "2.0.0"}):
        await ClientFleet(fleet, run_options(mosquitto)).run()
    first = fleet["dev-0"].heard[0]
    assert (1, 1, False, False) == (first.qos, first.packet_id, first.retain, first.is_dup)


async def test_a_retained_message_is_marked(mosquitto):
    async with client(mosquitto.address) as link:
        await link.publish("down/dev-0", b'{"version": "2.0.0"}', qos=1, retain=True)
        fleet = clients(1)
        assert (await ClientFleet(fleet, run_options(mosquitto, until="2.0.0")).run()).is_ok
        await link.publish("down/dev-0", b"", retain=True)
    assert fleet["dev-0"].heard[0].retain


async def test_a_client_whose_link_breaks_is_told_and_connects_again(mosquitto):
    fleet = clients(1)
    run = ClientFleet(fleet, run_options(mosquitto))
    count = 0

    def answer(question):
        nonlocal count
        count += 1
        if count == 1:
            run.cut("dev-0")
            return None
        return {"version": "2.0.0"}

    async with server(mosquitto, answer):
        report = await run.run()
    assert report.is_ok
    assert ["started", "connected", "subscribed True", "disconnected", "connected"] == fleet["dev-0"].told[:5]
    assert "2.0.0" == run.outcome("dev-0").version


async def test_the_time_comes_to_a_client_that_waits_for_it(mosquitto):
    count = 0

    def answer(question):
        nonlocal count
        count += 1
        return {"version": "2.0.0"} if count == 3 else None

    async with server(mosquitto, answer):
        report = await ClientFleet(clients(1, ask_every_s=0.02), run_options(mosquitto)).run()
    assert report.is_ok


async def test_a_line_loses_what_the_test_says(mosquitto):
    lost = []

    def loses(device, message):
        if len(lost) < 2:
            lost.append((device, message.topic))
            return True
        return False

    async with server(mosquitto, lambda _question: {"version": "2.0.0"}):
        fleet = ClientFleet(clients(1, ask_every_s=0.02), run_options(mosquitto), loses=loses)
        assert (await fleet.run()).is_ok
    assert [("dev-0", "up/dev-0")] * 2 == lost


async def test_a_client_that_goes_wrong_ends_the_run_with_its_name_and_why(mosquitto):
    async with server(mosquitto, lambda question: "die" if question["name"] == "dev-1" else None):
        report = await ClientFleet(clients(3), run_options(mosquitto)).run()
    assert not report.is_ok
    assert ("dev-1: the queue is full for ever",) == report.went_wrong


async def test_any_other_error_of_a_client_is_a_bug_and_leaves_the_run(mosquitto):
    async with server(mosquitto, lambda _question: "break"):
        with pytest.raises(ZeroDivisionError):
            await ClientFleet(clients(1), run_options(mosquitto)).run()


async def test_a_client_that_downloads_on_a_connection_of_its_own_gets_what_it_reads(mosquitto):
    async def serve(reader, writer):
        await reader.readexactly(1)
        writer.write(b"2.02")
        await reader.read()
        writer.close()

    http = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = http.sockets[0].getsockname()[1]
    one = FakeDownloader(ClientOptions(product="p", name="dev-0", secret=str(port)))
    async with http:
        report = await ClientFleet({"dev-0": one}, run_options(mosquitto, until="2.02")).run()
    assert (True, 1) == (report.is_ok, report.clients[0].outcome.installs)


async def test_a_run_ends_at_its_time_out_and_says_who_is_not_there(mosquitto):
    report = await ClientFleet(clients(1), run_options(mosquitto, timeout_s=0.3)).run()
    assert (False, "", "1.0.0") == (
        report.is_ok,
        report.clients[0].went_wrong,
        report.clients[0].outcome.version,
    )


async def test_a_run_that_stays_ends_when_it_is_told(mosquitto):
    stop = asyncio.Event()

    def answer(question):
        if question["runs"] == "2.0.0":
            stop.set()
        return {"version": "2.0.0"}

    async with server(mosquitto, answer):
        assert (await ClientFleet(clients(1), run_options(mosquitto, stay=True)).run(stop)).is_ok


async def test_where_nobody_listens_the_run_says_so(unused_port):
    options = RunOptions(
        broker=BrokerUrl.parse(f"mqtt://127.0.0.1:{unused_port}"), connect_timeout_s=0.2, timeout_s=5, reconnect_s=0.01
    )
    with pytest.raises(BrokerUnreachable, match="cannot connect to the broker"):
        await ClientFleet(clients(1), options).run()


@pytest.fixture
def unused_port():
    from brokers import free_port

    return free_port()


@pytest.mark.parametrize(("variant", "code"), [("good", 0), ("bad", 1)])
async def test_the_command_prints_an_outcome_for_each_device_and_ends_by_it(mosquitto, tmp_path, variant, code):
    code_of_it = (
        "from device_sim.clients import registry; registry.CLIENTS = {'fake': 'vendor_fake:FakeClient'};"
        "from device_sim.cli import main; main()"
    )
    words = ["run", "--broker", mosquitto.url, "--dialect", "fake", "--count", "2", "--json", "--timeout-s", "20"]
    async with server(mosquitto, lambda question: {"version": "2.0.0"} if variant == "good" else "die"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code_of_it, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PYTHONPATH": "tests:."},
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 30)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, ["dev-0001", "dev-0002"]) == (process.returncode, [line["device"] for line in lines]), err
    assert [not code] * 2 == [line["ok"] for line in lines]
    assert bool(code) == (b"the queue is full for ever" in err)
