"""The simulated Tencent device against what the vendor's SDK put on the wire, and where that one hangs or crashes."""

import hashlib
import json

import pytest
from tencent_line import DOWN, NAME, PRODUCT, UP, URL, FileServer, World, device, image, notice, offers, vector

from device_sim.clients.model import Incoming, Subscribe, WentWrong
from device_sim.clients.tencent_scan import value_of
from device_sim.errors import OptionError

SMALL = image(20_000)
BIG = image(300_000)


def updated(*variants, content=SMALL, server=None, for_s=120.0, **changed):
    client = device(*variants)
    return World(client, server or FileServer(content), offers(content, **changed)).run(for_s=for_s)


# --- as recorded ---------------------------------------------------------------------------------------------------


def replay(recorded, world, content, *, restarts_at_s=None):
    """Give it what the recorded server sent, after what that answered; the files are of our own."""
    steps = [step for step in recorded["steps"] if step["event"] != "connected"]
    md5 = hashlib.md5(content).hexdigest()
    heard = 0
    for index, step in enumerate(steps):
        if step["event"] == "up":
            heard += 1
            world.run(until=lambda wanted=heard: len(world.said) >= wanted)
            continue
        text = step["text"]
        if "md5sum" in text:
            text = json.dumps(json.loads(text) | {"md5sum": md5})
        world.send(step["topic"], text, qos=1)
        if restarts_at_s is not None and index == restarts_at_s:
            world.kill()
    return [step for step in steps if step["event"] == "up"]


def same(recorded, world):
    assert [(step["topic"], step["qos"], step["text"]) for step in recorded] == [
        (action.topic, action.qos, action.payload.decode()) for _, action in world.said[: len(recorded)]
    ]


def test_an_update_goes_as_recorded_byte_for_byte():
    recorded = vector("hub_update")
    world = World(device(), FileServer(BIG))
    ups = replay(recorded, world, BIG)
    same(ups, world)
    assert [recorded["http"][0]["request"].encode()] == world.server.requests
    began, ended = ups[1]["at_s"], ups[-1]["at_s"]
    assert world.said[len(ups) - 1][0] - world.said[1][0] == pytest.approx(ended - began, abs=0.1)


def test_a_killed_one_resumes_as_recorded():
    recorded = vector("resume")
    at = [index for index, step in enumerate(recorded["steps"]) if step["event"] == "connected"][1]
    first, second = ({**recorded, "steps": recorded["steps"][1:at]}, {**recorded, "steps": recorded["steps"][at + 1 :]})
    world = World(device(), FileServer(BIG))
    ups = replay(first, world, BIG)
    same(ups, world)
    said = len(world.said)
    world.kill()
    world.said.clear()
    ups = replay(second, world, BIG)
    same(ups, world)
    assert said
    assert [one["request"].encode() for one in recorded["http"]] == world.server.requests


def test_a_gateway_speaks_for_its_children_as_recorded():
    content = image(100_000)
    world = World(device("gateway", version="0.1"), FileServer(content))
    ups = replay(vector("gateway"), world, content)
    same(ups, world)
    assert ["$gateway/operation/result/PROD0001AB/dev01", "$ota/update/E69UADXUYY/light1"] == [
        one.topic_filter for one in world.subscribed[:2]
    ]


def test_a_resumed_download_that_is_whole_already_is_answered_by_416():
    world = World(device(), FileServer(SMALL), offers(SMALL))
    world.client.ota._files.keep("2.0.0", 0, SMALL)
    world.run()
    assert b"Range: bytes=20000-20000\r\n" in world.server.requests[0]
    assert ["runs 1.0.0", "100", "done", "runs 2.0.0"] == world.words()


# --- who it is -----------------------------------------------------------------------------------------------------


def test_its_connection_names_product_and_device_without_a_separator_and_is_new_each_time():
    client = device(secret="AAECAwQFBgcICQoLDA0ODw==")
    first, second = client.session(), client.session()
    assert "PROD0001ABdev01" == first.client_id
    assert (240, True) == (first.keepalive_s, first.is_clean)
    assert ["PROD0001ABdev01", "21010406", "9223372036854775807"] == [
        part for index, part in enumerate(first.username.split(";")) if index != 2
    ]
    assert first.username != second.username
    assert first.password.endswith(";hmacsha1")
    assert 40 + len(";hmacsha1") == len(first.password)


