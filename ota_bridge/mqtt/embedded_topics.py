"""Who gets a message of the embedded broker: its table of topic filters, and the packet they are sent."""

from collections.abc import Iterator
from typing import Any

from ota_bridge.wire import matches_levels


class Subscriptions(dict[str, list[tuple[Any, int]]]):
    """amqtt's filter table: iteration sees a snapshot, and a topic finds its filters without scanning all."""

    def __init__(self) -> None:
        super().__init__()
        self._wildcards: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def __setitem__(self, topic_filter: str, subscribers: list[tuple[Any, int]]) -> None:
        super().__setitem__(topic_filter, subscribers)
        if "+" in topic_filter or "#" in topic_filter:
            self._wildcards[topic_filter] = topic_filter.split("/")

    def __delitem__(self, topic_filter: str) -> None:
        super().__delitem__(topic_filter)
        self._wildcards.pop(topic_filter, None)

    def clear(self) -> None:
        super().clear()
        self._wildcards.clear()

    def matching(self, topic: str) -> Iterator[tuple[Any, int]]:
        """Every (session, QoS) that wants this topic; a snapshot."""
        found = list(self.get(topic, ()))
        if self._wildcards:
            levels = topic.split("/")
            for topic_filter, parts in self._wildcards.items():
                if matches_levels(parts, levels):
                    found.extend(self[topic_filter])
        return iter(found)


def publish_qos0(topic: str, data: bytes | bytearray) -> bytes:
    """The PUBLISH packet of QoS 0 (MQTT 3.1.1 §3.3)."""
    name = topic.encode()
    remaining = 2 + len(name) + len(data)
    head = bytearray(b"\x30")
    while remaining > 127:  # noqa: PLR2004 (seven bits a byte, MQTT 3.1.1 §2.2.3)
        head.append(remaining & 0x7F | 0x80)
        remaining >>= 7
    head.append(remaining)
    return b"".join((head, len(name).to_bytes(2, "big"), name, data))
