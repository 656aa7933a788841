"""From Hydra's configuration to ours."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from litedetr.engine.run_config import RunConfig
from litedetr.paths import CLONE

CONFIG_FOLDER = str(CLONE / "conf")
PAPER = CLONE / "conf" / "paper.yaml"


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
