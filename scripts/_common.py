"""What the scripts share: how threads wait, and the way from Hydra's configuration to ours.

To be imported before torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

CONFIG_FOLDER = str(Path(__file__).resolve().parent.parent / "conf")
PAPER = Path(CONFIG_FOLDER) / "paper.yaml"

# The scripts run from a clone too, without an installation.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from litedetr.threads import limit_spinning  # noqa: E402

limit_spinning()

from litedetr.engine import RunConfig  # noqa: E402


def run_config(cfg: DictConfig) -> RunConfig:
    """RunConfig of a composed conf/train.yaml; ConfigError names a setting that cannot work."""
    return RunConfig.from_settings(as_mapping(cfg))


def as_mapping(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def text_of(cfg: DictConfig, name: str) -> str | None:
    """The text setting `name` as the command line has it: 1e5 and true are no text to Hydra, but good names."""
    value = cfg[name]
    if value is None or isinstance(value, str):
        return value
    given = [text for text in HydraConfig.get().overrides.task if text.partition("=")[0] == name]
    return given[-1].partition("=")[2] if given else str(value)


def overridden(*prefixes: str) -> bool:
    """Whether the command line names a setting that begins with one of `prefixes`."""
    return any(text.lstrip("+~").startswith(prefixes) for text in HydraConfig.get().overrides.task)