def test_its_password_is_the_one_that_was_recorded():
    client = device(secret="AAECAwQFBgcICQoLDA0ODw==")
    client.link._rng = type("Fixed", (), {"choice": lambda self, _: next(letters)})()
    letters = iter("kPa5Y")
    username = "PROD0001ABdev01;21010406;kPa5Y;9223372036854775807"
    found = client.session()
    assert (username, "d6105c5a35ddd93da1ce932bcca51a6247d914b2;hmacsha1") == (found.username, found.password)


def test_with_tls_there_is_no_password():
    assert device("tls", secret="AAECAwQFBgcICQoLDA0ODw==").session().password is None


@pytest.mark.parametrize(
    "changes",
    [
        {"product": "P" * 11},
        {"name": "n" * 49},
        {"secret": "not base64!"},
    ],
)
def test_what_the_sdk_cannot_be_given_is_refused(changes):
    with pytest.raises(OptionError):
        device(**changes)


@pytest.mark.parametrize("variant", ["via=8080", "via=host:x"])
def test_a_way_round_that_is_none_is_refused(variant):
    with pytest.raises(OptionError, match="via="):
        device(variant)


def test_a_name_of_40_is_the_longest_that_has_topics():
    assert device(name="n" * 40).ota.down.endswith("n" * 40)
    with pytest.raises(WentWrong, match="longer than 63"):
        device(name="n" * 41)


def test_it_puts_every_topic_under_the_prefix():
    world = World(device(prefix="t/x/")).run(for_s=1)
    assert ("t/x/" + DOWN, "t/x/" + UP) == (world.subscribed[0].topic_filter, world.said[0][1].topic)


# --- what it hears -------------------------------------------------------------------------------------------------


def test_it_reports_once_half_a_second_after_suback_and_then_waits():
    world = World(device()).run(for_s=1000)
    assert [("runs 1.0.0", 0.5)] == [(word, at_s) for word, (at_s, _) in zip(world.words(), world.said, strict=True)]


def test_a_notice_before_its_report_is_lost():
    world = World(device(), FileServer(SMALL))
    world.send(DOWN, notice(SMALL))
    world.run()
    assert ["runs 1.0.0"] == world.words()
    assert ["it is deaf"] == world.client.ota.unheard


def test_a_notice_that_comes_long_after_the_report_is_taken():
    world = World(device(), FileServer(SMALL)).run(for_s=500)
    world.send(DOWN, notice(SMALL))
    world.run()
    assert ["runs 1.0.0", "0", "100", "done", "runs 2.0.0"] == world.words()


def test_a_second_notice_while_it_downloads_changes_nothing():
    world = World(device(), FileServer(SMALL), offers(SMALL))
    world.run(until=lambda: world.server.requests)
    world.send(DOWN, notice(SMALL, version="3.0.0"))
    world.run()
    assert ["runs 1.0.0", "0", "100", "done", "runs 2.0.0"] == world.words()


