"""The shipped mosquitto.conf on a real mosquitto: as it stands, and with its #acl, #tls, #pw and #cert lines."""

import os
import re
import socket
import ssl
import subprocess
from itertools import pairwise

import aiomqtt
import pytest
from brokers import (
    HOST,
    SHIPPED_CONF,
    Mosquitto,
    RuledBroker,
    as_shipped,
    client,
    free_port,
    issue_certificates,
    lines_marked,
    mosquitto_on,
    received_until,
    with_tls,
)

from ota_bridge.wire import BrokerAddress, TlsFiles

pytestmark = pytest.mark.mosquitto

CONNECT = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    found = RuledBroker(tmp_path_factory.mktemp("site"))
    found.broker.start()
    yield found
    found.broker.stop()


# --- as it stands ---


async def test_it_starts_as_shipped_and_serves_bridge_and_simulated_devices_on_loopback(tmp_path):
    port = free_port()
    broker = Mosquitto(as_shipped(port), tmp_path, ports=(port,))
    broker.start()
    try:
        bridge = BrokerAddress(host=HOST, port=port, username="bridge-blocks")
        device = BrokerAddress(host=HOST, port=port, username="demo/d1")
        block = bytes(16_384 + 160)
        async with client(bridge) as blocks, client(device) as d1, client(broker.address) as nobody:
            await d1.subscribe("$ota/block/demo/d1", 0)
            await nobody.subscribe("$ota/#", 0)
            await blocks.publish("$ota/block/demo/d1", block, 0)
            assert await received_until(d1, block) == [("$ota/block/demo/d1", block)]
            assert await received_until(nobody, block) == [("$ota/block/demo/d1", block)]
    finally:
        broker.stop()
    assert "Error" not in broker.log


def test_it_listens_on_loopback_only_as_shipped():
    listeners = [line for line in SHIPPED_CONF.read_text().splitlines() if line.startswith("listener ")]
    assert listeners == ["listener 1883 127.0.0.1"]


def test_every_setting_has_its_reason_on_the_line_above():
    lines = SHIPPED_CONF.read_text().splitlines()
    for above, line in pairwise(lines):
        setting = line.removeprefix("#tls ") if line.startswith("#tls ") else line
        if not setting or setting.startswith("#"):
            continue
        grouped = line.startswith("#tls ") and above.startswith("#tls ")
        assert grouped or re.match(r"# +\S", above), f"no reason above {line!r}"


def test_no_setting_is_known_to_mosquitto_2_1_alone():
    only_2_1 = {
        "global_max_connections",
        "global_max_clients",
        "enable_control_api",
        "listener_allow_anonymous",
        "listener_auto_id_prefix",
        "global_plugin",
        "plugin_load",
        "plugin_use",
        "enable_proxy_protocol",
    }
    text = re.sub(r"(?m)^#(tls|pw) ", "", SHIPPED_CONF.read_text())
    used = {line.split()[0] for line in text.splitlines() if line and not line.startswith("#")}
    assert used & only_2_1 == set()


def test_it_fits_into_debians_conf_d(tmp_path):
    port = free_port()
    included = tmp_path / "conf.d"
    included.mkdir()
    (included / "ota-bridge.conf").write_text(as_shipped(port))
    main = f"persistence true\npersistence_location {tmp_path}/\ninclude_dir {included}\n"
    broker = Mosquitto(main, tmp_path, ports=(port,))
    broker.start()
    broker.stop()
    assert (tmp_path / "mosquitto.db").exists()


# --- TLS and ACL ---


async def test_a_device_uses_its_own_topics_and_a_16_kib_block_passes(site):
    block = b"\x93" + bytes(16_384 + 160)
    async with (
        client(site.device("demo/d1")) as device,
        client(site.local("bridge-control")) as control,
        client(site.local("bridge-blocks")) as blocks,
    ):
        await device.subscribe([("$ota/update/demo/d1", 1), ("$ota/block/demo/d1", 0)])
        await control.subscribe("$ota/report/+/+", 1)
        await blocks.subscribe("$ota/get/+/+", 0)
        await device.publish("$ota/report/demo/d1", b"report", 1)
        await device.publish("$ota/get/demo/d1", b"get", 0)
        assert await received_until(control, b"report") == [("$ota/report/demo/d1", b"report")]
        assert await received_until(blocks, b"get") == [("$ota/get/demo/d1", b"get")]
        await control.publish("$ota/update/demo/d1", b"offer", 1)
        assert await received_until(device, b"offer") == [("$ota/update/demo/d1", b"offer")]
        await blocks.publish("$ota/block/demo/d1", block, 0)
        assert await received_until(device, block) == [("$ota/block/demo/d1", block)]


