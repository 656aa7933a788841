"""The type of the function that composes a file of conf/. Scripts pass it to tools, which do not import Hydra."""

from collections.abc import Callable, Sequence
from typing import Any

Compose = Callable[[str, Sequence[str]], dict[str, Any]]  # (file of conf/ without .yaml, overrides) -> its settings
