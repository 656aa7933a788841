"""Time whole detectors side by side, the attentions beside their peers, and one detector over the size of its images;
count the instructions of the kernels beside those of their peers.

python scripts/benchmark.py rows=[models]
python scripts/benchmark.py rows=[models] 'models.systems=["model=dino_4scale","model=lite_dino encoder=h2l2 a=2 b=3"]'
python scripts/benchmark.py rows=[kernels] kernels.scores=[deformable,key_aware] kernels.peers=[unfused]
python scripts/benchmark.py rows=[scale] 'scale.sides=[512,1024]' 'scale.objects=[]'
python scripts/benchmark.py rows=[instructions] instructions.target=sm_80
"""

from dataclasses import replace

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping, compose, overridden
from litedetr.cli.script import script
from litedetr.settings import from_mapping
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.machine import Machine
from litedetr.tools.benchmark.time_rows import TIMED


@script("benchmark")
def main(cfg: DictConfig) -> None:
    config = from_mapping(BenchmarkConfig, as_mapping(cfg))
    if config.models.checkpoints and not overridden("models.systems"):
        config = replace(config, models=replace(config.models, systems=()))  # only what the command line names
    machine = Machine.prepare(config)
    print(", ".join(f"{name} {value}" for name, value in machine.facts.items()))
    for name, time in TIMED.items():
        if name in config.rows:
            for line in time(config, machine, compose):
                print(line, flush=True)


if __name__ == "__main__":
    main()
