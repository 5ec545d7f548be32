"""The same block server as most people would write it first: no checks, no accounting. `naive.py aiomqtt|paho ...`"""

import asyncio
import socket
import sys
from pathlib import Path

import msgpack

FILTER = "$ota/get/+/+"


def answers(image: bytes, topic: str, payload: bytes):
    artifact, offset, size, count = msgpack.unpackb(payload)
    for index in range(count):
        at = offset + index * size
        yield topic.replace("/get/", "/block/"), msgpack.packb([artifact, at, image[at : at + size]])


async def with_aiomqtt(port: int, image: bytes) -> None:
    import aiomqtt

    nodelay = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    async with aiomqtt.Client("127.0.0.1", port, socket_options=nodelay) as client:
        await client.subscribe(FILTER)
        print("ready", flush=True)
        async for message in client.messages:
            for topic, payload in answers(image, str(message.topic), message.payload):
                await client.publish(topic, payload)


def with_paho(port: int, image: bytes) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    def on_message(client, _userdata, message) -> None:
        for topic, payload in answers(image, message.topic, message.payload):
            client.publish(topic, payload)

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.connect("127.0.0.1", port)
    client.subscribe(FILTER)
    client.loop_forever()


if __name__ == "__main__":
    stack, port, path = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if stack == "aiomqtt":
        asyncio.run(with_aiomqtt(port, path.read_bytes()))
    else:
        with_paho(port, path.read_bytes())
