"""`doctor` where there is no broker; with brokers: tests/integration/test_cli_commands.py."""

import socket

from ota_bridge.cli.app import EXIT_FAILED


def test_without_a_broker_doctor_fails_with_a_remedy(operator):
    operator("keys", "new")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{unused.getsockname()[1]}"
        ran = operator("--set", f"broker.url={url}", "doctor")
    assert ran.code == EXIT_FAILED
    [line] = [line for line in ran.out.splitlines() if line.startswith("failure")]
    assert line.startswith(f"failure broker: {url}")
    assert "Remedy: " in line


def test_as_json_it_is_one_document(operator):
    ran = operator("--set", "broker.url=mqtt://127.0.0.1:1", "doctor", "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert {check["check"]: check["level"] for check in ran.json["checks"]}["trust"] == "failure"


def test_a_device_that_is_no_name_is_refused(operator):
    ran = operator("doctor", "--device-username", "d1")
    assert ran.code == 1
    assert "write it as PRODUCT/NAME" in ran.err
