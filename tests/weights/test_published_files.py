"""Files as training writes them, and files that must not be read."""

import os
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from published_helpers import Variant, state_dict

from litedetr.models import Detector
from litedetr.weights import PublishedWeightsError, load_published, read_published


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return state_dict(Variant())


def with_module(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


def test_wrapped_files_give_the_same_state_dict(state: dict[str, torch.Tensor], tmp_path: Path):
    options = Namespace(enc_scale=3, lr=1e-4, coco_path="/data", param_dict_type=None, milestones=[11])
    rest = {"optimizer": {"state": {}}, "lr_scheduler": {"last_epoch": 11}, "epoch": 11, "args": options}
    files = {
        "bare": state,
        "model": {"model": state, **rest},
        "distributed": {"model": with_module(state), **rest},
        "averaged": {"model": {"other": torch.ones(1)}, "ema_model": with_module(state), **rest},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        read = read_published(tmp_path / name)
        assert read.keys() == state.keys(), name
        assert all(torch.equal(read[key], value) for key, value in state.items()), name


def test_wrapped_content_loads_without_a_file(state: dict[str, torch.Tensor]):
    model = load_published({"model": with_module(state), "args": Namespace()}, 3)
    assert isinstance(model, Detector)
    assert torch.equal(model.neck.level_embedding, state["transformer.level_embed"])


class Exploit:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_file_with_code_is_refused_and_not_run(state: dict[str, torch.Tensor], tmp_path: Path):
    path = tmp_path / "evil.pth"
    torch.save({"model": state, "args": Exploit(tmp_path / "ran")}, path)
    with pytest.raises(
        PublishedWeightsError, match=rf"{re.escape(str(path))}: rejected: it holds a \w+\.mkdir, .*run code"
    ):
        read_published(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so it would have run


def test_an_option_of_a_class_of_its_own_is_refused(state: dict[str, torch.Tensor], tmp_path: Path):
    torch.save({"model": state, "args": Namespace(output=Path("x"))}, tmp_path / "odd.pth")
    with pytest.raises(PublishedWeightsError, match=r"rejected: it holds a pathlib\S+, .*save only its state dict"):
        read_published(tmp_path / "odd.pth")


def test_namespaces_are_not_allowed_for_good(state: dict[str, torch.Tensor], tmp_path: Path):
    torch.save({"model": state, "args": Namespace(a=1)}, tmp_path / "file.pth")
    before = set(torch.serialization.get_safe_globals())
    read_published(tmp_path / "file.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    assert Namespace not in before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a state dict, got a list"),
        ({}, "no state dict: expected tensors by name, bare or under 'ema_model' or 'model'"),
        ({"state": {"a": torch.ones(1)}}, "no tensors are: state"),
        ({"model": {"a": torch.ones(1), "b": 3}}, "no tensors are: b"),
        ({1: torch.ones(1)}, "no tensors are: 1"),
    ],
)
def test_what_holds_no_state_dict_is_refused_by_file_name(content: object, message: str, tmp_path: Path):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    with pytest.raises(PublishedWeightsError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        read_published(path)


def test_missing_and_damaged_files_are_refused_by_name(state: dict[str, torch.Tensor], tmp_path: Path):
    with pytest.raises(PublishedWeightsError, match="nowhere.pth: no such file"):
        read_published(tmp_path / "nowhere.pth")
    path = tmp_path / "half.pth"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(PublishedWeightsError, match=r"half.pth: cannot be read: damaged, or no PyTorch file"):
        read_published(path)
    (tmp_path / "text.pth").write_text("weights, honestly")
    with pytest.raises(PublishedWeightsError, match="text.pth"):
        read_published(tmp_path / "text.pth")
