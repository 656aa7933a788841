"""Which checkpoint a run goes on from, and what to do where that one is damaged."""

from __future__ import annotations

import json
from pathlib import Path

from litedetr.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_progress
from litedetr.engine.run_config import RunConfig
from litedetr.settings import to_mapping


def find_unfinished(root: Path, config: RunConfig) -> tuple[Path | None, list[Path]]:
    """last.pt of the newest unfinished run of `config` under `root`, None where there is none; and newer ones that
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
    """As `load_checkpoint`; where `path` is damaged, CheckpointError says what else its run can be continued from."""
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
