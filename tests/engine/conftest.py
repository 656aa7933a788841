"""Shared by the engine's tests."""

from pathlib import Path

import pytest
import torch

from litedetr.engine import Ranks


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded data set is drawn, once."""
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture
def one_rank() -> Ranks:
    return Ranks(torch.device("cpu"))
