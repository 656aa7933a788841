"""torchrun as a user starts it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = [ROOT, ROOT / "tests" / "engine"]
PATIENCE = 240.0  # seconds; far more than any job takes, on a busy machine too


@dataclass(frozen=True)
class Outcome:
    """code: exit status. errors: stderr. seconds: until the end, from `disturb` on."""

    code: int
    errors: str
    seconds: float

    def count(self, text: str) -> int:
        return self.errors.count(text)


def torchrun(
    folder: Path, processes: int, script: Path, *arguments: str, disturb: Callable[[int], None] = lambda agent: None
) -> Outcome:
    """Run in `folder` until all processes have left. disturb: called with the process id of torchrun."""
    layout = [f"--nproc-per-node={processes}", "--rdzv-endpoint=localhost:0"]
    agent = start(folder, layout, script, *arguments)
    disturb(agent.pid)
    return outcome_of(agent)


def torchrun_on_machines(folders: list[Path], script: Path, *arguments: str) -> list[Outcome]:
    """One process in each folder, started by a torchrun of its own, as on machines that share nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv-endpoint=localhost:{probe.getsockname()[1]}"
    layout = [f"--nnodes={len(folders)}", "--nproc-per-node=1", "--local-addr=127.0.0.1", "--rdzv-id=test", endpoint]
    agents = [start(folder, layout, script, *arguments) for folder in folders]
    return [outcome_of(agent) for agent in agents]


def start(folder: Path, layout: list[str], script: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", *layout, str(script), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def outcome_of(agent: subprocess.Popen) -> Outcome:
    """Of a job that must end by itself. What does not is ended before it fails the test."""
    begin = time.monotonic()
    try:
        _, errors = agent.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        agent.terminate()  # its ranks along with it
        raise
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
