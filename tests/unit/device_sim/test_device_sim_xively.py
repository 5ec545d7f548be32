"""The simulated Xively device against what the vendor's client put on the wire, and where that one would crash."""

import hashlib
import json
from pathlib import Path

import cbor2
import pytest

from device_sim.clients import xively_messages as messages
from device_sim.clients.model import ClientOptions, Incoming, Publish, Restart, Subscribe, WentWrong
from device_sim.clients.xively import XivelyClient, xively_client
from device_sim.clients.xively_ext import ExtClient

VECTORS = Path(__file__).parents[2] / "vectors/xively"
SAMPLES = json.loads((VECTORS / "samples.json").read_text())
CAPTURE = json.loads((VECTORS / "two_files.json").read_text())
CONTENT = bytes(range(256)) * 10  # two and a half chunks
DOWN = "xi/ctrl/v1/d1/cln"


def client(*variants, files=(), fetch_url=None, name="d1", version="1.0.0", state=None):
    names = {f"file={file}" for file in files}
    options = ClientOptions(
        product="p", name=name, version=version, variants=frozenset({*variants} | names), state=state
    )
    made = xively_client(options) if "ext" in variants else XivelyClient(options, fetch_url=fetch_url)
    made.started(0.0)
    return made


def connect(device):
    device.connected(0.0)
    return read(device.subscribed(DOWN, granted=True, now_s=0.0))


def read(actions):
    """Published messages as maps, anything else as it is."""
    return [cbor2.loads(one.payload) if isinstance(one, Publish) else one for one in actions]


def entry(name="firmware.bin", revision="2", content=CONTENT, **other):
    digest = hashlib.sha256(content).digest()
    return {"N": name, "R": revision, "O": 0, "S": len(content), "F": digest} | other


def send(device, message, **how):
    incoming = Incoming(topic=DOWN, payload=cbor2.dumps(message), **how)
    return read(device.received(incoming, 0.0))


def offer(device, *entries, **how):
    return send(device, {"msgtype": 1, "msgver": 1, "list": list(entries)}, **how)


def chunk(device, offset, content=CONTENT, name="firmware.bin", size=1024, **other):
    data = content[offset : offset + size]
    return send(
        device, {"msgtype": 3, "msgver": 1, "N": name, "R": "2", "O": offset, "L": len(data), "S": 0, "C": data} | other
    )


def serve(device, asked, contents):
    """Answer what it asks until it asks no more; returns what it said beside."""
    said = []
    while asked:
        one = asked.pop(0)
        if isinstance(one, dict) and one["msgtype"] == 2:
            asked += chunk(device, one["O"], contents[one["N"]], one["N"])
        else:
            said.append(one)
    return said


def statuses(said):
    return [(one["N"], one["P"], one["S"]) for one in said if isinstance(one, dict) and one["msgtype"] == 4]


# --- the wire ------------------------------------------------------------------------------------------------------


def test_it_writes_what_the_vendors_client_wrote_in_the_capture():
    device = client("factory", "posix", files=["file.cfg"], name=CAPTURE["device"], fetch_url=lambda url, name: None)
    down = CAPTURE["messages"][1]["topic"]
    assert [Subscribe(topic_filter=down, qos=1)] == list(device.connected(0.0))
    said = list(device.subscribed(down, granted=True, now_s=0.0))
    for message in CAPTURE["messages"]:
        assert message["qos"] == 0
        if message["to"] == "service":
            assert Publish(topic=message["topic"], payload=bytes.fromhex(message["hex"])) == said.pop(0)
        else:
            said += device.received(Incoming(topic=message["topic"], payload=bytes.fromhex(message["hex"])), 0.0)
    assert [] == said
    told = read(device.subscribed(down, granted=True, now_s=1.0))
    assert [{"N": "file.cfg", "R": "r2"}, {"N": "firmware.bin", "R": "r2"}] == told[0]["list"]


def written(sample):
    fields = sample["fields"]
    match sample["name"].partition("_")[0]:
        case "info":
            return messages.file_info([tuple(one) for one in fields["files"]], takes_urls=fields["takes_urls"])
        case "get":
            return messages.get_chunk(**fields)
    return messages.file_status(**fields)


@pytest.mark.parametrize(
    "sample", [one for one in SAMPLES["samples"] if one["to"] == "service"], ids=lambda one: one["name"]
)
def test_it_writes_the_samples_of_the_vendors_encoder(sample):
    assert sample["hex"] == written(sample).hex()


