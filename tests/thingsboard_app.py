"""An application on ThingsBoard's own Python client, unmodified, as a process of its own: its paho is not ours.

    python thingsboard_app.py PORT TOKEN CHUNK_BYTES TITLE VERSION

It asks for its firmware once, as the vendor's example does, and again for each line on its standard input. Every change of
`current_firmware_info` is a line of JSON on its standard output. The image is written into the working directory, under its title.
Without title and version ("-") it says what the client says by itself.
"""

import json
import logging
import sys
import threading
import time

from tb_device_mqtt import TBDeviceMqttClient


def main(port, token, chunk_bytes, title, version):
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
    client = TBDeviceMqttClient("127.0.0.1", int(port), username=token, chunk_size=int(chunk_bytes))
    client.connect(min_reconnect_delay=1, timeout=2)
    while not client.is_connected():
        time.sleep(0.01)
    if title != "-":
        client.current_firmware_info |= {"current_fw_title": title, "current_fw_version": version}
    client.get_firmware_update()
    threading.Thread(target=listen, args=[client], daemon=True).start()
    told = None
    while True:
        now = dict(client.current_firmware_info)
        if now != told:
            print(json.dumps(now), flush=True)
            told = now
        time.sleep(0.01)


def listen(client):
    for _ in sys.stdin:
        client.get_firmware_update()


if __name__ == "__main__":
    main(*sys.argv[1:])