def test_what_comes_in_the_pause_after_a_failure_is_lost():
    world = World(
        device(), FileServer(SMALL, head="HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), offers(SMALL)
    )
    world.run(until=lambda: len(world.client.outcome.failures) == 2)
    world.answer = lambda *_: ()
    world.send(DOWN, notice(SMALL))
    world.run(for_s=30)
    assert ["runs 1.0.0", "-2", "-5", "runs 1.0.0"] == world.words()


@pytest.mark.parametrize("key", ["version", "url", "md5sum", "file_size", "type"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_notice_without_one_of_its_keys_is_passed_over_and_a_good_one_is_still_taken(key, value):
    world = World(device(), FileServer(SMALL)).run(for_s=1)
    world.send(DOWN, notice(SMALL, **{key: value}))
    world.run(for_s=5)
    assert ["runs 1.0.0"] == world.words()
    world.send(DOWN, notice(SMALL))
    world.run()
    assert "done" in world.words()


@pytest.mark.parametrize("text", ["\n{0}", "\t{0}", "\ufeff{0}", '{{"type":"cancel_update"}}', "[{0}]", ""])
def test_what_it_cannot_read_is_passed_over(text):
    world = World(device(), FileServer(SMALL)).run(for_s=1)
    world.send(DOWN, text.format(notice(SMALL)))
    world.run(for_s=5)
    assert ["runs 1.0.0"] == world.words()


@pytest.mark.parametrize("code", ["0", 0])
def test_a_good_answer_to_its_report_changes_nothing(code):
    world = World(device(), FileServer(SMALL)).run(for_s=1)
    world.send(DOWN, json.dumps({"type": "report_version_rsp", "result_code": code, "result_msg": "success"}))
    world.send(DOWN, notice(SMALL))
    assert "done" in world.run().words()


@pytest.mark.parametrize("body", [{"result_code": 1}, {"result_code": "-1"}, {}])
def test_any_other_answer_to_its_report_is_the_end_of_it(body):
    world = World(device()).run(for_s=1)
    with pytest.raises(WentWrong, match="hears nothing any more"):
        world.send(DOWN, json.dumps({"type": "report_version_rsp"} | body))


def test_a_longer_packet_before_can_stand_in_for_what_is_missing():
    world = World(device(), FileServer(SMALL)).run(for_s=1)
    world.send(DOWN, '{"type":"x","fill":' + "1" * 200 + ',"result_code":"0"}')
    world.send(DOWN, '{"type":"report_version_rsp"}')
    world.send(DOWN, notice(SMALL))
    assert "done" in world.run().words()


def test_packet_ids_are_remembered_over_a_reconnection_and_not_over_a_restart():
    world = World(device(), FileServer(SMALL)).run(for_s=1)
    world.send(DOWN, '{"type":"x"}', qos=1)
    world.cut()
    world.connect()
    world.run(for_s=1)
    world.send(DOWN, notice(SMALL), qos=1)
    world.run(for_s=30)
    assert ["runs 1.0.0"] == world.words()
    assert [f"packet 1 on {DOWN}: that id was here already"] == world.client.link.lost
    world.kill()
    world.run(for_s=1)
    world.send(DOWN, notice(SMALL), qos=1)
    assert "done" in world.run().words()


def test_ten_packet_ids_are_remembered():
    link = device().link
    for number in (*range(1, 12), 1):
        assert link.take(Incoming(topic=DOWN, payload=b"{}", qos=1, packet_id=number)) is not None
    assert link.take(Incoming(topic=DOWN, payload=b"{}", qos=1, packet_id=3)) is None
    assert link.take(Incoming(topic=DOWN, payload=b"{}", qos=0)) is not None


@pytest.mark.parametrize(("size", "gets_through"), [(2045, True), (2046, False)])
@pytest.mark.parametrize("qos", [0, 1])
def test_2045_bytes_are_the_longest_that_gets_through(size, gets_through, qos):
    payload = b" " * (size - 2 - len(DOWN) - 2 * qos)
    found = device().link.take(Incoming(topic=DOWN, payload=payload, qos=qos, packet_id=1))
    assert gets_through is (found is not None)


def test_a_broker_that_refuses_its_topic_silences_it():
    client = device()
    client.started(0.0)
    client.connected(0.0)
    with pytest.raises(WentWrong, match="refuses"):
        client.subscribed(DOWN, granted=False, now_s=0.0)


def test_without_a_suback_in_2_s_it_says_nothing():
    client = device()
    client.started(0.0)
    assert [Subscribe(topic_filter=DOWN, qos=1)] == client.connected(0.0)
    assert 2.0 == client.next_deadline()
    with pytest.raises(WentWrong, match="SUBACK"):
        client.tick(2.0)


def test_the_scanner_undoes_no_escapes_and_finds_what_is_left_over():
    assert "http:\\/\\/h" == value_of(b'{"url":"http:\\/\\/h"}', "url")
    assert "a\\u0026b" == value_of(b'{"url":"a\\u0026b"}', "url")
    assert "7" == value_of(b'  {"a": {"n": 1}, "b": [1,{"n":2}], "c":true, "d":null, "e":"", "n" : 7 }', "n")
    assert '{"n": 1}' == value_of(b'{"a": {"n": 1}}', "a")
    assert "later" == value_of(b'{"type":"x"}{"n":"later"}', "n")
    assert value_of(b'{"n":null}', "n") is None
    assert value_of(b'{"n":1', "n") is None
    assert value_of(b"{", "n") is None


# --- a link that breaks --------------------------------------------------------------------------------------------


def test_a_link_that_breaks_while_it_waits_comes_back_without_a_report():
    world = World(device()).run(for_s=5)
    world.cut()
    world.connect()
    world.run()
    assert ["runs 1.0.0"] == world.words()
    assert 2 == len(world.subscribed)


def test_a_link_that_breaks_during_a_download_ends_it_without_a_word_and_it_resumes():
    world = World(device(), FileServer(BIG), offers(BIG))
    world.run(until=lambda: "34" in world.words())
    world.cut()
    world.connect()
    world.run()
    assert ["runs 1.0.0", "0", "18", "34", "runs 1.0.0", "36"] == world.words()[:6]
    assert ["100", "done", "runs 2.0.0"] == world.words()[-3:]
    assert hashlib.sha256(BIG).hexdigest() == world.client.outcome.sha256
    assert [b"bytes=0-300000", b"bytes=104979-300000"] == [
        request.partition(b"Range: ")[2].strip() for request in world.server.requests
    ]


# --- how it ends ---------------------------------------------------------------------------------------------------


def test_after_done_it_starts_again_with_the_new_version_and_says_so():
    world = updated()
    assert ["runs 1.0.0", "0", "100", "done", "runs 2.0.0"] == world.words()
    found = world.client.outcome
    assert ("2.0.0", 1, 1, False) == (found.version, found.installs, found.restarts, found.is_busy)


def test_the_stock_sample_runs_its_old_version_for_ever():
    world = updated("stock", for_s=20)
    assert ["runs 1.0.0", "0", "100", "done"] * 2 == world.words()[:8]
    assert "1.0.0" == world.client.outcome.version


HEAD = "HTTP/1.1 {}\r\n{}\r\n"


@pytest.mark.parametrize(
    ("server", "codes"),
    [
        ({"head": HEAD.format("404 Not Found", "Content-Length: 0\r\n")}, ["-2", "-5"]),
        ({"head": HEAD.format("403 Forbidden", "Content-Length: 0\r\n")}, ["-3", "-5"]),
        ({"head": HEAD.format("200 OK", "content-length: 20000\r\n")}, ["-5"]),
        ({"head": HEAD.format("200 OK", "Content-Length:20000\r\n")}, ["-5"]),
        ({"head": HEAD.format("200 OK", "Connection: close\r\n")}, ["-5"]),
        ({"head": HEAD.format("200 OK", "Transfer-Encoding: chunked\r\n")}, ["-2", "-5"]),
        ({"head": HEAD.format("200 OK", "X: " + "x" * 1000 + "\r\nContent-Length: 20000\r\n")}, ["-5"]),
        ({"head": "nonsense\r\n\r\n"}, ["-5"]),
        ({"stalls_at": 10_000}, ["-5"]),
        ({"stalls_at": -1000}, ["-5"]),
        ({"body": b"x" * 20_000}, ["-4"]),
        ({"head": HEAD.format("200 OK", "Content-Length: 20000\r\n"), "body": SMALL[:9000]}, ["-5"]),
    ],
)
def test_what_it_reports_of_a_bad_answer(server, codes):
    world = World(device(), FileServer(SMALL, **server), offers(SMALL))
    world.run(until=lambda: len(world.client.outcome.failures) >= len(codes))
    assert codes == list(world.client.outcome.failures)
    assert codes == world.words()[-len(codes) :]
    world.answer = lambda *_: ()
    assert "runs 1.0.0" == world.run(for_s=30).words()[-1]


@pytest.mark.parametrize(("codes", "pause_s"), [(2, 3.5), (1, 13.5)])
def test_it_reports_again_after_a_pause_that_is_longer_when_the_md5_was_wrong(codes, pause_s):
    bad = {"body": b"x" * 20_000} if codes == 1 else {"head": HEAD.format("404 Not Found", "Content-Length: 0\r\n")}
    world = World(device(), FileServer(SMALL, **bad), offers(SMALL))
    world.run(until=lambda: len(world.client.outcome.failures) == codes)
    failed_at_s = world.now_s
    world.answer = lambda *_: ()
    world.run(for_s=60)
    assert world.said[-1][0] - failed_at_s == pytest.approx(pause_s)


@pytest.mark.parametrize(
    "status", ["301 Moved", "307 Temporary Redirect", "500 Internal Server Error", "503 Busy", "400 Bad"]
)
def test_a_status_that_it_does_not_know_hangs_it(status):
    world = World(device(), FileServer(SMALL, head=HEAD.format(status, "Content-Length: 3\r\n")), offers(SMALL))
    with pytest.raises(WentWrong):
        world.run()


@pytest.mark.parametrize("status", ["200 OK", "206 Partial Content"])
def test_status_200_and_206_are_the_same_to_it(status):
    head = HEAD.format(status, "Connection: close\r\nContent-Length: 20000\r\n")
    assert "done" in updated(server=FileServer(SMALL, head=head)).words()


def test_a_whole_file_in_answer_to_a_resumption_spoils_it_once():
    world = World(device(), FileServer(BIG), offers(BIG))
    world.run(until=lambda: "34" in world.words())
    world.cut()
    world.server.head = HEAD.format("200 OK", "Content-Length: 300000\r\n")
    world.server.body = BIG
    world.connect()
    world.run()
    assert ("-4",) == world.client.outcome.failures
    assert "2.0.0" == world.client.outcome.version


def test_another_image_under_the_same_version_goes_on_where_the_first_ended():
    other = image(300_001)[1:]
    world = World(device(), FileServer(BIG), offers(BIG))
    world.run(until=lambda: "34" in world.words())
    world.server.content, world.answer = other, offers(other)
    world.kill()
    world.run()
    assert ("-4",) == world.client.outcome.failures
    assert hashlib.sha256(other).hexdigest() == world.client.outcome.sha256


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"file_size": 0}, "divides by zero"),
        ({"file_size": "many"}, "divides by zero"),
        ({"file_size": 20_001}, "waits for ever"),
        ({"version": "v" * 33}, "cannot say how it ended"),
        ({"url": "http://h/" + "p" * 1000}, "no end"),
    ],
)
def test_a_notice_that_hangs_or_crashes_it(changed, why):
    world = World(device(), FileServer(SMALL), offers(SMALL, **changed))
    with pytest.raises(WentWrong, match=why):
        world.run()


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"file_size": 10_000}, "-4"),
        ({"md5sum": hashlib.md5(SMALL).hexdigest().upper()}, "-4"),
        ({"url": "http:\\/\\/ota.test\\/fw.bin"}, "-5"),
        ({"url": "http://ota.test:80/fw.bin"}, "-5"),
        ({"url": "http://" + "h" * 64 + "/fw.bin"}, "-5"),
        ({"url": "http://h/" + "p" * 1024}, "-5"),
        ({"version": "a/b"}, "-5"),
    ],
)
def test_a_notice_that_it_fails_on(changed, code):
    world = World(device(), FileServer(SMALL), offers(SMALL, **changed))
    world.run(until=lambda: world.client.outcome.failures)
    assert (code,) == world.client.outcome.failures


