"""`device-sim run --dialect`: which options count, what is printed, and the script that the clients' own tests use."""

import json

import pytest
from scripted import Scripted, matches
from typer.testing import CliRunner
from vendor_fake import FakeClient

from device_sim import cli
from device_sim.clients import fleet, registry
from device_sim.clients.fleet import DialectOptions, as_line, as_text, make_clients, refuse_options
from device_sim.clients.model import ClientOptions, Outcome, Publish, Restart, Subscribe
from device_sim.clients.runner import ClientReport, RunReport
from device_sim.errors import OptionError
from device_sim.options import BrokerUrl, FleetOptions


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(registry, "CLIENTS", {"fake": "vendor_fake:FakeClient"})


def shared(tmp_path, **options):
    return FleetOptions(broker=BrokerUrl.parse("mqtt://127.0.0.1:1883"), trust=tmp_path / "none", **options)


# --- options ---


def test_options_of_native_devices_are_refused_by_name_under_a_dialect():
    with pytest.raises(OptionError, match=r"--max-packet, --trust: not with --dialect"):
        refuse_options({"trust", "max_packet", "count"}, dialect="xively")


def test_options_of_dialects_are_refused_by_name_without_one():
    with pytest.raises(OptionError, match=r"--prefix, --secret: only with --dialect"):
        refuse_options({"prefix", "secret", "trust"}, dialect="")


def test_an_option_counts_as_given_only_where_it_stands_on_the_command_line(monkeypatch, fake, tmp_path):
    asked = []

    async def run(options, own, *, block_bytes, stop):
        asked.append((options.count, own, block_bytes))
        return RunReport(clients=())

    monkeypatch.setattr(cli, "run_dialect", run)
    words = ["run", "--dialect", "fake", "--count", "2", "--variant", "cbor,older", "--prefix", "tb/{device}"]
    assert 0 == CliRunner().invoke(cli.app, words).exit_code
    assert 0 == CliRunner().invoke(cli.app, [*words, "--block", "1024"]).exit_code
    own = DialectOptions(dialect="fake", variants=frozenset({"cbor", "older"}), prefix="tb/{device}")
    assert [(2, own, 4096), (2, own, 1024)] == asked
    result = CliRunner().invoke(cli.app, [*words, "--window", "4"])
    assert "--window: not with --dialect" == str(result.exception)


def test_a_dialect_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(OptionError, match="'morse' is not one of alibaba, aws, tencent, thingsboard, xively"):
        registry.factory("morse")


@pytest.mark.parametrize("dialect", sorted(registry.CLIENTS))
def test_each_dialect_makes_a_client_that_runs_what_it_is_told(dialect):
    client = registry.factory(dialect)(ClientOptions(product="p", name="dev-0001", version="1.2.3"))
    assert ("1.2.3", False) == (client.outcome.version, client.outcome.is_busy)


def test_a_client_that_is_not_in_this_version_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "CLIENTS", {"late": "device_sim.clients.late:LateClient"})
    with pytest.raises(OptionError, match="there is no client for late"):
        registry.factory("late")


def test_each_client_is_told_its_own_name_prefix_secret_seed_and_directory(fake, tmp_path):
    own = DialectOptions(dialect="fake", prefix="tb/{device}", secret="s-{device}", variants=frozenset({"cpp"}))
    options = shared(tmp_path, count=2, product="pump", version="1.2", seed=7, state=tmp_path / "state")
    clients = make_clients(options, own, block_bytes=512)
    assert [
        ClientOptions(
            product="pump", name=name, version="1.2", block_bytes=512, prefix=f"tb/{name}/", secret=f"s-{name}",
            state=tmp_path / "state" / name, seed=seed, variants=frozenset({"cpp"}),
        )
        for name, seed in (("dev-0001", 7), ("dev-0002", 8))
    ] == [client.options for client in clients.values()]  # fmt: skip
    assert (tmp_path / "state" / "dev-0002").is_dir()


@pytest.mark.parametrize("prefix", ["a/#", "+/b"])
def test_a_prefix_holds_no_wildcard(fake, tmp_path, prefix):
    with pytest.raises(OptionError, match="--prefix"):
        make_clients(shared(tmp_path), DialectOptions(dialect="fake", prefix=prefix), block_bytes=1)


def test_a_directory_that_cannot_be_made_is_an_error_of_the_option(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="--state"):
        make_clients(shared(tmp_path, state=tmp_path / "file"), DialectOptions(dialect="fake"), block_bytes=1)


