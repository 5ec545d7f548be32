"""Which file is which component."""

import pytest

from ota_bridge.core.errors import ConfigError
from ota_bridge.core.values import checked_component
from ota_bridge.dialects.xively_files import FileNames


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("firmware.bin", "firmware"),
        ("firmware.tar", "firmware"),
        ("firmware", "firmware"),
        ("config", "config"),
        ("file.cfg", "file-cfg"),
        ("My File@2.TXT", "my-file-2-txt"),
        ("a-name-that-is-longer-than-a-component", "a-name-that-is-l"),
    ],
)
def test_a_file_is_the_component_of_its_name_but_for_the_firmware(name, component):
    assert component == FileNames({}).component(name) == checked_component(component)


def test_what_is_set_comes_first():
    names = FileNames({"file.cfg": "config", "firmware.tar": "bundle"})
    assert ("config", "bundle", "firmware") == tuple(map(names.component, ("file.cfg", "firmware.tar", "firmware.bin")))


@pytest.mark.parametrize("component", ["", "A", "a/b", "x" * 17, 3.5, None])
def test_what_cannot_be_a_component_is_named(component):
    with pytest.raises(ConfigError, match="dialects.xively.files.file.cfg"):
        FileNames({"file.cfg": component})