def test_the_explorer_survives_a_size_of_0():
    world = World(device("explorer"), FileServer(SMALL), offers(SMALL, file_size=0))
    world.run(until=lambda: world.client.outcome.failures)
    assert ("-5",) == world.client.outcome.failures


def test_an_md5_or_a_size_of_too_many_characters_is_no_notice():
    world = World(device(), FileServer(SMALL)).run(for_s=1)
    world.send(DOWN, notice(SMALL, md5sum="0" * 33))
    world.send(DOWN, notice(SMALL, file_size="0" * 17))
    assert ["runs 1.0.0"] == world.run().words()


@pytest.mark.parametrize(
    ("variants", "url", "port"),
    [
        ((), URL, 80),
        ((), "https://ota.test/fw.bin", 443),
        (("explorer",), "https://ota.test/fw.bin", 80),
        (("tls",), "http://ota.test/fw.bin?ref=https", 80),
        (("via=127.0.0.1:8080",), URL, 8080),
    ],
)
def test_where_it_connects(variants, url, port):
    world = updated(*variants, url=url)
    assert port == world.fetches[0].port
    assert "done" in world.words()


@pytest.mark.parametrize(
    ("variants", "url"),
    [(("tls",), "https://ota.test/fw.bin"), (("tls", "explorer"), "http://ota.test/fw.bin?ref=https")],
)
def test_no_server_here_has_a_certificate_that_it_believes(variants, url):
    world = World(device(*variants), FileServer(SMALL), offers(SMALL, url=url))
    world.run(until=lambda: world.client.outcome.failures)
    assert (("-5",), []) == (world.client.outcome.failures, world.fetches)