@pytest.mark.parametrize(
    "sample", [one for one in SAMPLES["samples"] if one["name"].startswith("available")], ids=lambda one: one["name"]
)
def test_it_reads_lists_as_the_vendors_decoder_does(sample):
    digest = hashlib.sha256(bytes.fromhex(SAMPLES["content"])).digest()
    expected = [messages.Listed(fingerprint=digest, **one) for one in sample["fields"]["files"]]
    assert messages.Available(files=tuple(expected)) == messages.read(bytes.fromhex(sample["hex"]))


@pytest.mark.parametrize("sample", [one for one in SAMPLES["samples"] if one["name"].startswith("chunk")])
def test_it_reads_chunks_as_the_vendors_decoder_does(sample):
    fields = sample["fields"]
    data = bytes.fromhex(fields["data"] or "")
    expected = messages.Chunk(name=fields["name"], offset=fields["offset"], data=data)
    assert expected == messages.read(bytes.fromhex(sample["hex"]))


@pytest.mark.parametrize(
    "change", [{"x": {"nested": [1.5, {"y": cbor2.CBORTag(7, [1])}]}}, {"msgver": 7}, {"msgver": None}]
)
def test_it_takes_what_the_c_decoder_takes(change):
    payload = cbor2.dumps({"list": [entry()], "msgtype": 1, "msgver": 1} | change)
    assert isinstance(messages.read(payload), messages.Available)


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"\x00", b"\x80", cbor2.dumps({"msgtype": 1}), cbor2.dumps({"msgtype": 9, "msgver": 1})]
)
def test_what_is_no_message_passes_unnoticed(payload):
    assert messages.read(payload) is None
    assert [] == client().received(Incoming(topic=DOWN, payload=payload), 0.0)


def test_bytes_after_the_map_make_it_no_message():
    payload = cbor2.dumps({"msgtype": 1, "msgver": 1, "list": [entry()]})
    assert messages.read(payload) is not None
    assert messages.read(payload + b"\x00") is None


def test_maps_of_indefinite_length_are_read_and_strings_in_chunks_are_not():
    head = bytes.fromhex("bf676d73677479706503666d736776657201614e6161614f00")
    assert messages.Chunk(name="a", offset=0, data=b"xy") == messages.read(head + b"\x61C\x42xy\xff")
    assert messages.Chunk(name="a", offset=0, data=b"") == messages.read(head + b"\x61C\x5f\x42xy\xff\xff")


@pytest.mark.parametrize("data", [b"\x81" * 70, b"\x5f" * 5000, b"\xc1" * 5000, b"\xbf\x61a" * 2000])
def test_what_is_too_deep_passes_unnoticed(data):
    assert messages.read(data) is None


# --- the library, as it should go ----------------------------------------------------------------------------------


def test_file_info_tells_the_stored_revisions_and_says_so_where_there_is_none():
    (told,) = connect(client(files=["config"]))
    assert [
        {"N": "config", "R": "revision is not available on the device, this is a generated revision 0"},
        {"N": "firmware.bin", "R": "1.0.0"},
    ] == told["list"]
    assert told["L"] is False


def test_the_older_library_and_the_other_client_say_nothing_of_urls():
    assert "L" not in connect(client("lib-a"))[0]
    (told,) = connect(client("ext"))
    assert {"msgtype": 0, "msgver": 1, "list": [{"N": "firmware", "R": "-1"}]} == told


@pytest.mark.parametrize("variants", [(), ("lib-a",), ("esp32",), ("cc3220",)])
def test_a_package_ends_with_the_firmware_and_a_restart(variants):
    device = client(*variants, files=["config"])
    name = "firmware.tar" if "cc3220" in variants else "firmware.bin"
    connect(device)
    contents = {"config": b"a=1\n", name: CONTENT}
    asked = offer(device, *(entry(one, content=content) for one, content in contents.items()))
    said = serve(device, asked, contents)
    assert [("config", 3, 0), ("config", 5, 0), (name, 3, 0), (name, 4, 0)] == statuses(said)
    assert isinstance(said[-1], Restart)
    assert ("1.0.0", 0) == (device.outcome.version, device.outcome.installs)
    device.disconnected(1.0)
    device.started(2.0)
    assert [{"N": "config", "R": "2"}, {"N": name, "R": "2"}] == connect(device)[0]["list"]
    assert ("2", 1, 1) == (device.outcome.version, device.outcome.installs, device.outcome.restarts)
    assert hashlib.sha256(CONTENT).hexdigest() == device.outcome.sha256
    assert CONTENT == device.files.read(name)


