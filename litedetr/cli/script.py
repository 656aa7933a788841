"""The decorator of every script's main function: composes its settings, prints --help, runs sweeps, shows errors."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from tqdm.contrib.logging import logging_redirect_tqdm

from litedetr.cli.compose import CONFIG_FOLDER
from litedetr.cli.help import offer_help
from litedetr.cli.overrides import parse_overrides
from litedetr.cli.sweep import asks_for_sweep, sweep
from litedetr.faults.messages import clear_errors, one_voice
from litedetr.settings import ConfigError


@contextmanager
def on_command_line() -> Iterator[None]:
    """Every error is printed once, as one line; what the output's encoding lacks is written as its code, \\u732b."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with logging_redirect_tqdm(), one_voice(), _clear_errors():  # warnings above a progress bar, not on its line
        yield


def script(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """For the main function of scripts/<name>.py: calls it with the settings that Hydra composes from conf/<name>.yaml
    and the command line; with -m once for each combination, each in its own process.
    """

    def decorated(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        # Hydra would print what main raises as a traceback, so its errors are printed before Hydra gets them.
        composed = hydra.main(version_base=None, config_path=CONFIG_FOLDER, config_name=name)(_clear_errors()(main))

        @functools.wraps(main)
        @on_command_line()
        def parsed() -> None:
            offer_help(main)
            arguments = get_args_parser().parse_args()
            overrides = parse_overrides(arguments.overrides, arguments.multirun)
            if asks_for_sweep(arguments):
                sweep(arguments, overrides)
            else:
                composed()

        return parsed

    return decorated


@contextmanager
def _clear_errors() -> Iterator[None]:
    """As `clear_errors`, for OmegaConf's errors too: they are mistakes in settings."""
    with clear_errors():
        try:
            yield
        except OmegaConfBaseException as error:
            text = str(error).partition("\n")[0]
            if isinstance(error, InterpolationKeyError):
                text = f"{text}; a $ that is part of a value, and no reference, is written \\$"
            raise ConfigError(text) from error
