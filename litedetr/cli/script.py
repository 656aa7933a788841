"""What makes a function a script: how its settings come, and how its output and errors go."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from litedetr.cli.compose import CONFIG_FOLDER
from litedetr.cli.errors import clear_errors, one_voice
from litedetr.cli.overrides import parse_overrides
from litedetr.cli.sweep import asks_for_sweep, sweep


def on_command_line(main: Callable[[], None]) -> Callable[[], None]:
    """Every error is one line, told once; what the output's encoding lacks is written as its code, \\u732b."""

    @functools.wraps(main)
    def wrapped() -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with logging_redirect_tqdm():  # warnings above a progress bar, not on its line
            one_voice(clear_errors(main))()

    return wrapped


def script(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """For the main function of scripts/<name>.py, which gets what Hydra composes of conf/<name>.yaml and of the command
    line; with -m once for each combination, each in a process of its own.
    """

    def decorated(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        composed = hydra.main(version_base=None, config_path=CONFIG_FOLDER, config_name=name)(clear_errors(main))

        @functools.wraps(main)
        def parsed() -> None:
            arguments = get_args_parser().parse_args()
            overrides = parse_overrides(arguments.overrides, arguments.multirun)
            if asks_for_sweep(arguments):
                sweep(arguments, overrides)
            else:
                composed()

        return on_command_line(parsed)

    return decorated
