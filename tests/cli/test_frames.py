"""How many of our functions lie between scripts/train.py and the model's forward."""

import subprocess
import sys
from pathlib import Path

from test_scripts import ROOT, TINY

MOST = 7
# Runs scripts/train.py as __main__. The detector's first forward prints the frames of this repository and ends it.
PROGRAM = """
import os, runpy, sys, traceback
from litedetr.models import Detector

def show(*arguments):
    for frame in traceback.extract_stack()[:-1]:
        if frame.filename.startswith(root) and "site-packages" not in frame.filename:
            print("frame", os.path.relpath(frame.filename, root), frame.name)
    print("frame", os.path.relpath(forward.__code__.co_filename, root), forward.__name__, flush=True)
    os._exit(0)

root, sys.argv = sys.argv[1], [sys.argv[1] + "/scripts/train.py", *sys.argv[2:]]
forward, Detector.forward = Detector.forward, show
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_few_frames_lie_between_the_script_and_the_models_forward(tmp_path: Path, cache: Path):
    settings = [*TINY, f"data.shapes.cache={cache}", "run=foo"]
    command = [sys.executable, "-c", PROGRAM, str(ROOT), *settings]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    frames = [line.removeprefix("frame ") for line in ended.stdout.splitlines() if line.startswith("frame ")]
    shown = "\n".join(frames) + ended.stderr
    assert frames[:1] == ["scripts/train.py <module>"], shown
    assert "scripts/train.py main" in frames, shown
    assert frames[-1] == "litedetr/models/detector.py forward", shown
    assert len(frames) <= MOST, shown
