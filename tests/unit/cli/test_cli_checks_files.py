"""What `doctor` says of the file server, behind good proxies and bad ones."""

import asyncio
import socket
import threading

import pytest
from brokers import HOST, free_port
from files_site import files

from ota_bridge.cli.checks_files import file_findings
from ota_bridge.cli.checks_local import Level
from ota_bridge.config import FileSettings

GOOD = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


def found(url):
    (finding,) = file_findings(FileSettings(host="0.0.0.0", url=url))
    return finding


def answered(reply):
    """What is found where a server says this to whoever comes."""
    with socket.create_server((HOST, 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        finding = found(f"http://{HOST}:{listener.getsockname()[1]}")
        thread.join()
    return finding


async def test_the_file_server_itself_is_found():
    async with files() as site:
        finding = await asyncio.to_thread(found, f"http://{HOST}:{site.port}/")
        assert Level.OK is finding.level
        assert "devices that read no port from a URL cannot get there" in finding.text
        assert 1 == site.files.counters.forbidden


def test_where_no_files_are_served_nothing_is_said():
    assert [] == list(file_findings(FileSettings()))


@pytest.mark.parametrize(
    ("reply", "level", "text"),
    [
        (GOOD, Level.OK, "leads to the bridge"),
        (b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://h/\r\n\r\n", Level.FAILURE, "devices do not follow"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Level.FAILURE, "leads to something else"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Level.FAILURE, "it says 'HTTP/1.1 502 Bad Gateway'"),
        (b"SSH-2.0-OpenSSH\r\n", Level.FAILURE, "it says 'SSH-2.0-OpenSSH"),
        (b"", Level.FAILURE, "it says nothing"),
        (GOOD.replace(b"C", b"c").replace(b"L", b"l"), Level.FAILURE, "no 'Content-Length: '"),
        (
            b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Level.FAILURE,
            "no 'Content-Length: '",
        ),
        (GOOD.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 1000 + b"\r\n\r\n"), Level.WARNING, "a head"),
    ],
)
def test_what_a_proxy_makes_of_an_answer_is_judged(reply, level, text):
    finding = answered(reply)
    assert level is finding.level
    assert text in finding.text


def test_where_nobody_listens_that_is_said():
    finding = found(f"http://{HOST}:{free_port()}")
    assert Level.FAILURE is finding.level
    assert "nothing answers" in finding.text
