"""From a mapping to a frozen dataclass, strictly: an unknown, missing or ill-typed entry is an error that names it.

Dataclasses of settings are `typed`: made in Python they check their fields as those from a mapping.
"""

from __future__ import annotations

import functools
import math
import os
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from litedetr.renamed_settings import RENAMED

T = TypeVar("T")
MOST_INTEGER = 2**63 - 1


class ConfigError(ValueError):
    """A setting that cannot work; the message names it, what was expected and what came."""


def require(condition: bool, name: str, expected: str, value: object, advice: str = "") -> None:
    """Raise ConfigError for the setting `name` unless `condition` holds. advice: what to set instead."""
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, got {value!r}" + (f": {advice}" if advice else ""))


def as_type(hint: Any, value: object, name: str) -> Any:
    """`value` as the type `hint` has it: a list becomes a tuple, an integer a float, a NumPy number one of Python.

    ConfigError for the setting or argument `name` where it is of another type, a number that is not finite, or empty.
    """
    return _convert(hint, value, name)


def typed(cls: type[T]) -> type[T]:
    """Under `@dataclass(frozen=True)`: each field becomes what its type hint says, by `as_type`, before the class's own
    `__post_init__` looks at it.
    """
    own = getattr(cls, "__post_init__", None)

    def __post_init__(self: T) -> None:
        for name, hint in _hints(type(self)).items():
            object.__setattr__(self, name, as_type(hint, getattr(self, name), f"{type(self).__name__}.{name}"))
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__
    return cls


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], path: str = "") -> T:
    """Build dataclass `cls` from `mapping`, descending into fields that are dataclasses themselves."""
    require(
        isinstance(mapping, Mapping), path or cls.__name__, f"a mapping with the settings of {cls.__name__}", mapping
    )
    hints = _hints(cls)
    known = {field.name: field for field in fields(cls)}
    require_known(mapping, known, path)
    for name, field in known.items():
        optional = field.default is not MISSING or field.default_factory is not MISSING
        require(name in mapping or optional, _join(path, name), "a value", None)
    values = {name: _convert(hints[name], value, _join(path, str(name))) for name, value in mapping.items()}
    return cls(**values)


def require_known(mapping: Mapping[str, Any], known: Collection[str], path: str = "") -> None:
    """Raise ConfigError for a setting of `mapping` that nothing reads."""
    for name in mapping:
        if name not in known and _join(path, name) in RENAMED:
            raise ConfigError(f"{_join(path, name)}: renamed to {RENAMED[_join(path, name)]}")
        require(name in known, _join(path, name), f"one of {', '.join(known)}", name)


def to_mapping(config: object) -> dict[str, Any]:
    """The inverse of `from_mapping`: plain dicts, lists, numbers and strings, safe to put in a checkpoint."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        # YAML's false, no and off of what can be left out.
        if type(None) in options and (value is None or (value is False and bool not in options)):
            return None
        return _convert_union([option for option in options if option is not type(None)], value, path)
    if origin is Literal:
        require(
            isinstance(value, str) and value in get_args(hint),
            path,
            f"one of {', '.join(map(repr, get_args(hint)))}",
            value,
        )
        return value
    if is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, path)
    if origin is tuple:
        return _convert_tuple(hint, value, path)
    if origin is list:
        require(isinstance(value, list), path, "a list", value)
        return [_convert(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        require(isinstance(value, Mapping), path, "a mapping", value)
        key_type, item_type = get_args(hint)
        return {_convert(key_type, k, path): _convert(item_type, v, f"{path}.{k}") for k, v in value.items()}
    return _convert_scalar(hint, value, path)


def _convert_union(options: list[Any], value: Any, path: str) -> Any:
    errors = []
    for option in options:
        try:
            return _convert(option, value, path)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise ConfigError(f"{path}: fits none of its types; {'; '.join(str(error) for error in errors)}")


def _convert_tuple(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    require(isinstance(value, (list, tuple)), path, "a list", value)
    items = get_args(hint)
    if items[-1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    require(len(value) == len(items), path, f"a list of {len(items)}", value)
    return tuple(_convert(item, v, f"{path}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint in (int, float) and value is False:  # YAML's false, no and off of a number: none of it
        value = 0
    if hint is float:
        value = _as_float(value)
    elif hint is int and isinstance(value, Integral) and not isinstance(value, bool):
        value = int(value)
    elif hint is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    matches = isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))
    if hint is str and isinstance(value, (bool, int, float)):  # a file named 1.0, say
        advice = f"in quotes it is one: '{path}=\"{value}\"'"
    else:
        advice = "true does not say how much" if hint is float and value is True else ""
    require(matches, path, f"a value of type {hint.__name__}", value, advice)
    _require_usable(value, path)
    return value


def _as_float(value: Any) -> Any:
    """Real numbers, and 1e-4 and the like, which YAML 1.1 reads as text, as floats; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _require_usable(value: Any, path: str) -> None:
    """Text says something, floats are finite, integers fit into a tensor."""
    if isinstance(value, str):
        require(value.strip() != "", path, "text that is not empty", value)
    elif isinstance(value, float):
        require(math.isfinite(value), path, "a finite number", value)
    elif isinstance(value, int):
        require(abs(value) <= MOST_INTEGER, path, "an integer of at most 64 bits", value)
