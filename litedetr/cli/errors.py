"""What a user sees of an error: one clear line, once."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec

from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from tqdm import tqdm

import litedetr.cli.compose  # noqa: F401  first: it lets litedetr be found
from litedetr.cli.sweep import leave_error
from litedetr.engine.distributed import LostRanksError
from litedetr.engine.loader import LoaderError, loader_failures_named
from litedetr.engine.train_step import NonFiniteError
from litedetr.faults.signals import Interrupted

P = ParamSpec("P")
USER_ERRORS = (ValueError, OSError, OmegaConfBaseException, NonFiniteError, LoaderError, LostRanksError)
# What PyTorch says of tensors that do not fit: on a CPU, on a GPU, beyond 64 bits.
TOO_LARGE = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "multiplication overflow")
SIGPIPE = 13  # Windows has none
PATIENCE = 5.0  # seconds


def clear_errors(main: Callable[P, None]) -> Callable[P, None]:
    """End with one line on stderr and code 2 where the user can mend it; with 128 + n after signal n."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        threading.excepthook = _leave_system_errors_to_main
        try:
            with _left_for_sweep(), loader_failures_named():
                main(*args, **kwargs)
            sys.stdout.flush()
        except Interrupted as stop:
            _leave(128 + stop.signum, str(stop))
        except KeyboardInterrupt:
            _leave(128 + signal.SIGINT, "SIGINT: left")
        except BrokenPipeError:  # the reader had enough: eval.py | head
            _leave(128 + SIGPIPE)
        except (*USER_ERRORS, RuntimeError, MemoryError) as error:
            message = _in_words(error) if isinstance(error, USER_ERRORS) else memory_message(error)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _leave(2, f"error: {message}\n(HYDRA_FULL_ERROR=1 shows where)")

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


@contextlib.contextmanager
def _left_for_sweep() -> Iterator[None]:
    """The first line of an error, Hydra's own included, is left for the sweep that this process may be a job of."""
    try:
        yield
    except (Exception, SystemExit) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error  # Hydra tells its own errors and exits
        if cause is not None and not isinstance(cause, SystemExit):
            kind = "" if isinstance(cause, USER_ERRORS) else f"{type(cause).__name__}: "
            leave_error(kind + _in_words(cause).strip().partition("\n")[0])
        raise


def _in_words(error: BaseException) -> str:
    if isinstance(error, InterpolationKeyError):
        return f"{str(error).partition(chr(10))[0]}; a $ that is part of a value, and no reference, is written \\$"
    named = isinstance(error, OSError) and error.filename is not None
    return f"{error.filename}: {error.strerror}" if named else str(error)


def _leave(code: int, text: str | None = None) -> NoReturn:
    """Where nobody reads stdout or stderr any more, nothing is said."""
    with contextlib.suppress(OSError):
        if text is not None:
            tqdm.write(text, file=sys.stderr)  # on a line of its own, be there a progress bar or not
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _leave_system_errors_to_main(failure: threading.ExceptHookArgs) -> None:
    """System errors of a thread are not printed, because the main thread raises them too.

    TensorBoard's thread raises its error again when the next number is written. If a worker process ends while a thread
    takes its images, the main thread notices it.
    """
    if not isinstance(failure.exc_value, (OSError, EOFError)):
        threading.__excepthook__(failure)