@pytest.mark.parametrize(("port", "restarts"), [("esp32", 0), ("cc3220", 1)])
def test_a_package_without_firmware_restarts_only_the_port_that_always_does(port, restarts):
    device = client(port, files=["config"])
    connect(device)
    said = serve(device, offer(device, entry("config")), {"config": CONTENT})
    assert restarts == sum(isinstance(one, Restart) for one in said)
    assert "2" == device.files.revision("config")


def test_a_firmware_that_does_not_come_up_leaves_the_old_revision():
    device = client("rolls-back")
    connect(device)
    serve(device, offer(device, entry()), {"firmware.bin": CONTENT})
    device.started(2.0)
    assert [{"N": "firmware.bin", "R": "1.0.0"}] == connect(device)[0]["list"]
    assert ("1.0.0", 0) == (device.outcome.version, device.outcome.installs)
    assert ("firmware.bin", "2") == device.files.mailed()


@pytest.mark.parametrize(("port", "revision"), [("cc3200", "1.0.0"), ("esp32", "2")])
def test_a_firmware_file_of_a_package_that_broke_later_is_claimed_by_the_esp32_port_alone(port, revision):
    device = client(port, files=["config"])
    connect(device)
    asked = offer(device, entry(), entry("config"))
    while asked and asked[-1]["N"] == "firmware.bin":
        asked = chunk(device, asked[-1]["O"])
    device.disconnected(1.0)
    assert {"N": "firmware.bin", "R": revision} in connect(device)[0]["list"]
    assert "1.0.0" == device.outcome.version


def test_a_connection_that_breaks_loses_the_package_but_not_the_files_that_were_finished():
    device = client(files=["config"])
    connect(device)
    asked = offer(device, entry("config", content=b"abc"), entry())
    asked = chunk(device, 0, b"abc", "config")
    assert [("config", 3, 0), ("config", 5, 0)] == statuses(asked)
    chunk(device, 0)
    device.disconnected(1.0)
    assert [{"N": "config", "R": "2"}, {"N": "firmware.bin", "R": "1.0.0"}] == connect(device)[0]["list"]
    assert [] == chunk(device, 1024)
    assert b"" == device.files.read("firmware.bin"), "destroyed, while its revision stays"


def test_a_new_list_starts_again_at_the_first_byte():
    device = client()
    connect(device)
    asked = offer(device, entry())
    chunk(device, 0)  # and the next chunk is lost
    asked = offer(device, entry())
    assert [0] == [one["O"] for one in asked]
    assert [("firmware.bin", 3, 0), ("firmware.bin", 4, 0)] == statuses(serve(device, asked, {"firmware.bin": CONTENT}))


def test_chunks_shorter_and_longer_than_asked_are_taken():
    device = client()
    connect(device)
    offer(device, entry())
    assert 100 == chunk(device, 0, size=100)[0]["O"]
    assert [("firmware.bin", 3, 0), ("firmware.bin", 4, 0)] == statuses(chunk(device, 100, size=60_000))


def test_it_keeps_its_files_over_another_start_of_the_process(tmp_path):
    device = client(state=tmp_path)
    connect(device)
    serve(device, offer(device, entry()), {"firmware.bin": CONTENT})
    device.started(1.0)
    connect(device)
    again = client(state=tmp_path, version="0.1")
    assert "2" == again.outcome.version
    assert [{"N": "firmware.bin", "R": "2"}] == connect(again)[0]["list"]


# --- the library, where it stops ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"), [({"F": b"\0" * 32}, -5), ({"F": hashlib.sha256(CONTENT).hexdigest()}, -5)]
)
def test_a_fingerprint_that_does_not_hold_stops_the_package_without_another_word(change, code):
    device = client(files=["config"])
    connect(device)
    said = serve(device, offer(device, entry("config", **change), entry()), {"config": CONTENT})
    assert [("config", 3, code)] == statuses(said)
    assert ("config P3 S-5",) == device.outcome.failures
    assert not device.outcome.is_busy
    asked = offer(device, entry("config"), entry())
    assert 4 == len(statuses(serve(device, asked, {"config": CONTENT, "firmware.bin": CONTENT})))


def test_flash_that_does_not_keep_what_is_written_fails_every_time():
    device = client("bad-flash")
    connect(device)
    for _ in range(2):
        said = serve(device, offer(device, entry()), {"firmware.bin": CONTENT})
        assert [("firmware.bin", 3, -5)] == statuses(said)


@pytest.mark.parametrize("change", [{"C": b""}, {"C": None, "S": 4}])
def test_an_empty_chunk_stops_the_package(change):
    device = client()
    connect(device)
    offer(device, entry())
    assert [("firmware.bin", 4, -3)] == statuses(chunk(device, 0, **change))