async def test_what_a_device_publishes_to_a_foreign_topic_is_not_delivered(site):
    async with client(site.local("bridge-control")) as control, client(site.local("bridge-blocks")) as blocks:
        await control.subscribe("$ota/report/+/+", 1)
        await blocks.subscribe("$ota/get/+/+", 0)
        async with client(site.device("demo/d2")) as device:
            for foreign in ("demo/d1", "other/d2", "demo/d2/x"):
                await device.publish(f"$ota/report/{foreign}", b"forged", 1)
                await device.publish(f"$ota/get/{foreign}", b"forged", 0)
            await device.publish("$ota/update/demo/d2", b"forged", 1)
            await device.publish("$ota/report/demo/d2", b"own", 1)
            await device.publish("$ota/get/demo/d2", b"own", 0)
        assert await received_until(control, b"own") == [("$ota/report/demo/d2", b"own")]
        assert await received_until(blocks, b"own") == [("$ota/get/demo/d2", b"own")]


async def test_a_device_receives_nothing_that_is_meant_for_another(site):
    async with (
        client(site.device("demo/d2")) as device,
        client(site.local("bridge-control")) as control,
        client(site.local("bridge-blocks")) as blocks,
    ):
        for wanted in ("$ota/update/demo/d1", "$ota/block/demo/d1", "$ota/+/+/+", "$ota/#", "#"):
            await device.subscribe(wanted, 1)
        for topic in ("$ota/update/demo/d1", "$ota/event/demo/d2", "$ota/state/bridge"):
            await control.publish(topic, b"not for d2", 1)
        await blocks.publish("$ota/block/demo/d1", b"not for d2", 0)
        await blocks.publish("$ota/block/demo/d2", b"first", 0)
        assert {payload for _, payload in await received_until(device, b"first")} == {b"first"}
        await control.publish("$ota/update/demo/d2", b"last", 1)
        assert {payload for _, payload in await received_until(device, b"last")} <= {b"first", b"last"}


@pytest.mark.parametrize("name", ["+", "demo/+", "#", "demo/#"])
async def test_a_certificate_with_a_wildcard_for_a_name_reaches_no_device(site, name):
    async with client(site.local("bridge-control")) as control, client(site.device("demo/d3")) as honest:
        await control.subscribe("$ota/report/+/+", 1)
        # refused by some versions when it connects, by the others when it publishes
        try:
            async with client(site.device(name)) as hostile:
                await hostile.publish("$ota/report/demo/d1", b"forged", 1)
        except aiomqtt.MqttError:
            pass
        await honest.publish("$ota/report/demo/d3", b"honest", 1)
        assert await received_until(control, b"honest") == [("$ota/report/demo/d3", b"honest")]


async def test_the_applications_own_topics_work_and_are_kept_apart_too(site):
    async with (
        client(site.local("operator")) as operator,
        client(site.device("demo/d1")) as one,
        client(site.device("demo/d2")) as two,
    ):
        await operator.subscribe("telemetry/#", 0)
        await one.subscribe("command/#", 0)
        await two.publish("telemetry/demo/d1", b"forged", 1)
        await two.publish("telemetry/demo/d2", b"21.5", 1)
        assert await received_until(operator, b"21.5") == [("telemetry/demo/d2", b"21.5")]
        await operator.publish("command/demo/d2", b"not for d1", 1)
        await operator.publish("command/demo/d1", b"blink", 1)
        assert await received_until(one, b"blink") == [("command/demo/d1", b"blink")]


async def test_another_devices_client_id_does_not_evict_it(site):
    async with client(site.device("demo/d1"), "demo/d1") as victim:
        await victim.subscribe("$ota/update/demo/d1", 1)
        async with client(site.device("demo/d2"), "demo/d1"), client(site.local("bridge-control")) as control:
            await control.publish("$ota/update/demo/d1", b"still here", 1)
            assert await received_until(victim, b"still here") == [("$ota/update/demo/d1", b"still here")]


@pytest.mark.parametrize("who", ["without a certificate", "with another CA's certificate"])
def test_a_device_without_our_certificate_is_refused(site, tmp_path, who):
    context = ssl.create_default_context(cafile=site.authority.ca_file)
    if who == "with another CA's certificate":
        foreign = issue_certificates(tmp_path, "Another CA").issue("demo/d1")
        context.load_cert_chain(foreign.certificate, foreign.key)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert exchange(site.tls_port, context) != b""


