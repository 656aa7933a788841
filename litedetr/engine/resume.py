"""Whether a run begins anew or resumes: in which folder, from which checkpoint, and what to do if it is damaged."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from litedetr.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_progress
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.faults.files import require_writable
from litedetr.paths import user_path
from litedetr.settings import ConfigError, require, to_mapping

LONGEST_NAME = 255  # bytes, of file systems


def agree_on_run_folder(root: Path, name: str | None, config: RunConfig, ranks: Ranks) -> RunFolder:
    """The main rank's choice. ConfigError unless all ranks would resume from the same checkpoint or all from none:
    another machine may have the main rank at the next start, and must not begin anew without the run's folder.
    """
    choices = ranks.gather(choose_run_folder(root, name, config))
    found = sorted({str(choice.resume_from or "none") for choice in choices})
    expected = "a folder that all machines share, with one checkpoint to continue or none"
    require(len(found) == 1, str(root), expected, " and ".join(found))
    return choices[0]


def choose_run_folder(root: Path, name: str | None, config: RunConfig) -> RunFolder:
    """The folder `root/name`, or one named by the time, as trainer.resume says.

    `never`: a new run; ConfigError if there is one in `name` already.
    `auto`: resumes `name`, or without a name the newest unfinished run of the same configuration; if there is none,
    a new run. A path: resumes from this checkpoint, in its own folder, or in `name` if given.
    ConfigError too if `name` cannot be a folder's name, or if nothing can be written there.
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
    """Resume in `folder`, which must not hold another run; None: in the checkpoint's own folder."""
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


def find_unfinished(root: Path, config: RunConfig) -> tuple[Path | None, list[Path]]:
    """last.pt of the newest unfinished run of `config` under `root`, None if there is none; and newer ones that
    cannot be read, of runs whose best.pt does not say that they are of this configuration.
    """
    checkpoints = sorted(root.glob("*/last.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    damaged: list[Path] = []
    for path in checkpoints:
        if _is_finished(path):
            continue
        last = _readable(path)
        known = last or _readable(path.with_name("best.pt"))
        if known is not None and _same_run(known, config):
            return path, damaged
        if last is None:
            damaged.append(path)
    return None, damaged


def _is_finished(last: Path) -> bool:
    """Whether the results beside `last` are those of its step: a run that was begun again has gone beyond its old ones.

    Results whose step cannot be compared count.
    """
    results = last.with_name("results.json")
    if not results.exists():
        return False
    try:
        progress = load_progress(last)
        step = json.loads(results.read_bytes()).get("step", progress.step)
    except ValueError:  # one of both is damaged
        return True
    return step == progress.step == progress.evaluated_step


def checkpoint_to_continue(path: Path) -> Checkpoint:
    """As `load_checkpoint`. If `path` is damaged, the CheckpointError says from what else its run can be resumed."""
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        best = path.with_name("best.pt")
        found = None if best == path else _readable(best)
        advice = "there is no other whole one: begin anew with another run=... name"
        if found is not None:
            advice = f"{best} is whole: resume={best} continues from its step {found.progress.step}"
        raise CheckpointError(f"{error}; {advice}") from error


def _readable(path: Path) -> Checkpoint | None:
    try:
        return load_checkpoint(path)
    except CheckpointError:
        return None


def _same_run(checkpoint: Checkpoint, config: RunConfig) -> bool:
    """Whether both train the same thing; how they are carried out (`trainer`) may differ."""
    mine, theirs = to_mapping(config), checkpoint.full_config
    return all(mine[key] == theirs.get(key) for key in mine if key != "trainer")
