"""A query is checked against the fleet that it is meant for."""

import pytest
from core_world import QUERIES

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.queries import NoCalendar, checked_query, none_compiled
from ota_bridge.core.rollout.plan import Window
from ota_bridge.core.values import DeviceId


def device(name, product="prod", **attrs):
    return Device(id=DeviceId(product, name), state=DeviceState.ACTIVE, created_wall=0.0, attrs=attrs)


def checked(text, *devices):
    return checked_query(QUERIES, text, devices, 0.0)


def test_a_key_that_no_device_has_is_an_error_that_names_those_there_are():
    with pytest.raises(InvalidInput) as refused:
        checked('attrs.btach == "x"', device("d1", batch="x"), device("d2", model=1))
    assert "query: no device of prod has attrs.btach; known are batch, model" == str(refused.value)


def test_several_products_are_no_one_product():
    with pytest.raises(InvalidInput, match=r"query: no device has seqs\.x; known are none"):
        checked("seqs.x == 1", device("d1"), device("d2", "other"))


def test_many_names_are_cut_short():
    with pytest.raises(InvalidInput, match=r"known are x00, .*, x11 …$"):
        checked("attrs.y == 1", device("d1", **{f"x{number:02}": 1 for number in range(13)}))


def test_a_key_that_one_device_has_is_no_error_and_no_more_are_looked_at():
    sample = iter([device("d1"), device("d2", batch="x"), device("d3")])
    assert 'attrs.batch == "x"' == checked_query(QUERIES, 'attrs.batch == "x"', sample, 0.0).text
    assert ["d3"] == [left.id.name for left in sample]


def test_without_devices_no_key_is_wrong():
    assert checked("attrs.btach == 1").asked


def test_a_query_that_names_no_key_reads_no_device():
    sample = iter([device("d1")])
    checked_query(QUERIES, "true", sample, 0.0)
    assert 1 == len(list(sample))


def test_without_compiler_and_calendar_nothing_is_taken():
    with pytest.raises(InvalidInput, match="no queries here"):
        none_compiled("true")
    window, calendar = Window(cron="0 2 * * *", length_s=60), NoCalendar()
    for asked in (calendar.is_open, calendar.opens_wall, calendar.closes_wall):
        with pytest.raises(InvalidInput, match="no calendar here"):
            asked(window, "", 0.0)
    assert not calendar.knows("UTC")
