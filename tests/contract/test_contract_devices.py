import pytest
from contract.store_samples import DEVICES, U64_MAX, commit, device
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.errors import StoreError
from ota_bridge.core.fleet import DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.values import DeviceId

SHARED_STORE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def names(devices):
    return [str(one.id) for one in devices]


@SHARED_STORE
@given(record=DEVICES)
def test_any_device_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: unit.devices.put(record))

    assert store.read(lambda unit: unit.devices.get(record.id)) == record


def test_an_unknown_device_is_none(store):
    assert store.read(lambda unit: unit.devices.get(DeviceId("prod", "nobody"))) is None


@pytest.mark.parametrize("boot", [0, 2**63 - 1, 2**63, U64_MAX])
def test_a_boot_number_may_have_64_bits(store, boot):
    commit(store, lambda unit: unit.devices.put(device(boot=boot)))

    assert store.read(lambda unit: unit.devices.get(DeviceId("prod", "dev1"))).boot == boot


def test_a_boot_number_beyond_64_bits_is_refused(store):
    with pytest.raises(StoreError, match="64 bits"):
        commit(store, lambda unit: unit.devices.put(device(boot=U64_MAX + 1)))


def test_the_same_name_in_two_products_is_two_devices(store):
    commit(store, lambda unit: [unit.devices.put(device(product=product)) for product in ("b", "a")])

    assert names(store.read(lambda unit: unit.devices.named("dev1"))) == ["a/dev1", "b/dev1"]
    assert store.read(lambda unit: (unit.devices.count(), unit.devices.count(product="a"))) == (2, 1)


def test_named_finds_labels_too_but_no_empty_ones(store):
    records = [device("x"), device("y", label="x"), device("z")]
    commit(store, lambda unit: [unit.devices.put(record) for record in records])

    assert names(store.read(lambda unit: unit.devices.named("x"))) == ["prod/x", "prod/y"]
    assert names(store.read(lambda unit: unit.devices.named(""))) == []


def test_page_filters_by_product_state_and_exact_tag(store):
    records = [
        device("a", tags=("lab", "x")),
        device("b", tags=('"lab',)),
        device("c", tags=("laboratory",)),
        device("d", "other", tags=("lab",)),
    ]
    commit(store, lambda unit: [unit.devices.put(record) for record in records])
    commit(store, lambda unit: unit.devices.put(device("a", tags=("lab",)).retired()))

    assert names(store.read(lambda unit: unit.devices.page(tag="lab"))) == ["other/d", "prod/a"]
    assert names(store.read(lambda unit: unit.devices.page(tag="lab", product="prod"))) == ["prod/a"]
    assert names(store.read(lambda unit: unit.devices.page(state=DeviceState.RETIRED))) == ["prod/a"]


def test_pages_follow_each_other_across_products_and_after_is_exclusive(store):
    records = [device(name, product) for product in ("p", "q") for name in ("3", "1", "2")]
    commit(store, lambda unit: [unit.devices.put(record) for record in records])

    def all_pages(unit):
        pages = []
        while page := unit.devices.page(after=pages[-1][-1].id if pages else None, limit=2):
            pages.append(page)
        return pages

    found = [names(page) for page in store.read(all_pages)]
    assert found == [["p/1", "p/2"], ["p/3", "q/1"], ["q/2", "q/3"]]
    after = DeviceId("p", "2")
    assert names(store.read(lambda unit: unit.devices.page(product="q", after=after))) == ["q/1", "q/2", "q/3"]


def test_installed_is_what_devices_of_a_product_report_each_combination_once(store):
    one, other = {"firmware": InstalledPart(version="1.0", seq=1)}, {"firmware": InstalledPart(version="1.1")}
    records = [
        device("a", parts=other),
        device("b", parts=one),
        device("c", parts=other),
        device("d", parts={"firmware": InstalledPart(version="0.9")}).retired(),
        device("e", "other", parts={"radio": InstalledPart(version="7")}),
    ]
    commit(store, lambda unit: [unit.devices.put(record) for record in records])

    assert store.read(lambda unit: unit.devices.installed(product="prod")) == [other, one]
    assert store.read(lambda unit: unit.devices.installed(product="none")) == []