def test_the_length_of_a_request_is_that_of_host_path_and_range_and_145_more():
    request = updated(url="http://ota.test/fw.bin?a=1#part").server.requests[0]
    assert 145 + len("ota.test") + len("/fw.bin?a=1") + len("0-20000") == len(request)
    assert request.startswith(b"GET /fw.bin?a=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(("longer", "has_range"), [(0, True), (1, False)])
def test_a_request_of_1024_bytes_loses_its_range(longer, has_range):
    path = "/" + "p" * (1023 - 145 - len("ota.test") - len("0-20000") - 1 + longer)
    request = updated(url=f"http://ota.test{path}").server.requests[0]
    assert has_range is (b"Range: " in request)


def test_percent_wraps_above_42_9_megabytes():
    content = bytes(50_000_000)
    world = updated(content=content, for_s=1200.0)
    percents = [int(word) for word in world.words() if word.isdigit()]
    assert 0 == percents[len(percents) - percents[::-1].index(85)]
    assert 85 == max(percents)
    assert ["done", "runs 2.0.0"] == world.words()[-2:]
    assert 100 not in percents


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "info"), [("hub", "FW_PROD0001ABdev01.json"), ("explorer", "FW_2.0.0.json")], ids=["hub", "explorer"]
)
def test_a_download_survives_the_process_in_the_files_of_the_sample(tmp_path, variant, info):
    world = World(device(variant, state=tmp_path), FileServer(BIG), offers(BIG))
    world.run(until=lambda: "34" in world.words())
    assert {"version": "2.0.0", "downloaded_size": 104_979} == json.loads((tmp_path / info).read_text())
    again = World(device(variant, state=tmp_path), FileServer(BIG), offers(BIG))
    again.run()
    assert b"Range: bytes=104979-300000" in again.server.requests[0]
    assert "2.0.0" == again.client.outcome.version
    assert not (tmp_path / info).exists()
    assert "2.0.0" == device(variant, state=tmp_path).outcome.version