def test_a_file_of_no_bytes_cannot_be_fetched():
    device = client()
    connect(device)
    (asked,) = offer(device, entry(content=b""))
    assert (0, 0) == (asked["O"], asked["L"])
    assert [("firmware.bin", 4, -3)] == statuses(chunk(device, 0, b""))


@pytest.mark.parametrize(("variant", "phase"), [("lib-a", 4), ("lib-b", 3)])
def test_a_chunk_of_another_file_is_told_and_waited_past(variant, phase):
    device = client(variant)
    connect(device)
    offer(device, entry())
    assert [("firmware.bin", phase, -1)] == statuses(chunk(device, 0, name="other"))
    assert 1024 == chunk(device, 0)[0]["O"]


# --- URLs -----------------------------------------------------------------------------------------------------------


def test_a_file_by_url_is_fetched_by_the_app():
    device = client(fetch_url=lambda url, name: CONTENT)
    assert connect(device)[0]["L"] is True
    said = offer(device, entry(L="http://h/f"))
    assert [("firmware.bin", 2, 0), ("firmware.bin", 3, 0), ("firmware.bin", 4, 0)] == statuses(said)
    assert isinstance(said[-1], Restart)


@pytest.mark.parametrize(
    ("fetched", "told"),
    [(None, [("firmware.bin", 2, -6)]), (b"wrong", [("firmware.bin", 2, 0), ("firmware.bin", 3, -7)])],
)
@pytest.mark.parametrize("by_mqtt", [True, False])
def test_a_url_that_fails_leaves_mqtt_if_that_was_offered_too(fetched, told, by_mqtt):
    device = client(fetch_url=lambda url, name: fetched)
    connect(device)
    said = offer(device, entry(L="http://h/f", M=by_mqtt))
    assert told == statuses(said)
    assert ([0] if by_mqtt else []) == [one["O"] for one in said if one["msgtype"] == 2]


@pytest.mark.parametrize("variant", ["lib-a", "lib-b"])
def test_a_device_that_takes_no_urls_asks_over_mqtt_where_it_may(variant):
    device = client(variant)
    connect(device)
    assert [2] == [one["msgtype"] for one in offer(device, entry(L="http://h/f", M=True))]


# --- where the real one would crash or hang -------------------------------------------------------------------------


def test_a_chunk_twice_spoils_the_hash_and_one_more_is_a_null_pointer():
    device = client()
    connect(device)
    offer(device, entry())
    chunk(device, 0)
    first, second = chunk(device, 1024), chunk(device, 1024)
    assert [2048, 2048] == [first[0]["O"], second[0]["O"]]
    assert [("firmware.bin", 3, -5)] == statuses(chunk(device, 2048))
    with pytest.raises(WentWrong, match="null pointer"):
        chunk(device, 2048)


def test_a_list_without_the_firmware_that_was_begun_is_a_use_after_free_when_the_package_ends():
    device = client(files=["config"])
    connect(device)
    offer(device, entry())
    asked = offer(device, entry("config", content=b"abc"))
    assert [0] == [one["O"] for one in asked]
    with pytest.raises(WentWrong, match="use after free"):
        chunk(device, 0, b"abc", "config")


def test_the_firmware_of_an_earlier_connection_is_forgotten():
    device = client(files=["config"])
    connect(device)
    offer(device, entry())
    device.disconnected(1.0)
    connect(device)
    offer(device, entry("config", content=b"abc"))
    assert [("config", 3, 0), ("config", 5, 0)] == statuses(chunk(device, 0, b"abc", "config"))


def test_a_chunk_that_was_on_its_way_when_a_new_list_came_is_not_taken_for_its_first():
    device = client()
    connect(device)
    offer(device, entry())
    chunk(device, 0)
    offer(device, entry())
    with pytest.raises(WentWrong, match="on its way"):
        chunk(device, 1024)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{key: value for key, value in entry().items() if key != "R"}], "without its R"),
        ([entry(N=b"firmware.bin")], "without its N"),
        ([entry("../x")], "out of the directory"),
        ([entry("sub/x")], "out of the directory"),
        ([entry(L="http://h/f", M=False)], "by URL alone"),
    ],
)
def test_lists_that_hang_or_harm_it(entries, said):
    device = client()
    connect(device)
    with pytest.raises(WentWrong, match=said):
        offer(device, *entries)


def test_a_name_twice_in_a_list_holds_the_older_library_for_ever():
    with pytest.raises(WentWrong, match="twice"):
        offer(client("lib-a"), entry(), entry())
    assert 1 == len(offer(client("lib-b"), entry(), entry()))


