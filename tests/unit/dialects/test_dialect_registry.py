import sys
from types import SimpleNamespace

import pytest
import toy_dialect

from ota_bridge.core.errors import ConfigError
from ota_bridge.dialects import registry


def install(monkeypatch, *points):
    """As a third party's package does."""
    found = [SimpleNamespace(name=name, value=value) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "ota_bridge.dialects" else [])
    monkeypatch.setitem(sys.modules, "toy_dialect", toy_dialect)


def test_a_third_partys_dialect_enters_by_its_entry_point(monkeypatch):
    install(monkeypatch, ("toy", "toy_dialect:ToyDialect"))
    _, loaded = registry.load({"toy": {"greeting": "hello"}})
    assert isinstance(loaded, toy_dialect.ToyDialect)
    assert {"greeting": "hello"} == loaded.options


def test_the_dialect_of_the_public_shapes_is_there_where_nothing_is_set_up_and_subscribes_nothing(monkeypatch):
    install(monkeypatch, ("toy", "there.is.no:such"))
    [loaded] = registry.load({}, root="fw")
    assert ("tencent", "fw", []) == (loaded.name, loaded.root, list(loaded.subscriptions()))
    assert loaded.report == registry.public([loaded])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nobodys": {}}, r"\[dialects.nobodys\]: there is no such dialect; known are .*toy"),
        ({"native": {}}, r"\[dialects.native\]: there is no such dialect"),
        ({"gone": {}}, r"\[dialects.gone\]: there.is.no:such cannot be loaded"),
        ({"less": {}}, r"\[dialects.less\]: toy_dialect:Nothing cannot be loaded"),
        ({"toy": {"greting": "x"}}, "dialects.toy.greting is not a setting; known are greeting, needs"),
        ({"tencent": {"root": "x"}}, "dialects.tencent.root is not a setting: it is topics.root"),
        ({"aws": {}}, "dialects.aws: the topics name no product; set `product`, or a table `products`"),
        ({"xively": {"product": "de mo"}}, "dialects.xively.product = 'de mo': "),
        ({"xively": {"products": {"m-*": 5}}}, r"dialects.xively.products.m-\* = '5': "),
        ({"toy": {"greeting": 1}}, "dialects.toy.greeting = '1': str is expected"),
    ],
)
def test_what_cannot_be_set_up_says_why(monkeypatch, settings, says):
    places = ("toy", "toy_dialect:ToyDialect"), ("gone", "there.is.no:such"), ("less", "toy_dialect:Nothing")
    install(monkeypatch, *places)
    with pytest.raises(ConfigError, match=says):
        registry.load(settings)


def test_a_built_in_dialect_cannot_be_replaced(monkeypatch):
    install(monkeypatch, *((name, "toy_dialect:ToyDialect") for name in registry.BUILT_IN))
    assert dict(registry.BUILT_IN) == dict(registry.known())