# --- gateway -------------------------------------------------------------------------------------------------------

CHILDREN = ("child=p1/a", "child=p1/b")


def gateway_answers(content, *, result=0, **changed):
    firmware = offers(content, **changed)

    def answer(topic, text):
        message = json.loads(text)
        if message.get("type") != "online":
            yield from firmware(topic, text)
            return
        for one in message["payload"]["devices"]:
            one["result"] = result
        yield topic.replace("operation", "operation/result"), json.dumps(message)

    return answer


def test_a_gateway_updates_its_children_one_after_the_other_the_last_first():
    world = World(device("gateway", *CHILDREN), FileServer(SMALL), gateway_answers(SMALL)).run()
    done = [action.topic for _, action in world.said if b'"done"' in action.payload]
    assert ["$ota/report/p1/b", "$ota/report/p1/a"] == done
    assert ("2.0.0", 2, False) == (
        world.client.outcome.version,
        world.client.outcome.installs,
        world.client.outcome.is_busy,
    )
    assert ["online", "runs 1.0.0"] * 2 == world.words()[:4]


def test_a_child_that_failed_never_reports_again_and_takes_a_notice_that_comes_by_itself():
    server = FileServer(SMALL, head=HEAD.format("404 Not Found", "Content-Length: 0\r\n"))
    world = World(device("gateway", "child=p1/a"), server, gateway_answers(SMALL)).run(for_s=1000)
    assert ["online", "runs 1.0.0", "-2", "-5"] == world.words()
    server.head = ""
    world.send("$ota/update/p1/a", notice(SMALL))
    world.run()
    assert ["0", "100", "burning", "done"] == world.words()[4:]


def test_a_gateway_without_an_answer_gives_its_child_up_after_20_s():
    world = World(device("gateway", *CHILDREN))
    with pytest.raises(WentWrong, match="not answered in 20 s"):
        world.run(for_s=100)
    assert 20.5 == world.now_s


def test_a_gateway_with_a_bad_answer_gives_its_child_up():
    world = World(device("gateway", *CHILDREN), answer=gateway_answers(SMALL, result=1))
    with pytest.raises(WentWrong, match="given up"):
        world.run()


