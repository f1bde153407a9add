"""Configurations are filled strictly and survive JSON."""

import json
import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from kfjax import config
from kfjax.system import SystemConfig
from tests.tiny.system import CONFIG


@dataclass(frozen=True)
class Inner:
    width: int = 4
    rate_hz: float = 1.0
    kind: Literal["plain", "edm2"] = "plain"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 1.0)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    flag: bool = False
    limit: int | None = None


def make(**values):
    return config.from_dict(Outer, {"name": "x"} | values)


def test_values_reach_nested_fields():
    made = make(inner={"width": 8, "kind": "edm2"}, flag=True, limit=3)
    assert made == Outer("x", Inner(width=8, kind="edm2"), True, 3)
    assert make(inner=Inner(width=5)).inner.width == 5
    assert make(limit=None).limit is None


def test_whole_numbers_are_floats_where_floats_are_meant():
    assert type(make(inner={"rate_hz": 2}).inner.rate_hz) is float


@dataclass(frozen=True)
class Square:
    side: float = 1.0
    name: str = ""
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Circle:
    radius: float = 1.0
    name: str = ""
    kind: Literal["circle", "disc"] = "circle"


@dataclass(frozen=True)
class Shape:
    form: Square | Circle | None = None


def test_of_several_dataclasses_the_one_of_the_kind_is_meant():
    make = lambda form: config.from_dict(Shape, {"form": form}).form
    assert make({"kind": "disc", "name": "x"}) == Circle(name="x", kind="disc")
    assert make({"kind": "square"}) == Square()
    assert make(None) is None
    for form in (Square(3.0), Circle(3.0)):
        assert make(form) == form
        assert config.from_dict(Shape, config.to_dict(Shape(form))) == Shape(form)
    with pytest.raises(ValueError, match=r"config\.form\.kind: got 'cube', expected one of square, circle, disc"):
        make({"kind": "cube"})
    with pytest.raises(ValueError, match=r"unknown key config\.form\.radius; known keys: kind, name, side"):
        make({"kind": "square", "radius": 1.0})


def test_without_a_kind_the_keys_must_be_of_one_dataclass_alone():
    make = lambda form: config.from_dict(Shape, {"form": form}).form
    assert make({"radius": 2.0, "name": "x"}) == Circle(2.0, "x")
    with pytest.raises(ValueError, match=r"config\.form\.radus; did you mean config\.form\.radius"):
        make({"radus": 1.0, "radius": 1.0})
    with pytest.raises(ValueError, match=r"config\.form: its keys fit Square and Circle; add one of"):
        make({"name": "x"})


@pytest.mark.parametrize("part, values, kinds", [
    ("text", {"width": 64, "depth": 2, "heads": 4}, "config.text.kind='t5', config.text.kind='clip'"),
    ("codec", {"vocoder": {"bands": 128, "width": 1536}},
     "config.codec.vocoder.kind='istft', config.codec.vocoder.kind='bigvgan'"),
])  # fmt: skip
def test_every_union_of_a_system_has_kinds(part, values, kinds):
    with pytest.raises(ValueError, match=re.escape(kinds)):
        config.from_dict(SystemConfig, config.to_dict(CONFIG) | {part: values})


def test_lists_become_tuples():
    made = make(inner={"sizes": [3, 4, 5], "pair": ["b", 2]}).inner
    assert made.sizes == (3, 4, 5) and made.pair == ("b", 2.0)
    assert hash(made)


@pytest.mark.parametrize("values, message", [
    ({"nme": 1}, r"unknown key config\.nme; did you mean config\.name\?"),
    ({"inner": {"widht": 8}}, r"unknown key config\.inner\.widht; did you mean config\.inner\.width\?"),
    ({"zzz": 1}, r"unknown key config\.zzz; known keys: flag, inner, limit, name"),
    ({"inner": {"width": 8.0}}, r"config\.inner\.width: got 8\.0 \(float\), expected int"),
    ({"inner": {"width": True}}, r"config\.inner\.width: got True \(bool\), expected int"),
    ({"inner": {"width": None}}, r"config\.inner\.width: got None \(NoneType\), expected int"),
    ({"inner": {"rate_hz": "1"}}, r"config\.inner\.rate_hz: got '1' \(str\), expected float"),
    ({"flag": 1}, r"config\.flag: got 1 \(int\), expected bool"),
    ({"limit": "3"}, r"config\.limit: got '3' \(str\), expected int"),
    ({"inner": {"kind": "fancy"}}, r"config\.inner\.kind: got 'fancy', expected one of plain, edm2"),
    ({"inner": {"sizes": "12"}}, r"config\.inner\.sizes: got '12' \(str\), expected a list"),
    ({"inner": {"sizes": [1, "2"]}}, r"config\.inner\.sizes\[1\]: got '2' \(str\), expected int"),
    ({"inner": {"pair": ["a"]}}, r"config\.inner\.pair: got 1 values, expected 2"),
    ({"inner": 3}, r"config\.inner: got 3, expected a mapping with the keys of Inner"),
])  # fmt: skip
def test_errors_name_the_key(values, message):
    with pytest.raises(ValueError, match=message):
        make(**values)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"missing key system\.name; Outer needs it"):
        config.from_dict(Outer, {}, where="system")


@pytest.mark.parametrize("cfg", [Outer("y", Inner(sizes=(7,)), limit=2), CONFIG], ids=["small", "system"])
def test_round_trip_through_json(cfg):
    text = json.dumps(config.to_dict(cfg))
    assert config.from_dict(type(cfg), json.loads(text)) == cfg


def test_a_system_needs_its_generator():
    with pytest.raises(ValueError, match=r"missing key config\.mmdit"):
        config.from_dict(SystemConfig, {"name": "x"})
