"""From Hydra's configuration to ours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from litedetr.engine.run_config import RunConfig
from litedetr.paths import CLONE
from litedetr.settings import ConfigError

CONFIG_FOLDER = str(CLONE / "conf")


def run_config(cfg: DictConfig) -> RunConfig:
    """RunConfig of a composed conf/train.yaml; ConfigError names a setting that cannot work."""
    return RunConfig.from_settings(as_mapping(cfg))


def as_mapping(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def compose(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of conf/<name>.yaml with `overrides`, in a script or without one; ConfigError if they do not go
    together.
    """
    is_script = GlobalHydra.instance().is_initialized()
    with nullcontext() if is_script else hydra.initialize_config_dir(CONFIG_FOLDER, version_base=None):
        try:
            return as_mapping(hydra.compose(name, list(overrides)))
        except MissingConfigException as error:
            raise ConfigError(f"there is no conf/{error.missing_cfg_file}.yaml") from None
        except HydraException as error:
            raise ConfigError(str(error).strip().partition("\n")[0]) from None


def given_overrides() -> list[str]:
    """The settings of the command line, as they were typed."""
    return list(HydraConfig.get().overrides.task)


def text_of(cfg: DictConfig, name: str) -> str | None:
    """The text setting `name` as the command line has it: 1e5 and true are no text to Hydra, but good names."""
    value = cfg[name]
    if value is None or isinstance(value, str):
        return value
    typed = [text.partition("=")[2] for text in given_overrides() if text.partition("=")[0] == name]
    return typed[-1] if typed else str(value)


def overridden(*prefixes: str) -> bool:
    """Whether the command line names a setting that begins with one of `prefixes`."""
    return any(text.lstrip("+~").startswith(prefixes) for text in given_overrides())
