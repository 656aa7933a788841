"""Where a run lies, and what it continues from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from litedetr.engine.checkpoint import Checkpoint, CheckpointError, OtherModelError
from litedetr.engine.distributed import Ranks
from litedetr.engine.resume import find_unfinished
from litedetr.engine.run_config import RunConfig
from litedetr.faults.files import require_writable
from litedetr.paths import user_path
from litedetr.settings import ConfigError, require, to_mapping

LONGEST_NAME = 255  # bytes, of file systems
# Settings of a model that change nothing of what it computes.
SAME_MODEL = {
    f"model.{name}"
    for name in (
        "backbone.weights",
        "encoder.activation_checkpointing",
        "decoder.activation_checkpointing",
        "attention.backend",
    )
}


class RunFolder:
    """The files of a run. resume_from: the checkpoint to continue from, None for a new run.

    note: one line that tells the user what was decided.
    """

    def __init__(self, path: Path, resume_from: Path | None, note: str) -> None:
        self.path, self.resume_from, self.note = path, resume_from, note
        self.last, self.best = path / "last.pt", path / "best.pt"
        self.metrics, self.tensorboard, self.pictures = path / "metrics.jsonl", path / "tensorboard", path / "pictures"
        # There once the run has been complete; of which step it tells, and it stays until there are newer ones.
        self.results = path / "results.json"

    def how_to_resume(self) -> str:
        """What is told if the run fails."""
        if not self.last.exists():
            return "Nothing was saved yet"
        return f"The last checkpoint is intact: resume={self.path} continues from it"

    def left_after(self, step: int) -> str:
        """What is told if the run is asked to stop."""
        return f"left after step {step}, saved in {self.last}; resume={self.path} continues"


def agree_on_run_folder(root: Path, name: str | None, config: RunConfig, ranks: Ranks) -> RunFolder:
    """The main rank's choice, where all ranks would continue the same: which machine has the main rank may change from
    start to start, and a run must not begin anew because its folder lies on another one. ConfigError otherwise.
    """
    choices = ranks.gather(choose_run_folder(root, name, config))
    found = sorted({str(choice.resume_from or "none") for choice in choices})
    expected = "a folder that all machines share, with one checkpoint to continue or none"
    require(len(found) == 1, str(root), expected, " and ".join(found))
    return choices[0]


def choose_run_folder(root: Path, name: str | None, config: RunConfig) -> RunFolder:
    """The folder `root/name`, or one named by the time, as trainer.resume says.

    `never`: a new run; ConfigError where `name` holds one already. `auto`: continues `name`, or without a name the
    newest unfinished run of the same configuration; where there is none, begins a new run. A path continues that
    checkpoint in its own folder, or in `name` where given. ConfigError too where `name` is no folder's name, or where
    nothing can be written there.
    """
    folder = _chosen(root, name, config)
    require_writable("run", folder.path)
    return folder


def _chosen(root: Path, name: str | None, config: RunConfig) -> RunFolder:
    resume = config.trainer.resume
    if name is not None:
        num_bytes = len(name.encode("utf-8", "surrogateescape"))
        plain = Path(name).name == name and name not in ("", "..") and num_bytes <= LONGEST_NAME
        require(plain, "run", f"the name of a folder under {root}/, without slashes", name)
    if resume not in ("auto", "never"):
        return _continue_path(user_path(resume), root / name if name else None)
    if name is None:
        return _newest_unfinished(root, config) if resume == "auto" else _new_run(root)
    folder = root / name
    last = folder / "last.pt"
    if resume == "never" and last.exists():
        raise ConfigError(
            f"run={name}: {folder} holds a run already; resume=auto continues it, another name starts anew "
            f"(of a sweep over the seed: 'run={name}_${{seed}}')"
        )
    if last.exists():
        return RunFolder(folder, last, f"continuing {folder}")
    return RunFolder(folder, None, f"new run in {folder}")


def _continue_path(path: Path, folder: Path | None) -> RunFolder:
    """In `folder`, which must not hold another run, or where the checkpoint lies."""
    checkpoint = path / "last.pt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise CheckpointError(f"resume={path}: no such checkpoint; expected auto, never, a checkpoint or a run folder")
    folder = folder or checkpoint.parent
    is_its_own = folder.resolve() == checkpoint.parent.resolve()
    if not is_its_own and (folder / "last.pt").exists():
        raise ConfigError(f"run={folder.name}: {folder} holds another run already, which {path} would replace")
    return RunFolder(folder, checkpoint, f"continuing {checkpoint} in {folder}")


def _new_run(root: Path, remark: str = "") -> RunFolder:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, count = root / stamp, 1
    while folder.exists():
        count += 1
        folder = root / f"{stamp}_{count}"
    return RunFolder(folder, None, f"{remark}new run in {folder}")


def _newest_unfinished(root: Path, config: RunConfig) -> RunFolder:
    checkpoint, unreadable = find_unfinished(root, config)
    damaged = ", ".join(map(str, unreadable))
    if checkpoint is None:
        remark = f", passing over {damaged}, which cannot be read" if damaged else ""
        return _new_run(root, f"no unfinished run of this configuration under {root}{remark}: ")
    folder = checkpoint.parent
    remark = f"; passed over, since it cannot be read: {damaged}" if damaged else ""
    return RunFolder(folder, checkpoint, f"continuing {folder}{remark}")


def changed_settings(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """What differs from the checkpoint's configuration, `name: old -> new`, trainer settings aside.

    Raises OtherModelError where the model itself differs: then its weights do not mean the same.
    """
    lines = differences(checkpoint.full_config, to_mapping(config))
    model = [line for name, line in lines.items() if name.startswith("model.") and name not in SAME_MODEL]
    if model:
        what = "the checkpoint to continue has another model: take another run=... name, or its settings"
        raise OtherModelError(what, f"\n  settings that differ: {'; '.join(model)}", checkpoint.full_config["model"])
    return [line for name, line in lines.items() if not name.startswith("trainer.")]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The settings that differ, by name: `name: old -> new`."""
    old, new = flat_settings(old), flat_settings(new)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return {name: f"{name}: {old.get(name)} -> {new.get(name)}" for name in names}


def flat_settings(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of nested mappings by its path, `encoder.update`."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
