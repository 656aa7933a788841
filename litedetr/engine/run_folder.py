"""The folder of a run: which files it holds, and how its run is continued."""

from __future__ import annotations

from pathlib import Path


class RunFolder:
    """The files of a run. resume_from: the checkpoint to continue from, None for a new run.

    note: one line that tells the user what was decided.
    """

    def __init__(self, path: Path, resume_from: Path | None, note: str) -> None:
        self.path, self.resume_from, self.note = path, resume_from, note
        self.last, self.best = path / "last.pt", path / "best.pt"
        self.metrics, self.tensorboard, self.pictures = path / "metrics.jsonl", path / "tensorboard", path / "pictures"
        # Written at the end of a complete run, with its step; a continued run keeps it until its own are written.
        self.results = path / "results.json"

    def how_to_resume(self) -> str:
        """What the error of a failed run says at its end."""
        if not self.last.exists():
            return "Nothing was saved yet"
        return f"The last checkpoint is intact: resume={self.path} continues from it"

    def left_after(self, step: int) -> str:
        """What the user reads after a signal has stopped the run."""
        return f"left after step {step}, saved in {self.last}; resume={self.path} continues"
