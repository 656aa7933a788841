"""What a run shows and writes while it goes on: progress bar, metrics.jsonl, TensorBoard, pictures."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from litedetr.engine.checkpoint import Progress
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.scores import SUMMARY, Scores, json_numbers


class SilentTracker:
    """Shows and writes nothing: for all ranks but the main one."""

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""

    def advance(self, loss: float, rate: float) -> None:
        """One optimiser step is done."""

    def train(self, step: int, record: dict[str, float]) -> None:
        """Record the numbers of a training step; the bar shows data_share, what part of the time it waits for data."""

    def evaluation(self, step: int, epoch: int, scores: Scores) -> None:
        """Record the scores of an evaluation."""

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Keep a sample picture; a later one of the same name replaces its file."""

    def close(self) -> None:
        """Nothing follows."""


class Tracker(SilentTracker):
    """Writes into `folder`, going on from `progress`; what was written after it is dropped: no step is there twice."""

    def __init__(self, folder: RunFolder, progress: Progress, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, for those who train nothing

        self._folder = folder
        drop_metrics_after(folder.metrics, progress)
        self._metrics = folder.metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=progress.step + 1)
        self._bar = tqdm(
            total=total_steps,
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )
        self._shown: dict[str, str] = {}

    def say(self, text: str) -> None:
        self._bar.write(text)

    def advance(self, loss: float, rate: float) -> None:
        self._shown |= {"loss": f"{loss:.3f}", "lr": f"{rate:.1e}"}
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def train(self, step: int, record: dict[str, float]) -> None:
        self._shown["waiting"] = f"{record['data_share']:.0%}"
        self._write({"kind": "train", "step": step, **json_numbers(record)})
        for name, value in record.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def evaluation(self, step: int, epoch: int, scores: Scores) -> None:
        self._shown["AP"] = f"{scores.ap:.3f}"
        self._write({"kind": "evaluation", "step": step, "epoch": epoch, **scores.to_mapping()})
        curves = {f"evaluation/{name}": scores.summary[name] for name in SUMMARY}
        curves |= {f"evaluation_AP_by_class/{score.name}": score.ap for score in scores.classes}
        for name, value in curves.items():
            if not math.isnan(value):
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self._folder.pictures.mkdir(exist_ok=True)
        image.save(self._folder.pictures / f"{name}.png")
        self._board.add_image(f"pictures/{name}", np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        self._bar.close()
        self._board.close()
        self._metrics.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()


def drop_metrics_after(path: Path, progress: Progress) -> None:
    """Remove the lines that a run continued at `progress` writes again, and a last line cut short by a kill."""
    if not path.exists():
        return
    kept = [line + "\n" for line in path.read_text(encoding="utf-8").splitlines() if _is_before(line, progress)]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def _is_before(line: str, progress: Progress) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    return record["step"] <= (progress.step if record["kind"] == "train" else progress.evaluated_step)
