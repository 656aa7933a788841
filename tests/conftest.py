"""Settings that must stand before anything imports torch or Triton, and fixtures of several folders."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from litedetr.threads import limit_spinning

limit_spinning()

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--operators", action="store_true", help="in tests/kernels, take the operators also for plain calls"
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded data set is drawn, once."""
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> None:
    """A shell's background jobs are born ignoring SIGINT, those of nohup SIGHUP, and so would the runs under test."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter():
    """See tests/kernels/quick_interpreter.py."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        yield
        return
    from quick_interpreter import patch_once  # not above: needs Triton

    with pytest.MonkeyPatch.context() as monkeypatch:
        patch_once(monkeypatch)
        yield


@pytest.fixture
def one_rank():
    """A run of one process on the CPU."""
    from litedetr.engine.distributed import Ranks  # not above: the kernels' tests need nothing of the detector

    return Ranks(torch.device("cpu"))
