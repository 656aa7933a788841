"""Train and evaluate a detector; conf/train.yaml and its groups hold the settings.

python scripts/train.py encoder=h3l1 a=6 b=1
torchrun --nproc-per-node=8 scripts/train.py experiment=coco_r50_36ep data.root=<coco>
"""

from pathlib import Path

import hydra
from _common import CONFIG_FOLDER, run_config
from _errors import clear_errors, one_voice
from omegaconf import DictConfig, OmegaConf

from litedetr.engine import (
    Trainer,
    agree_on_run_folder,
    join_ranks,
    use_all_cores,
    use_deterministic_algorithms,
    writing,
)

RUNS = Path("runs")


@one_voice
@hydra.main(version_base=None, config_path=CONFIG_FOLDER, config_name="train")
@clear_errors
def main(cfg: DictConfig) -> None:
    config = run_config(cfg)
    use_all_cores()
    if config.trainer.deterministic:
        use_deterministic_algorithms()
    with join_ranks(config.trainer.device) as ranks:
        name = None if cfg.run is None else str(cfg.run)  # run=7 is a number to YAML
        folder = agree_on_run_folder(RUNS, name, config, ranks)
        trainer = Trainer(config, folder, ranks)
        if ranks.is_main:
            with writing(folder.path / "config.yaml"):
                OmegaConf.save(cfg, folder.path / "config.yaml", resolve=True)
        trainer.run()


if __name__ == "__main__":
    main()
