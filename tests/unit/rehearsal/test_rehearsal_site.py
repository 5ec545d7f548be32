"""What a rehearsal begins with."""

from collections import Counter

import pytest
from contract.store_samples import commit, device, fill

from ota_bridge.core.catalog import is_compatible
from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.rehearsal.site import copied_fleet, made_up_fleet, made_up_release, product_of
from ota_bridge.store.memory import MemoryStore


def test_a_release_that_is_made_up_fits_its_hardware_and_has_its_size():
    release = made_up_release("demo/2.0.0", size_bytes=12345, hw=["r1", "r2"])
    part = release.parts["firmware"]
    assert ("demo", "2.0.0", 12345) == (release.product, release.version, part.manifest.size_bytes)
    assert [True, True, False] == [is_compatible(part, "demo", hw) for hw in ("r1", "r2", "r3")]
    with pytest.raises(InvalidInput, match="PRODUCT/VERSION"):
        made_up_release("2.0.0", size_bytes=1, hw=["r1"])


def test_devices_are_named_as_the_simulator_names_them_with_versions_by_their_shares():
    devices = made_up_fleet(100, product="demo", start_wall=1e9, versions={"1.0": 0.8, "0.9": 0.2}, hw=["r1", "r2"])
    assert ("demo/dev-0001", "demo/dev-0100") == (str(devices[0].id), str(devices[-1].id))
    assert {"1.0": 80, "0.9": 20} == Counter(one.parts["firmware"].version for one in devices)
    assert {"r1": 50, "r2": 50} == Counter(one.hw for one in devices)
    assert 1 < len({one.parts["firmware"].version for one in devices[:10]})


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 1000])
def test_a_fleet_of_any_size_can_be_made_up(count):
    found = made_up_fleet(count, product="demo", start_wall=1e9, versions={"a": 0.5, "b": 0.5})
    assert count == len({one.id for one in found})


def test_a_copy_has_the_devices_of_one_product():
    store = MemoryStore()
    commit(store, fill)
    assert device() in store.read(lambda unit: copied_fleet(unit, "prod"))
    with pytest.raises(NotFound, match="no device of other"):
        store.read(lambda unit: copied_fleet(unit, "other"))


def test_a_version_alone_names_a_product_where_only_one_has_it():
    releases = [made_up_release(name, size_bytes=1, hw=["r1"]) for name in ("a/1", "a/2", "b/2")]
    assert ("a", "c") == (product_of("1", releases), product_of("c/9", releases))
    with pytest.raises(InvalidInput, match="PRODUCT/VERSION"):
        product_of("2", releases)
