"""The buffered paho client on a socket pair: few system calls, the same bytes, and nothing is lost at the edges."""

import socket

import pytest
from paho.mqtt.enums import CallbackAPIVersion

from ota_bridge.mqtt.control_buffers import BufferedClient

CONNACK = b"\x20\x02\x00\x00"


class CountedSocket(socket.socket):
    """A socket that counts its calls."""

    reads = writes = 0

    def recv(self, *args):
        self.reads += 1
        return super().recv(*args)

    def send(self, *args):
        self.writes += 1
        return super().send(*args)


@pytest.fixture
def joined():
    """A connected client and the broker's end of its socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = BufferedClient(CallbackAPIVersion.VERSION2, "c", manual_ack=True, reconnect_on_failure=False)
    made = CountedSocket(socket.AF_INET, socket.SOCK_STREAM)
    made.connect(listener.getsockname())
    client._create_socket_connection = lambda: made
    client.connect("127.0.0.1", 1)
    broker, _ = listener.accept()
    listener.close()
    client.loop_write()
    assert broker.recv(100).startswith(b"\x10")
    broker.sendall(CONNACK)
    client.loop_read_for(1.0)
    made.reads = made.writes = 0
    yield client, made, broker
    made.close()
    broker.close()


def publish(number, size=10):
    body = b"\x00\x01t" + number.to_bytes(2, "big") + bytes(size)
    assert len(body) < 128
    return bytes([0x32, len(body)]) + body


def test_many_packets_are_read_with_one_call_and_each_is_heard_once_and_in_order(joined):
    client, made, broker = joined
    heard = []
    client.on_message = lambda _client, _userdata, message: heard.append(message.mid)
    broker.sendall(b"".join(publish(number) for number in range(1, 101)))
    while client.loop_read_for(1.0) or len(heard) < 100:
        pass
    assert list(range(1, 101)) == heard
    assert made.reads <= 4


@pytest.mark.parametrize("cut", range(1, len(publish(1))))
def test_a_packet_that_comes_in_two_pieces_is_heard_when_it_is_whole(joined, cut):
    client, _, broker = joined
    heard = []
    client.on_message = lambda _client, _userdata, message: heard.append(message.mid)
    broker.sendall(publish(1) + publish(2)[:cut])
    client.loop_read_for(1.0)
    assert [1] == heard
    broker.sendall(publish(2)[cut:])
    client.loop_read_for(1.0)
    assert [1, 2] == heard


def test_reading_stops_when_its_time_is_over_and_nothing_read_is_forgotten(joined):
    client, _, broker = joined
    heard = []
    client.on_message = lambda _client, _userdata, message: heard.append(message.mid)
    broker.sendall(b"".join(publish(number) for number in range(1, 51)))
    assert client.loop_read_for(0.0)
    assert client.has_input
    assert len(heard) < 50
    assert not client.loop_read_for(1.0)
    assert list(range(1, 51)) == heard


def test_many_packets_are_written_with_one_call(joined):
    client, made, broker = joined
    client._in_callback_mutex.acquire()  # as in a callback: paho queues, and writes when it is told to
    for _ in range(100):
        client.publish("t", b"x", qos=0)
    client._in_callback_mutex.release()
    client.loop_write()
    assert made.writes <= 2
    assert not client.want_write()
    expected = 100 * len(b"\x30\x04\x00\x01tx")
    came = b""
    while len(came) < expected:
        came += broker.recv(4096)
    assert b"\x30\x04\x00\x01tx" * 100 == came


def test_what_a_full_socket_does_not_take_is_kept_wanted_and_sent_later_in_order(joined):
    client, made, broker = joined
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    payloads = [bytes([number]) * 20_000 for number in range(100)]
    for payload in payloads:
        client.publish("t", payload, qos=0)
    client.loop_write()
    assert client.want_write()
    broker.setblocking(False)
    came, tries = bytearray(), 0
    while client.want_write() and tries < 100_000:
        tries += 1
        try:
            came += broker.recv(1 << 20)
        except BlockingIOError:
            client.loop_write()
    broker.setblocking(True)
    head = b"\x30" + bytes([(20_003 & 127) | 128, (20_003 >> 7 & 127) | 128, 20_003 >> 14]) + b"\x00\x01t"
    expected = b"".join(head + payload for payload in payloads)
    while len(came) < len(expected):
        came += broker.recv(1 << 20)
    assert expected == bytes(came)


def test_disconnect_is_written_before_the_socket_closes(joined):
    client, _, broker = joined
    client.publish("t", b"x", qos=0)
    client.disconnect()
    came = b""
    while piece := broker.recv(100):
        came += piece
    assert came.endswith(b"\xe0\x00")


def test_the_end_of_the_connection_is_told(joined):
    client, _, broker = joined
    ended = []
    client.on_disconnect = lambda *_: ended.append(True)
    broker.close()
    client.loop_read_for(1.0)
    assert [True] == ended
