"""What a user reads of an error: one clear line, once."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from tqdm import tqdm

from litedetr.faults.errors import UserError
from litedetr.faults.files import StorageError
from litedetr.faults.processes import LoaderError, loader_failures_named
from litedetr.faults.signals import Interrupted

USER_ERRORS = (ValueError, OSError, UserError)
# PyTorch's messages for tensors that do not fit into memory: on a CPU, on a GPU, beyond 64 bits.
TOO_LARGE = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "multiplication overflow")
ERROR_FILE = "LITEDETR_JOB_ERROR"  # names the file in which a job of a sweep leaves what went wrong, in one line
SIGPIPE = 13  # Windows has none
PATIENCE = 5.0  # seconds


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Ends the process with one line on stderr and code 2 for an error that the user can mend; with 128 + n after
    signal n.
    """
    threading.excepthook = _leave_system_errors_to_main
    try:
        with left_for_sweep(), loader_failures_named():
            yield
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


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Of the processes that torchrun starts on a machine only the first writes to stderr, Hydra's messages included.

    Most mistakes are everyone's. Another process that fails holds its report back for torchrun to end it along with
    the first, and gives it if that does not happen: the mistake is its own. After a signal the first speaks for all.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        yield
        return
    report = io.StringIO()
    try:
        with contextlib.redirect_stderr(report):
            yield
    except (Exception, SystemExit) as error:
        if not (isinstance(error, SystemExit) and error.code > 128):
            time.sleep(PATIENCE)
            sys.stderr.write(report.getvalue())
        raise


@contextlib.contextmanager
def resume_advice(advice: Callable[[], str]) -> Iterator[None]:
    """Within a run: the message of a StorageError or LoaderError ends with `advice()`, how to resume the run."""
    try:
        with loader_failures_named():
            yield
    except (StorageError, LoaderError) as error:
        raise type(error)(f"{error}. {advice()}") from error


@contextlib.contextmanager
def left_for_sweep() -> Iterator[None]:
    """Leaves the first line of an error, Hydra's own included, for the sweep that this process may be a job of."""
    try:
        yield
    except (Exception, SystemExit) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error  # Hydra tells its own errors and exits
        if ERROR_FILE in os.environ and cause is not None and not isinstance(cause, SystemExit):
            kind = "" if isinstance(cause, USER_ERRORS) else f"{type(cause).__name__}: "
            with open(os.environ[ERROR_FILE], "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(kind + _in_words(cause).strip().partition("\n")[0])
        raise


def memory_message(error: Exception) -> str | None:
    """One line if `error` says that memory does not suffice, None if it says something else."""
    first_line = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or any(text in first_line for text in TOO_LARGE):
        return f"out of memory, smaller sizes need less: {first_line or 'Python could not get more'}"
    return None


def _in_words(error: BaseException) -> str:
    named = isinstance(error, OSError) and error.filename is not None
    return f"{error.filename}: {error.strerror}" if named else str(error)


def _leave(code: int, text: str | None = None) -> NoReturn:
    """Exits. Nothing is said if nobody reads stdout or stderr any more."""
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