def test_an_empty_list_does_nothing_unless_it_downloads():
    device = client()
    assert [] == offer(device)
    offer(device, entry())
    with pytest.raises(WentWrong, match="freed memory"):
        offer(device)


def test_a_retained_list_is_refused():
    with pytest.raises(WentWrong, match="retained"):
        offer(client(), entry(), retain=True)


def test_a_chunk_of_64_kib_wraps():
    device = client()
    offer(device, entry())
    with pytest.raises(WentWrong, match="wraps"):
        chunk(device, 0, bytes(65_536), size=65_536)


def test_the_older_library_dies_of_a_chunk_where_nothing_is_downloaded():
    assert [] == chunk(client("lib-b"), 0)
    with pytest.raises(WentWrong, match="null pointer"):
        chunk(client("lib-a"), 0)


@pytest.mark.parametrize("variant", ["lib-b", "ext"])
def test_a_broker_that_refuses_its_topic_silences_it(variant):
    with pytest.raises(WentWrong, match="refuses"):
        client(variant).subscribed(DOWN, granted=False, now_s=0.0)


# --- the other client -----------------------------------------------------------------------------------------------


def hexed(name="firmware", content=CONTENT, **other):
    return entry(name, content=content, F=hashlib.sha256(content).hexdigest()) | other


def ext_chunk(device, offset, content=CONTENT, **other):
    return chunk(device, offset, content, "firmware", **other)


def test_the_other_client_installs_and_restarts_without_a_word():
    device = client("ext")
    assert isinstance(device, ExtClient)
    connect(device)
    asked = offer(device, hexed())
    lengths = []
    while isinstance(asked[0], dict):
        lengths.append((asked[0]["O"], asked[0]["L"]))
        asked = ext_chunk(device, asked[0]["O"])
    assert [(0, 1024), (1024, 1024), (2048, 1024)] == lengths
    assert [Restart] == [type(one) for one in asked]
    for message in ({"msgtype": 1, "msgver": 1, "list": [hexed()]}, {"msgtype": 3, "msgver": 1}):
        with pytest.raises(WentWrong, match="restart"):
            send(device, message)
    device.started(9.0)
    assert ("2", 1, 1) == (device.outcome.version, device.outcome.installs, device.outcome.restarts)
    assert "-1" == connect(device)[0]["list"][0]["R"]


def test_the_other_client_takes_the_hex_as_bytes_and_no_raw_digest():
    device = client("ext")
    offer(device, hexed(F=hashlib.sha256(CONTENT).hexdigest().encode()))
    assert isinstance(serve(device, [{"msgtype": 2, "N": "firmware", "O": 0}], {"firmware": CONTENT})[-1], Restart)
    device = client("ext")
    offer(device, hexed(F=hashlib.sha256(CONTENT).digest()))
    assert [] == serve(device, [{"msgtype": 2, "N": "firmware", "O": 0}], {"firmware": CONTENT})
    assert ("fingerprint mismatch",) == device.outcome.failures


def test_the_other_client_tells_its_files_once_for_each_start():
    device = client("ext")
    assert 1 == len(connect(device))
    device.disconnected(1.0)
    assert [] == connect(device)
    device.started(2.0)
    assert 1 == len(connect(device))


def test_the_other_client_takes_no_new_list_until_an_error_or_a_restart():
    device = client("ext")
    assert 1 == len(offer(device, hexed()))
    device.disconnected(1.0)
    assert [] == offer(device, hexed())
    assert [] == ext_chunk(device, 0, S=4, C=None)
    assert [0] == [one["O"] for one in offer(device, hexed())]


@pytest.mark.parametrize(
    "change",
    [
        {"O": 1},
        {"C": b""},
        {"C": bytes(3000)},
        {"C": None},
        {"S": 2},
        {"msgver": 2},
    ],
)
def test_the_other_client_gives_up_on_a_chunk_that_is_not_the_one(change):
    device = client("ext")
    offer(device, hexed())
    assert [] == [one for one in ext_chunk(device, 0, **change) if change != {"S": 2}]
    assert not device.outcome.is_busy
    assert 1 == len(device.outcome.failures)


@pytest.mark.parametrize(
    "entries", [[], [hexed("firmware.bin")], [hexed(), hexed("x")], [hexed(F="0" * 65)], [hexed(R=1)]]
)
def test_the_other_client_gives_up_on_a_list_that_is_not_for_it(entries):
    device = client("ext")
    assert [] == offer(device, *entries)
    assert 1 == len(device.outcome.failures)
