"""A step of the default run, idle and beside a busy loop, with several ways for threads to wait.

python tests/reliability/neighbour.py                                             # torch's own way and ours
python tests/reliability/neighbour.py 10 default GOMP_SPINCOUNT=4000 OMP_WAIT_POLICY=passive

One process for each way. They take turns within seconds, so that what else happens on the machine meets all of them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TURN, WARM_UP = 3, 3  # steps
USUAL = ("default", "GOMP_SPINCOUNT=4000")


def main(rounds: int, settings: tuple[str, ...]) -> None:
    runs = {setting: start(setting) for setting in settings}
    for run in runs.values():
        seconds(run, WARM_UP)
    times = {(setting, busy): [] for setting in settings for busy in (False, True)}
    for number in range(rounds):
        order = settings[number % len(settings) :] + settings[: number % len(settings)]
        for busy in (False, True):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                for setting in order:
                    times[setting, busy].append(seconds(runs[setting], TURN))
            finally:
                if neighbour is not None:
                    neighbour.kill()
                    neighbour.wait()
    for run in runs.values():
        run.stdin.close()
        run.wait()
    print(f"{'':26}{'idle':>8}{'/ first':>9}{'busy':>9}{'/ idle':>9}   medians of {rounds}, steps in seconds")
    for setting in settings:
        idle, busy = times[setting, False], times[setting, True]
        columns = statistics.median(idle), ratio(idle, times[settings[0], False]), statistics.median(busy)
        print(f"{setting:26}{columns[0]:8.3f}{columns[1]:9.2f}{columns[2]:9.3f}{ratio(busy, idle):9.2f}")


def ratio(numbers: list[float], others: list[float]) -> float:
    """Median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(numbers, others, strict=True))


def start(setting: str) -> subprocess.Popen:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    name, is_set, value = setting.partition("=")
    environment = clean | ({name: value} if is_set else {})
    command = [sys.executable, __file__, "train"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def seconds(run: subprocess.Popen, steps: int) -> float:
    """Median of so many steps of a run that waits for its turn."""
    run.stdin.write(f"{steps}\n")
    run.stdin.flush()
    return statistics.median(json.loads(run.stdout.readline()))


def train() -> None:
    """Steps of the default run as many as standard input says, line by line; answers with the seconds of each."""
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    from hydra import compose, initialize_config_dir

    from litedetr.cli.compose import CONFIG_FOLDER, run_config  # which leaves the setting as it is
    from litedetr.engine.build_trainer import build_trainer
    from litedetr.engine.distributed import join_ranks, use_all_cores
    from litedetr.engine.run_folder import RunFolder

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  to the end of the process
    with initialize_config_dir(CONFIG_FOLDER, version_base=None):
        config = run_config(compose("train", ["encoder=h3l1", "a=6", "b=1", "trainer.device=cpu"]))
    use_all_cores()
    with join_ranks("cpu") as ranks, tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, RunFolder(Path(folder), None, ""), ranks)
        batches = trainer.batches.from_step(0)
        for step, count in enumerate_turns():
            spent = []
            for number in range(step, step + count):
                micro_batches = next(batches)
                begun = time.perf_counter()
                trainer.train_step(number, micro_batches)
                spent.append(time.perf_counter() - begun)
            print(json.dumps(spent), file=answers, flush=True)


def enumerate_turns():
    """(first step, number of steps) of each turn."""
    step = 0
    for line in sys.stdin:
        yield step, int(line)
        step += int(line)


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        train()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, tuple(sys.argv[2:]) or USUAL)
