"""What the scripts share: from Hydra's configuration to ours, and errors as one clear line."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIG_FOLDER = str(Path(__file__).resolve().parent.parent / "conf")
PAPER = Path(CONFIG_FOLDER) / "paper.yaml"
# The scripts run from a clone too, without an installation.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from litedetr.engine import Interrupted, LostRanksError, NonFiniteError, RunConfig  # noqa: E402

USER_ERRORS = (ValueError, OSError, OmegaConfBaseException, NonFiniteError, LostRanksError)
PATIENCE = 5.0  # seconds
# What PyTorch says of tensors that do not fit: on a CPU, on a GPU, beyond 64 bits.
TOO_LARGE = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "multiplication overflow")


def run_config(cfg: DictConfig) -> RunConfig:
    """RunConfig of a composed conf/train.yaml; ConfigError names a setting that cannot work."""
    return RunConfig.from_settings(as_mapping(cfg))


def as_mapping(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def overridden(*prefixes: str) -> bool:
    """Whether the command line names a setting that begins with one of `prefixes`."""
    return any(text.lstrip("+~").startswith(prefixes) for text in HydraConfig.get().overrides.task)


def clear_errors(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """End with one line on stderr and code 2 where the user can mend it; with 128 + n after signal n."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        try:
            main(cfg)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            sys.exit(128 + stop.signum)
        except (*USER_ERRORS, RuntimeError, MemoryError) as error:
            message = memory_message(error) or (str(error) if isinstance(error, USER_ERRORS) else None)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {message}\n(HYDRA_FULL_ERROR=1 shows where)", file=sys.stderr)
            sys.exit(2)

    return wrapped


def one_voice(main: Callable[[], None]) -> Callable[[], None]:
    """Of the processes that torchrun starts on a machine only the first writes to stderr, Hydra's messages included.

    Most mistakes are everyone's. Another process that fails holds its report back for torchrun to end it along with
    the first, and gives it where that does not happen: the mistake is its own. After a signal the first speaks for all.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            return main()
        report = io.StringIO()
        try:
            with contextlib.redirect_stderr(report):
                main()
        except (Exception, SystemExit) as error:
            if not (isinstance(error, SystemExit) and error.code > 128):
                time.sleep(PATIENCE)
                sys.stderr.write(report.getvalue())
            raise

    return wrapped


def memory_message(error: Exception) -> str | None:
    """One line where `error` says that memory does not suffice, None where it says something else."""
    first_line = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or any(text in first_line for text in TOO_LARGE):
        return f"out of memory, smaller sizes need less: {first_line or 'Python could not get more'}"
    return None
