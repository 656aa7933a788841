"""What a training step holds in memory and how long it takes, with each option that saves memory.

python scripts/memory.py
python scripts/memory.py rounds=0 'image_size=[800,1333]' batch_size=2 precision=bf16
"""

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping, compose, given_overrides
from litedetr.cli.script import script
from litedetr.engine.distributed import join_ranks, use_all_cores
from litedetr.engine.run_config import beside_model
from litedetr.tools.memory import MemoryConfig, StepConfig, compare_options


@script("memory")
def main(cfg: DictConfig) -> None:
    config, _ = beside_model(as_mapping(cfg), MemoryConfig, StepConfig)
    use_all_cores()
    with join_ranks(config.device) as ranks:
        table = compare_options(config, lambda added: compose("memory", [*given_overrides(), *added]), ranks.device)
    print(table)


if __name__ == "__main__":
    main()
