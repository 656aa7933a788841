"""From mappings to dataclasses: what fits, and what each mistake is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from litedetr.settings import ConfigError, from_mapping, to_mapping


@dataclass(frozen=True)
class Inner:
    mode: Literal["a", "b"] = "a"
    sides: tuple[int, ...] = ()
    rate: float | None = None


@dataclass(frozen=True)
class Outer:
    count: int
    rate: float = 0.5
    name: str | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    inner: Inner = field(default_factory=Inner)
    free: dict[str, Any] | None = None


def test_there_and_back():
    mapping = {
        "count": 3,
        "rate": 1,
        "name": "x",
        "betas": [0, 1],
        "inner": {"mode": "b", "sides": [1, 2], "rate": 2**63 - 1},
        "free": {"k": [1]},
    }
    config = from_mapping(Outer, mapping)
    assert config == Outer(3, 1.0, "x", (0.0, 1.0), Inner("b", (1, 2), float(2**63)), {"k": [1]})
    assert isinstance(config.rate, float)
    assert from_mapping(Outer, to_mapping(config)) == config


def test_a_number_that_yaml_read_as_text():
    assert from_mapping(Outer, {"count": 1, "rate": "1e-4"}).rate == 1e-4


def test_false_switches_off_what_can_be_off():
    """As `flip=false` and `clip_norm=off` in YAML; true says not how much."""
    config = from_mapping(Outer, {"count": False, "rate": False, "name": False, "inner": {"rate": False}})
    assert config == Outer(0, 0.0, None, inner=Inner(rate=None))
    assert isinstance(config.rate, float)
    with pytest.raises(ConfigError, match=r"^rate: .* float, got True: true does not say how much$"):
        from_mapping(Outer, {"count": 1, "rate": True})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "top.count: expected a value, got None"),
        ({"count": 1, "cuont": 2}, "top.cuont: expected one of count, rate"),
        ({"count": "many"}, "top.count: expected a value of type int, got 'many'"),
        ({"count": 1.5}, "top.count: expected a value of type int, got 1.5"),
        ({"count": True}, "top.count: expected a value of type int, got True"),
        ({"count": None}, "top.count: expected a value of type int, got None"),
        ({"count": 1, "rate": "fast"}, "top.rate: expected a value of type float, got 'fast'"),
        ({"count": 1, "name": 5}, "top.name: expected a value of type str, got 5"),
        ({"count": 1, "betas": [0.9]}, "top.betas: expected a list of 2, got"),
        ({"count": 1, "inner": {"mode": "c"}}, "top.inner.mode: expected one of 'a', 'b', got 'c'"),
        ({"count": 1, "inner": {"sides": [1, "x"]}}, r"top.inner.sides\[1\]: expected a value of type int, got 'x'"),
        ({"count": 1, "inner": 3}, "top.inner: expected a mapping with the settings of Inner, got 3"),
        ({"count": 2**63}, "top.count: expected an integer of at most 64 bits, got 9223372036854775808"),
        ({"count": 1, "rate": 10**400}, "top.rate: expected a value of type float, got 1000"),
        ({"count": 1, "rate": "nan"}, "top.rate: expected a finite number, got nan"),
        ({"count": 1, "betas": [0.9, float("inf")]}, r"top.betas\[1\]: expected a finite number, got inf"),
        ({"count": 1, "inner": {"rate": float("-inf")}}, "top.inner.rate: expected a finite number, got -inf"),
        ({"count": 1, "name": " "}, "top.name: expected text that is not empty, got ' '"),
        (None, "top: expected a mapping with the settings of Outer, got None"),
    ],
)
def test_mistakes_are_named(mapping, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        from_mapping(Outer, mapping, "top")