# --- what is printed ---

THERE = ClientReport(device="dev-0001", outcome=Outcome(version="2.0.0", installs=1), is_ok=True, connections=2)
WRONG = ClientReport(
    device="dev-0002", outcome=Outcome(version="1.0.0", failures=("-3",)), is_ok=False, went_wrong="it hangs"
)


def test_a_line_for_programs_has_the_outcome():
    line = as_line(WRONG)
    assert {
        "type": "outcome", "device": "dev-0002", "version": "1.0.0", "sha256": "", "installs": 0, "restarts": 0,
        "failures": ("-3",), "is_busy": False, "connections": 0, "went_wrong": "it hangs", "ok": False,
    } == line  # fmt: skip


def test_a_line_for_people_says_whether_it_is_there_and_why_not():
    assert "dev-0001  ok  runs 2.0.0, 1 installed" == as_text(THERE)
    assert "dev-0002  NOT THERE  runs 1.0.0, 0 installed, failed: -3, went wrong: it hangs" == as_text(WRONG)


@pytest.mark.parametrize(("clients", "code"), [((THERE,), 0), ((THERE, WRONG), 1)])
def test_the_exit_code_says_whether_all_are_there(monkeypatch, clients, code):
    async def run(*_args, **_named):
        return RunReport(clients=clients)

    monkeypatch.setattr(cli, "run_dialect", run)
    result = CliRunner().invoke(cli.app, ["run", "--dialect", "xively", "--json"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert (code, [client.device for client in clients]) == (result.exit_code, [line["device"] for line in lines])
    assert ("device-sim: dev-0002: it hangs\n" if code else "") == result.stderr


def test_the_run_takes_over_what_all_devices_share(monkeypatch, fake, tmp_path):
    seen = []

    class Fleet:
        def __init__(self, clients, options):
            seen.append((list(clients), options.until, options.timeout_s, options.stay))

        async def run(self, stop):
            return RunReport(clients=())

    monkeypatch.setattr(fleet, "ClientFleet", Fleet)
    options = shared(tmp_path, until="2.0.0", timeout_s=5, stay=True)
    import asyncio

    asyncio.run(fleet.run_dialect(options, DialectOptions(dialect="fake"), block_bytes=4))
    assert [(["dev-0001"], "2.0.0", 5, True)] == seen


# --- the script ---


def scripted(**options):
    script = Scripted(FakeClient(ClientOptions(product="p", name="n"), **options))
    script.power_on()
    return script


def test_a_scripted_client_is_subscribed_and_heard():
    script = scripted()
    question = Publish(topic="up/n", payload=b'{"name": "n", "runs": "1.0.0"}', qos=1)
    assert [Subscribe(topic_filter="down/n", qos=1), question] == script.done


def test_a_message_that_no_subscription_takes_does_not_arrive():
    script = scripted()
    assert [] == script.deliver("down/other", b'"die"')
    assert (["down/other"], []) == ([lost.topic for lost in script.lost], script.client.heard)


def test_a_restart_takes_the_subscriptions_and_begins_again():
    script = scripted()
    script.serve(lambda asked: [Publish(topic="down/n", payload=b'{"version": "2"}', qos=1)] if asked.qos else [])
    assert ["started", "connected", "subscribed True"] * 2 == script.client.told
    assert "2" == script.client.outcome.version
    assert [1, 2] == [message.packet_id for message in script.client.heard]
    assert 1 == sum(isinstance(action, Restart) for action in script.done)
    assert "up/never" not in script.topics()  # what stands behind a restart is never done


def test_the_time_passes_deadline_by_deadline():
    script = scripted(ask_every_s=10)
    assert 3 == len(script.pass_s(35))
    assert 135 == script.now_s


def test_without_a_link_nothing_arrives_and_nothing_is_served():
    script = scripted()
    script.break_link()
    assert [] == script.deliver("down/n", b'"die"')
    script.connect()
    assert ["started", "connected", "subscribed True", "disconnected", "connected", "subscribed True"] == (
        script.client.told
    )


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [("a/b", "a/b", True), ("a/+", "a/b", True), ("a/#", "a/b/c", True), ("a/#", "a", True), ("a/+", "a/b/c", False),
     ("a/b", "a", False), ("a", "a/b", False), ("#", "x", True)],
)  # fmt: skip
def test_filters_match_as_on_a_broker(topic_filter, topic, expected):
    assert expected is matches(topic_filter, topic)