def test_a_device_with_our_certificate_is_accepted(site):
    files = site.authority.issue("demo/d9")
    context = ssl.create_default_context(cafile=site.authority.ca_file)
    context.load_cert_chain(files.certificate, files.key)
    assert exchange(site.tls_port, context) == b"\x20\x02\x00\x00"


def exchange(port: int, context: ssl.SSLContext) -> bytes:
    """CONNECT, and the answer. With TLS 1.3 a refusal arrives only here; an end without a word is one too."""
    with (
        socket.create_connection((HOST, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(CONNECT)
        answer = secure.recv(4)
        if not answer:
            raise ConnectionError("closed")
        return answer


async def test_with_the_acl_a_local_program_without_a_name_gets_no_topic(site):
    async with (
        client(site.local(None)) as nobody,
        client(site.local("operator")) as operator,
        client(site.local("bridge-control")) as control,
    ):
        await nobody.subscribe("$ota/#", 1)
        await operator.subscribe("$ota/#", 1)
        await nobody.publish("$ota/update/demo/d1", b"forged", 1)
        await control.publish("$ota/state/bridge", b"up", 1)
        assert await received_until(operator, b"up") == [("$ota/state/bridge", b"up")]
        assert len(nobody.messages) == 0


async def test_the_password_lines_shut_out_local_programs_and_not_the_devices(tmp_path):
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "bridge-control", "secret"], check=True, capture_output=True
    )
    site = RuledBroker(tmp_path)
    text = with_tls(tmp_path, site.plain_port, site.tls_port)
    text = text.replace("\nallow_anonymous true\n", "\n").replace("#pw ", "")
    broker = Mosquitto(
        text.replace("/etc/mosquitto/ota", str(tmp_path)), tmp_path, ports=(site.plain_port, site.tls_port)
    )
    broker.start()
    try:
        right = BrokerAddress(host=HOST, port=site.plain_port, username="bridge-control", password="secret")
        wrong = BrokerAddress(host=HOST, port=site.plain_port, username="bridge-control", password="guess")
        for refused in (wrong, site.local("bridge-control"), site.local("demo/d1"), site.local(None)):
            with pytest.raises(aiomqtt.MqttError):
                async with client(refused):
                    pass
        async with client(right) as control, client(site.device("demo/d1")) as device:
            await control.subscribe("$ota/report/+/+", 1)
            await device.publish("$ota/report/demo/d1", b"report", 1)
            assert await received_until(control, b"report") == [("$ota/report/demo/d1", b"report")]
    finally:
        broker.stop()


# --- the commands in the comments ---


async def test_the_openssl_commands_make_certificates_that_work(tmp_path):
    subprocess.run(
        ["sh"],
        input=lines_marked("cert"),
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "OTA_DIR": str(tmp_path)},
    )
    plain_port, tls_port = free_port(), free_port()
    broker = Mosquitto(with_tls(tmp_path, plain_port, tls_port), tmp_path, ports=(plain_port, tls_port))
    broker.start()
    try:
        files = TlsFiles(ca=tmp_path / "ca.crt", certificate=tmp_path / "device.crt", key=tmp_path / "device.key")
        bridge = BrokerAddress(host=HOST, port=plain_port, username="bridge-control")
        async with (
            client(BrokerAddress(host="localhost", port=tls_port, tls=files)) as device,
            client(bridge) as control,
        ):
            await control.subscribe("$ota/report/+/+", 1)
            await device.publish("$ota/report/demo/d1", b"report", 1)
            assert await received_until(control, b"report") == [("$ota/report/demo/d1", b"report")]
    finally:
        broker.stop()


@pytest.mark.parametrize("mark", ["acl", "tls", "cert"])
def test_the_sed_commands_in_the_comments_pick_the_marked_lines(mark, tmp_path):
    script = {"tls": "s/^#tls //"}.get(mark, f"s/^#{mark} //p")
    assert f"'{script}' mosquitto.conf" in SHIPPED_CONF.read_text()
    command = ["sed", *([] if mark == "tls" else ["-n"]), script, str(SHIPPED_CONF)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    expected = re.sub(r"(?m)^#tls ", "", SHIPPED_CONF.read_text()) if mark == "tls" else lines_marked(mark)
    assert printed == expected


async def test_the_shared_open_broker_of_the_tests_starts(tmp_path):
    with mosquitto_on(tmp_path) as broker:
        async with client(broker.address) as anybody:
            await anybody.subscribe("$ota/x", 0)
            await anybody.publish("$ota/x", b"1", 0)
            assert await received_until(anybody, b"1") == [("$ota/x", b"1")]