def test_a_gateway_whose_link_breaks_starts_again_and_its_children_report():
    world = World(device("gateway", *CHILDREN), FileServer(SMALL), gateway_answers(SMALL))
    world.run(until=lambda: "done" in world.words())
    world.cut()
    world.run()
    assert ["$ota/report/p1/a", "$ota/report/p1/b"] == [
        action.topic for _, action in world.said if b"report_version" in action.payload
    ][2:]
    assert "2.0.0" == world.client.outcome.version


def test_a_gateway_has_room_for_nine_children():
    nine = [f"child=p/{index}" for index in range(9)]
    assert 9 == len(device("gateway", *nine).children)
    with pytest.raises(OptionError, match="subscriptions"):
        device("gateway", *nine, "child=p/9")
    with pytest.raises(OptionError, match="PRODUCT/NAME"):
        device("gateway", "child=p")


# --- the explorer's resources --------------------------------------------------------------------------------------

SERVICE_UP, SERVICE_DOWN = f"$thing/up/service/{PRODUCT}/{NAME}", f"$thing/down/service/{PRODUCT}/{NAME}"


def explorer(server=None):
    world = World(device("explorer", "resources"), server or FileServer(SMALL))
    return world.run(for_s=1)


def resource(**changed):
    whole = json.loads(notice(SMALL, type=None, version="7")) | {
        "method": "update_resource",
        "resource_name": "voice",
        "resource_type": "FILE",
    }
    return json.dumps({key: value for key, value in (whole | changed).items() if value is not None})


def test_an_explorer_loads_a_resource_and_holds_it():
    world = explorer()
    assert ["runs 1.0.0", "holds []"] == world.words()
    assert 1 == world.said[1][1].qos
    world.send(SERVICE_DOWN, '{"method":"report_version_rsp","result_code":0,"resource_list":[]}')
    world.send(SERVICE_DOWN, resource())
    world.run()
    assert ["0", "100", "done"] == world.words()[2:]
    assert '"resource_name":"voice"' in world.texts()[-1]
    assert [SERVICE_UP] * 3 == [action.topic for _, action in world.said[2:]]
    world.kill()
    world.run(for_s=1)
    assert "holds [{'resource_name': 'voice', 'version': '7', 'resource_type': 'FILE'}]" == world.words()[-1]


def test_firmware_and_resources_are_loaded_one_after_the_other():
    world = explorer()
    world.send(SERVICE_DOWN, resource())
    world.send(DOWN, notice(SMALL))
    world.run()
    assert ["0", "100", "done", "0", "100", "done"] == world.words()[2:8]


@pytest.mark.parametrize("key", ["resource_name", "resource_type", "url", "md5sum", "file_size"])
def test_a_resource_notice_without_one_of_its_keys_is_answered_as_a_missing_file(key):
    world = explorer()
    world.send(SERVICE_DOWN, resource(**{key: None}))
    assert '"result_code":"-2"' in world.run(for_s=5).texts()[-1]
    world.send(SERVICE_DOWN, resource())
    assert "done" == world.run(for_s=30).words()[-1]


def test_a_resource_whose_md5_is_wrong_is_reported_done_with_a_code():
    world = explorer()
    world.send(SERVICE_DOWN, resource(md5sum="0" * 32))
    world.run(until=lambda: world.client.resources.failures)
    assert ("-4", "md5 check fail", "done") == (
        world.client.resources.failures[0],
        json.loads(world.texts()[-1])["report"]["progress"]["result_msg"],
        json.loads(world.texts()[-1])["report"]["progress"]["state"],
    )


@pytest.mark.parametrize("body", [{"result_code": 1}, {}])
def test_any_other_answer_to_the_list_is_the_end_of_the_channel(body):
    with pytest.raises(WentWrong):
        explorer().send(SERVICE_DOWN, json.dumps({"method": "report_version_rsp"} | body))


def test_a_resource_is_deleted_once():
    world = explorer()
    world.client.resources.held["voice"] = ("7", "FILE")
    gone = json.dumps({"method": "del_resource", "resource_name": "voice", "version": "7", "resource_type": "FILE"})
    world.send(SERVICE_DOWN, gone)
    world.send(SERVICE_DOWN, gone)
    codes = [json.loads(text)["report"]["progress"]["result_code"] for text in world.texts()[-2:]]
    assert ["0", "-7"] == codes
