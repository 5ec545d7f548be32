"""Keys change while devices sleep: they catch up step by step on a real broker, and a stolen old key is worth nothing."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import aiomqtt
import msgpack
import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from harness import VENDOR, Fleet, Site, site, tap, until

from device_sim.options import BrokerUrl
from ota_bridge.security import envelope, keyset, tokens
from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.keyset import Keyset
from ota_bridge.security.signing import sign_file
from ota_bridge.security.trust import Trust
from ota_bridge.web.local_client import RefusedByDaemon

DEVICES = 3
AT_ONCE = {"offers.min_interval_s": 0}


def rotate(here: Site, before: Keyset, *signers: SigningKey, **changes) -> Keyset:
    """Publish the keyset that comes next, with these changes."""
    after = replace(before, version=before.version + 1, **changes)
    step = envelope.seal(keyset.encode(after), signers, kind=keyset.KIND)
    told = here.call("keys.publish", keyset=base64.b64encode(step).decode())
    assert after.version == told["version"]
    return after


def release(here: Site, image: Path, *keys: SigningKey, version: str, seq: int) -> str:
    signed = sign_file(image, keys=keys, vendor_domain=VENDOR, product="demo", hw=["r1"], version=version, seq=seq)
    args = {
        "envelope": base64.b64encode(signed.envelope).decode(),
        "product": "demo",
        "version": version,
        "hw": ["r1"],
        "file_name": image.name,
    }
    with image.open("rb") as file:
        return str(here.client.call("release.add", args, upload=(file, image.stat().st_size))["id"])


def keysets(here: Site) -> list[int]:
    return [device["keyset"] for device in here.call("device.list")]


@pytest.mark.mosquitto
@pytest.mark.parametrize("max_packet", [20_000, 300])
async def test_devices_that_slept_through_two_rotations_catch_up_and_take_what_the_newest_keys_signed(
    tmp_path,
    mosquitto: Mosquitto,  # noqa: F811
    max_packet,
):
    with site(tmp_path, broker_url=mosquitto.url, **AT_ONCE) as here:
        author = load_key(tmp_path / "author.pem").key
        second, third, online = (SigningKey.generate() for _ in range(3))
        here.call("rollout.start", release=release(here, here.image(30_000), author, version="1.1.0", seq=1))
        options = {"count": DEVICES, "state": tmp_path / "flash", "max_packet": max_packet}
        async with Fleet(here.fleet(**options, until="1.1.0")) as fleet:
            assert ["confirmed"] * DEVICES == [one.result for one in (await fleet.report()).devices]
        assert [1] * DEVICES == keysets(here)

        now = rotate(here, Trust.load(here.trust).keyset, author, second, authors=(second.public,))
        rotate(
            here, now, second, third,
            authors=(second.public, third.public), threshold=2, online=(online.public,),
        )  # fmt: skip
        (tmp_path / "online.pem").unlink()
        online.save(tmp_path / "online.pem")
        with pytest.raises(RefusedByDaemon, match="REFUSED_SIG"):
            release(here, here.image(30_000, seed=2), second, version="1.2.0", seq=2)
        newest = release(here, here.image(30_000, seed=2), second, third, version="1.2.0", seq=2)
        here.call("rollout.start", release=newest)
        async with (
            tap(mosquitto.url, "$ota/event/#", "$ota/update/#") as seen,
            Fleet(here.fleet(**options, until="1.2.0")) as fleet,
        ):
            report = await fleet.report()
            assert {} == here.unconfirmed(report)
            assert ["1.2.0"] * DEVICES == [one.new_version for one in report.devices]
            await until(lambda: [3] * DEVICES == keysets(here))
        for number in range(1, DEVICES + 1):
            mine = [line for line in seen.events() if line["device"] == f"dev-{number:04}"]
            steps = [
                (line["event"], line.get("version") or line.get("after")) for line in mine if "keyset" in line["event"]
            ]
            assert [("keyset_sent", 2), ("keyset_changed", 2), ("keyset_sent", 3), ("keyset_changed", 3)] == steps
            kinds = [line["event"] for line in mine]
            assert kinds.index("offer") > max(at for at, kind in enumerate(kinds) if kind == "keyset_changed")
        notices = [msgpack.unpackb(body) for _, topic, body in seen.seen if b"update_keys" in body]
        assert {bytes if max_packet > 1000 else list} == {type(notice["keyset"]) for notice in notices}


@pytest.mark.mosquitto
async def test_what_a_revoked_key_signed_is_offered_no_more_and_why_says_so(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **AT_ONCE) as here:
        author, second = load_key(tmp_path / "author.pem").key, SigningKey.generate()
        old = release(here, here.image(30_000), author, version="1.1.0", seq=1)
        rotate(here, Trust.load(here.trust).keyset, author, second, authors=(second.public,))
        here.kill()
        await asyncio.to_thread(here.start)
        async with Fleet(here.fleet(stay=True, timeout_s=20)) as fleet:
            await until(lambda: [2] == keysets(here))
            here.call("rollout.start", release=old)
            why = await until(
                lambda: (
                    said
                    if "manifest no longer holds" in (said := here.call("why", device="dev-0001")["sentence"])
                    else ""
                )
            )
            assert "REFUSED_SIG: 0 of the 1 required author signatures are there" in why
            here.call("rollout.start", release=release(here, here.image(30_000), second, version="1.1.1", seq=2))
            await until(lambda: here.call("rollout.list")[1]["confirmed"] == 1)
            await fleet.until(lambda lines: lines[-1]["version"] == "1.1.1")


async def offer_to_every_check_in(url: str, image: bytes, signed: bytes, online: SigningKey) -> list[str]:
    """Who has the broker, the bridge's online key and an author's old key: the codes that devices answered with."""
    address = BrokerUrl.parse(url)
    codes: list[str] = []
    async with aiomqtt.Client(address.host, address.port, identifier="hostile") as client:
        await client.subscribe("$ota/report/#", qos=1)
        await client.subscribe("$ota/get/#")
        async for message in client.messages:
            level = str(message.topic).split("/", 2)
            if level[1] == "get":
                codes.append("asked for blocks")
                continue
            report = msgpack.unpackb(bytes(message.payload))
            if report["type"] == "report_version":
                assert 2 == report["keys"]
            if report["type"] == "report_progress":
                codes.append(report["report"]["progress"]["result_code"])
                if len(codes) == 2:
                    return codes
                continue
            ticket = tokens.issue(
                online,
                device=level[2],
                nonce=report["nonce"],
                manifest_digest=envelope.digest(signed),
                time_s=1_800_000_000,
                valid_s=600,
            )
            offer = {
                "type": "update_firmware", "id": f"hostile{len(codes)}", "component": "firmware", "manifests": [signed],
                "ticket": ticket, "boot": report["boot"], "nonce": report["nonce"], "apply": "now",
            }  # fmt: skip
            await client.publish(f"$ota/update/{level[2]}", msgpack.packb(offer), qos=1)
    raise AssertionError("the broker went away")


@pytest.mark.mosquitto
async def test_a_stolen_old_key_with_broker_and_online_key_gets_nothing_installed(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **AT_ONCE) as here:
        author, second, online = (
            load_key(tmp_path / "author.pem").key,
            SigningKey.generate(),
            load_key(tmp_path / "online.pem").key,
        )
        rotate(here, Trust.load(here.trust).keyset, author, second, authors=(second.public,))
        options = {"state": tmp_path / "flash", "check_in_every_s": 2.0}
        async with Fleet(here.fleet(**options, stay=True, timeout_s=30)):
            await until(lambda: [2] == keysets(here))
        here.kill()
        image = here.image(30_000, name="evil.bin")
        signed = here.envelope(image, version="6.6.6", seq=666)
        async with asyncio.timeout(25), Fleet(here.fleet(**options, stay=True, timeout_s=30)) as fleet:
            assert ["REFUSED_SIG"] * 2 == await offer_to_every_check_in(
                mosquitto.url, image.read_bytes(), signed, online
            )
            fleet._stop.set()
            [device] = (await fleet.report()).devices
        assert ("1.0.0", 0, 0) == (device.new_version, device.erases, device.requests)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_daemon_whose_trust_document_names_a_test_key_starts_only_where_that_is_allowed(tmp_path, allowed):
    settings = {"security.allow_test_keys": "true"} if allowed else {}
    with site(tmp_path, start=False, **settings) as here:
        trust = Trust.load(here.trust)
        replace(trust, authors=(replace(trust.authors[0], test=True),)).save(here.trust)
        if allowed:
            here.start()
            return
        here.start(wait=False)
        assert 2 == here.process.wait(20)
        assert "holds a test key; remove it, or set security.allow_test_keys for a laboratory" in here.log
