"""What the scripts share: from Hydra's configuration to ours, and errors as one clear line."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIG_FOLDER = str(Path(__file__).resolve().parent.parent / "conf")
PAPER = Path(CONFIG_FOLDER) / "paper.yaml"
# The scripts run from a clone too, without an installation.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from litedetr.engine import Interrupted, LoaderError, NonFiniteError, RunConfig, loader_failures_named  # noqa: E402

USER_ERRORS = (ValueError, OSError, OmegaConfBaseException, NonFiniteError, LoaderError)
SIGPIPE = 13  # Windows has none


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
        threading.excepthook = _leave_system_errors_to_main
        try:
            with loader_failures_named():
                main(cfg)
            sys.stdout.flush()
        except Interrupted as stop:
            _leave(128 + stop.signum, str(stop))
        except KeyboardInterrupt:
            _leave(128 + signal.SIGINT, "SIGINT: left")
        except BrokenPipeError:  # the reader had enough: eval.py | head
            _leave(128 + SIGPIPE)
        except USER_ERRORS as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _leave(2, f"error: {_in_words(error)}\n(HYDRA_FULL_ERROR=1 shows where)")

    return wrapped


def _in_words(error: Exception) -> str:
    named = isinstance(error, OSError) and error.filename is not None
    return f"{error.filename}: {error.strerror}" if named else str(error)


def _leave(code: int, text: str | None = None) -> NoReturn:
    """Where nobody reads stdout or stderr any more, nothing is said."""
    with contextlib.suppress(OSError):
        if text is not None:
            print(text, file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _leave_system_errors_to_main(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread raises its own once more where the next number is written: said twice is too much."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
