"""scripts/train.py under torchrun, with settings that only rank 1 gets: as if its machine were set up otherwise."""

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    settings, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    if os.environ["RANK"] == "1":
        sys.argv.append(settings)
    train = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
    sys.path.insert(0, str(train.parent))
    sys.argv[0] = str(train)
    runpy.run_path(str(train), run_name="__main__")
