"""torchrun as a user starts it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = [ROOT, ROOT / "tests" / "engine"]


@dataclass(frozen=True)
class Outcome:
    """code: exit status. errors: stderr. seconds: from `disturb` on."""

    code: int
    errors: str
    seconds: float

    def count(self, text: str) -> int:
        return self.errors.count(text)


def torchrun(
    folder: Path, processes: int, script: Path, *arguments: str, disturb: Callable[[int], None] = lambda agent: None
) -> Outcome:
    """Run in `folder` until all processes have left. disturb: called with the process id of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", str(script), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as agent:
        disturb(agent.pid)
        begin = time.monotonic()
        _, errors = agent.communicate(timeout=120)
    return Outcome(agent.returncode, errors, time.monotonic() - begin)


def process_of(agent: int, rank: int) -> int:
    """The process id of a rank."""
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if re.search(rf"\0RANK={rank}\0", Path(f"/proc/{child}/environ").read_text()):
            return int(child)
    raise LookupError(rank)


def wait_for(path: Path, patience: float = 60.0) -> None:
    """Until there is something in the file."""
    end = time.monotonic() + patience
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)
