"""The decoders of the simulated device: what comes over the wire, from flash, and from its command line."""

from device_sim import wire
from device_sim.errors import Malformed, ManifestRefused, OptionError
from device_sim.journal import frame, unframe
from device_sim.model import Fault
from device_sim.offers import check_sizes, read_offer
from device_sim.options import parse_sleep_pattern
from device_sim.settings import Settings
from tests.fuzz.bridge_targets import JSON_WORDS, MSGPACK_WORDS
from tests.fuzz.mutate import JSON, MSGPACK
from tests.fuzz.target import Target, text_of


def update(data: bytes) -> None:
    """A message of the update topic; an offer can be answered by its id, whatever it says."""
    message = wire.decode_update(data)
    if message["type"] != "update_firmware":
        return
    offer = read_offer(message)
    for encoding in ("json", "msgpack"):
        wire.encode({"id": offer.id, "component": offer.component}, encoding)
    assert 1 <= len(offer.id) <= 32
    check_sizes(offer)


def block(data: bytes) -> None:
    """A block or a refusal."""
    message = wire.decode_block(data)
    if isinstance(message, wire.BlockRefusal):
        assert 0 <= message.retry_after_s < 1e6


def journal(data: bytes) -> None:
    """A record of the flash is whole or is none, and a whole one is what was written."""
    found = unframe(data)
    if found is None:
        raise Malformed("no record")
    counter, body = found
    assert data.startswith(frame(counter, body))
    settings = Settings.unpack(body)
    assert settings == Settings.unpack(settings.pack())


def options(data: bytes) -> None:
    """Words of the command line."""
    text = text_of(data)
    try:
        parse_sleep_pattern(text)
    except OptionError:
        Fault.parse(text)


UPDATE_WORDS = (
    *(
        b"type",
        b"report_ack",
        b"update_firmware",
        b"cancel_update",
        b"apply_update",
        b"check_in",
        b"id",
        b"release",
        b"go",
    ),
    *(
        b"stop",
        b"component",
        b"manifests",
        b"boot",
        b"nonce",
        b"ticket",
        b"apply",
        b"now",
        b"on_command",
        b"start_in_s",
    ),
    *(b"length_s", b"block_max", b"window_max", b"resend_after_s", b"seqs", b"NaN", b"\\ud800"),
)

TARGETS = (
    Target(
        name="sim_update", about="the simulator's reader of updates and offers", read=update,
        refusals=(Malformed, ManifestRefused), words=(*UPDATE_WORDS, *JSON_WORDS), forms=(JSON, MSGPACK),
        peak_bytes=1 << 20,
    ),
    Target(
        name="sim_block", about="the simulator's reader of blocks", read=block, refusals=(Malformed,),
        words=MSGPACK_WORDS, forms=(MSGPACK,), max_bytes=3_000, peak_bytes=1 << 20,
    ),
    Target(
        name="sim_journal", about="records in the simulator's flash", read=journal, one_in=4, refusals=(Malformed,), max_bytes=2_000,
    ),
    Target(
        name="sim_options", about="sleep patterns and faults of the command line", read=options, one_in=4, refusals=(OptionError,),
        words=(b"/", b"=", b"nan", b"inf", b"1e9", b"power_cut", b"reboot_in=", b"corrupt_chunk="), max_bytes=100,
    ),
)  # fmt: skip
