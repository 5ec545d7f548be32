"""`demo`: what it needs before it starts; the whole is tests/integration/test_cli_commands.py."""

import zlib
from io import StringIO

import pytest
from rich.console import Console

from ota_bridge.cli.demo import made_up_image
from ota_bridge.cli.demo_view import DemoView, share
from ota_bridge.cli.output import Output


def test_the_made_up_image_is_always_the_same_and_looks_like_firmware():
    image = made_up_image(512 * 1024)
    assert image == made_up_image(512 * 1024)
    assert len(image) == 512 * 1024
    assert 0.1 < len(zlib.compress(image)) / len(image) < 0.9


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("gone.bin", "there is no file gone.bin"),
        (".", ". is not a file with an image"),
        ("/dev/zero", "/dev/zero is not a file with an image"),
        ("empty.bin", "empty.bin is empty"),
    ],
)
def test_an_image_that_cannot_be_one(operator, image, sentence):
    (operator.directory / "empty.bin").touch()
    ran = operator("demo", "--image", image)
    assert (ran.code, ran.err) == (1, f"error: {sentence}\n")


def test_a_directory_that_is_not_a_demos_is_left_alone(operator):
    (operator.directory / "precious").mkdir()
    (operator.directory / "precious" / "file").write_text("x")
    ran = operator("demo", "--dir", "precious")
    assert ran.code == 1
    assert "is not empty and no demo made it" in ran.err
    assert (operator.directory / "precious" / "file").read_text() == "x"


def line(name, phase, position, *, settled=False):
    result = "confirmed" if settled else "none"
    return {
        "device": name,
        "phase": phase,
        "position": position,
        "size_bytes": 100,
        "settled": settled,
        "result": result,
    }


def test_a_device_in_trial_has_the_whole_image():
    assert [share(line("d", *at)) for at in (("pulling", 25), ("trial", 0), ("idle", 0))] == [0.25, 1.0, 0.0]
    assert share(line("d", "idle", 0, settled=True)) == 1.0
    assert share({**line("d", "idle", 5), "size_bytes": 0}) == 1.0


def test_piped_it_says_a_line_per_step(capfd):
    with DemoView(Output(as_json=False), 2) as view:
        view.update(line("a", "pulling", 1))
        view.update(line("a", "pulling", 2))
        view.update(line("a", "idle", 0, settled=True))
        view.update(line("b", "idle", 0, settled=True))
    said = [text.split("s  ", 1)[1] for text in capfd.readouterr().out.splitlines()]
    assert said == [
        "images   0 % in flash, 0 of 2 settled",
        "images  50 % in flash, 1 of 2 settled",
        "images 100 % in flash, 2 of 2 settled",
    ]


def test_on_a_terminal_there_is_a_bar_per_device_and_one_for_the_fleet():
    output = Output(as_json=False)
    output.console = Console(file=StringIO(), force_terminal=True, width=120, height=12)
    with DemoView(output, 20) as view:
        for number in range(20):
            view.update(line(f"d{number:02d}", "idle", 0, settled=True))
    text = output.console.file.getvalue()
    assert "d00" in text
    assert "d19" in text
    assert "20 of 20 confirmed" in text
