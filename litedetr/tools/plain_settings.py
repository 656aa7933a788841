"""Settings as name=value on a command line, read without Hydra."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from litedetr.settings import ConfigError


def plain_settings(arguments: Iterable[str]) -> dict[str, Any]:
    """Values by name; ConfigError for an argument that is not name=value."""
    found = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"expected settings as name=value, got {argument!r}")
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    """A number, true, false, null, or [a,b]; anything else is text as it stands."""
    if text.startswith("[") and text.endswith("]"):
        return [_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # JSON's own, and what Python says of too many digits or brackets
        return text
