"""Checks the command line's overrides before Hydra does, whose errors do not say which quotes would help."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from itertools import takewhile

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from litedetr.cli.compose import CONFIG_FOLDER
from litedetr.renamed_settings import RENAMED
from litedetr.settings import ConfigError


def parse_overrides(texts: Sequence[str], is_sweep: bool) -> list[Override]:
    """ConfigError for the first that Hydra cannot read, or that has several values without a sweep."""
    return [_parse(number, texts, is_sweep) for number in range(len(texts))]


def _parse(number: int, texts: Sequence[str], is_sweep: bool) -> Override:
    text = texts[number]
    try:
        override = _read(text)
    except HydraException as error:
        raise ConfigError(f"{text}: {_advice(number, texts)}") from error
    if override.key_or_group in RENAMED:
        raise ConfigError(f"{override.key_or_group}: renamed to {RENAMED[override.key_or_group]}")
    if override.is_sweep_override() and not is_sweep:
        raise ConfigError(
            f"{text}: several values want a sweep, -m, or brackets where they are a list; "
            f"one value that looks so wants quotes: {_quoted(text)}"
        )
    return override


def _read(text: str) -> Override:
    (override,) = _parser().parse_overrides([text])
    return override


@cache
def _parser() -> OverridesParser:
    """Hydra's parser, which knows the choices that glob(*) stands for."""
    return OverridesParser.create(ConfigLoaderImpl(create_config_search_path(CONFIG_FOLDER)))


def _advice(number: int, texts: Sequence[str]) -> str:
    """What to write instead, as a POSIX shell takes it."""
    text = texts[number]
    if "=" not in text:
        before = next((index for index in range(number, -1, -1) if "=" in texts[index]), None)
        whole = "name=two words" if before is None else " ".join(texts[before : number + 1])
        return f"expected name=value; spaces end an argument, quotes keep it together: {_quoted(whole)}"
    for end in range(number + 2, len(texts) + 1):  # a list whose spaces the shell has cut at
        joined = " ".join(texts[number:end])
        if _can_be_read(joined):
            return f"spaces end an argument; quotes keep it together: {shlex.quote(joined)}"
        if _is_list(text.partition("=")[2]) and joined.endswith("]"):
            return f"spaces end an argument; quotes keep it together: {_quoted(joined)}"
    rest = takewhile(lambda word: "=" not in word, texts[number + 1 :])  # the rest of a value with spaces
    whole = " ".join([text, *rest])
    return f"its value has characters that mean something to Hydra; in quotes they don't: {_quoted(whole)}"


def _can_be_read(text: str) -> bool:
    try:
        _read(text)
    except HydraException:
        return False
    return True


def _quoted(text: str) -> str:
    name, _, value = text.partition("=")
    return shlex.quote(f"{name}={_list_as_text(value) or _as_text(value)}")


def _as_text(value: str) -> str:
    return QuotedString(value, Quote.double).with_quotes()


def _list_as_text(value: str) -> str | None:
    """A list with quotes around the items that need them; None if `value` is not a list, or quotes do not help."""
    if not (_is_list(value) and value.endswith("]")):
        return None
    items = [item.strip() for item in value[1:-1].split(",")]
    written = f"[{', '.join(item if _can_be_read(f'x={item}') else _as_text(item) for item in items)}]"
    return written if _can_be_read(f"x={written}") else None


def _is_list(value: str) -> bool:
    return value.startswith("[")
