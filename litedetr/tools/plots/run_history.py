"""The history of a run, from its metrics.jsonl; the run may still be going or have been resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from litedetr.losses.parts import LossName, parts_of
from litedetr.settings import ConfigError
from litedetr.tools.plots.former_records import with_loss_parts

Kind = Literal["train", "evaluation"]
Number = str | LossName  # what names a number of a record


@dataclass(frozen=True)
class Curve:
    """N points of a number over a run."""

    x: np.ndarray  # (N,) ascending
    y: np.ndarray  # (N,) never NaN

    def __len__(self) -> int:
        return len(self.x)

    def smoothed(self, weight: float) -> Curve:
        """Running mean in which every earlier point counts `weight` times the next, as TensorBoard's."""
        means, total, mass = [], 0.0, 0.0
        for value in self.y.tolist():
            total, mass = weight * total + value, weight * mass + 1
            means.append(total / mass)
        return Curve(self.x, np.array(means))


@dataclass(frozen=True)
class History:
    """The records of a run by step, each step once."""

    name: str
    train: dict[int, dict[Number, Any]]
    evaluation: dict[int, dict[Number, Any]]

    @property
    def steps_per_epoch(self) -> float | None:
        """Of the run's end; a run that was resumed with another batch size had another one before. None if nothing was
        logged yet.
        """
        if not self.train:
            return None
        last = self.train[max(self.train)]
        return last["step"] / last["epoch"]

    def loss_parts(self) -> list[LossName]:
        """All parts of the loss that some record has, each once."""
        names = dict.fromkeys(name for record in self.train.values() for name in record)
        return [name for name in names if isinstance(name, LossName)]

    def curve(self, kind: Kind, name: Number, over: Literal["epoch", "step"]) -> Curve:
        """`name` over epochs or steps, without the records that lack it or where it is undefined."""
        records = getattr(self, kind)
        found = [(self._x(records[step], over), records[step].get(name)) for step in sorted(records)]
        pairs = np.array([pair for pair in found if pair[1] is not None], dtype=float).reshape(-1, 2)
        return Curve(pairs[:, 0], pairs[:, 1])

    def _x(self, record: dict[Number, Any], over: str) -> float:
        if over == "step":
            return record["step"]
        if record["kind"] == "evaluation" and self.steps_per_epoch:  # its own epoch is a whole number
            return record["step"] / self.steps_per_epoch
        return record["epoch"]


def read_history(folder: Path, name: str) -> History:
    """The history of the run in `folder`; ConfigError if there is none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ConfigError(f"runs: expected run folders with a metrics.jsonl, got {folder}")
    records = list(_records(path))
    if not records:
        raise ConfigError(f"runs: {path} has no records yet; they come every trainer.log_every steps")
    by_kind = {
        kind: {record["step"]: record for record in records if record["kind"] == kind}
        for kind in ("train", "evaluation")
    }
    return History(name, **by_kind)


def _records(path: Path) -> Iterable[dict[Number, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):  # the last one may be half written
                raise ConfigError(f"{path}: line {number} is no JSON: {error}") from error
            continue
        record = with_loss_parts(record)
        parts = parts_of(record.pop("loss_parts", {}))
        yield record | {part.name: part.value for part in parts}
