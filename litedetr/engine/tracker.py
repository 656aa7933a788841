"""What a run shows and writes while it trains: progress bar, metrics.jsonl, TensorBoard, pictures."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from litedetr.engine.checkpoint import Progress
from litedetr.engine.coco_metrics import SUMMARY, Scores, json_numbers
from litedetr.engine.run_folder import RunFolder
from litedetr.faults.files import StorageError, remove_leftovers, replacing, writing
from litedetr.losses import LossPart
from litedetr.losses.parts import by_branch


class SilentTracker:
    """Shows and writes nothing: for all ranks but the main one."""

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""

    def advance(self, loss: float, rate: float) -> None:
        """One optimiser step is done."""

    def train(self, step: int, record: dict[str, float], parts: Sequence[LossPart]) -> None:
        """Record the numbers of a training step and the parts of its loss.

        The bar shows data_share, what part of the time it waits for data.
        """

    def evaluation(self, step: int, epoch: int, scores: Scores) -> None:
        """Record the scores of an evaluation."""

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Keep a sample picture; a later one of the same name replaces its file."""

    def __enter__(self) -> SilentTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Nothing to close."""


class Tracker(SilentTracker):
    """Writes into `folder`. A run that is resumed at `progress` drops later records when it writes its first one: so no
    step is there twice, and a run that ends before its first record changes nothing.
    """

    def __init__(self, folder: RunFolder, progress: Progress, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, for those who train nothing

        folder.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.path)
        self._folder, self._progress = folder, progress
        self._has_earlier_lines = folder.metrics.exists()
        with writing(folder.tensorboard):
            self._board = SummaryWriter(str(folder.tensorboard), purge_step=progress.step + 1)
        self._bar = tqdm(
            total=max(total_steps, progress.step),  # of a schedule that has become shorter
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )
        self._shown: dict[str, str] = {}

    def say(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"  # which may lack the letters of a class or a folder
        with _ignoring_closed_output():
            self._bar.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def advance(self, loss: float, rate: float) -> None:
        self._shown |= {"loss": f"{loss:.3f}", "lr": f"{rate:.1e}"}
        with _ignoring_closed_output():
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update()

    def train(self, step: int, record: dict[str, float], parts: Sequence[LossPart]) -> None:
        self._shown["waiting"] = f"{record['data_share']:.0%}"
        self._write({"kind": "train", "step": step, **json_numbers(record), "loss_parts": by_branch(parts)})
        curves = {f"train/{name}": value for name, value in record.items()}
        curves |= {f"loss_{part.branch.value}/{part.term}_layer_{part.layer}": part.value for part in parts}
        self._draw_curves(curves, step)

    def evaluation(self, step: int, epoch: int, scores: Scores) -> None:
        self._shown["AP"] = f"{scores.ap:.3f}"
        with _ignoring_closed_output():
            self._bar.set_postfix(self._shown)
        self._write({"kind": "evaluation", "step": step, "epoch": epoch, **scores.to_mapping()})
        curves = {f"evaluation/{name}": scores.summary[name] for name in SUMMARY}
        curves |= {f"evaluation_AP_by_class/{score.name}": score.ap for score in scores.classes}
        self._draw_curves({name: value for name, value in curves.items() if not math.isnan(value)}, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        path = self._folder.pictures / f"{name}.png"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            image.save(path)
        with writing(self._folder.tensorboard):
            self._board.add_image(f"pictures/{name}", np.asarray(image), step, dataformats="HWC")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with _ignoring_closed_output():
            self._bar.close()
        try:
            with writing(self._folder.tensorboard):
                self._board.close()
        except StorageError:
            if kind is None:  # otherwise the error that came first is reported
                raise

    def _write(self, record: dict[str, Any]) -> None:
        """Opens the file for each record: one left in a buffer would fail on a full disk again, at the end."""
        if self._has_earlier_lines:
            drop_metrics_after(self._folder.metrics, self._progress)
            self._has_earlier_lines = False
        with writing(self._folder.metrics), self._folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _draw_curves(self, values: dict[str, float], step: int) -> None:
        with writing(self._folder.tensorboard):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def _ignoring_closed_output() -> AbstractContextManager[None]:
    """Ignore that the terminal was closed or that nobody reads the pipe: the run goes on."""
    return suppress(OSError)


def drop_metrics_after(path: Path, progress: Progress) -> None:
    """Remove the lines that a run continued at `progress` writes again, and a last line cut short by a kill."""
    kept = [line + "\n" for line in path.read_text(encoding="utf-8").splitlines() if _is_before(line, progress)]
    with replacing(path) as file:
        file.write("".join(kept).encode())


def _is_before(line: str, progress: Progress) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    return progress.includes(record["kind"], record["step"])
