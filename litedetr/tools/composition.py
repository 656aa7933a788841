"""How tools get the settings of another file of conf/: the command line, which alone knows Hydra, hands them this."""

from collections.abc import Callable, Sequence
from typing import Any

Compose = Callable[[str, Sequence[str]], dict[str, Any]]  # (file of conf/ without .yaml, overrides) -> its settings
