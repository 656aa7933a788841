"""Train and evaluate a detector; conf/train.yaml and its groups hold the settings.

python scripts/train.py encoder=h3l1 a=6 b=1
torchrun --nproc-per-node=8 scripts/train.py experiment=coco_r50_36ep data.root=<coco>
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from litedetr.cli.checkpoint_settings import advice_on_other_model
from litedetr.cli.compose import run_config, text_of
from litedetr.cli.script import script
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import join_ranks, use_all_cores, use_deterministic_algorithms
from litedetr.engine.resume import agree_on_run_folder
from litedetr.faults.files import replacing

RUNS = Path("runs")


@script("train")
def main(cfg: DictConfig) -> None:
    config = run_config(cfg)
    use_all_cores()
    config.trainer.gpu.apply()
    if config.trainer.deterministic:
        use_deterministic_algorithms()
    with join_ranks(config.trainer.device) as ranks:
        folder = agree_on_run_folder(RUNS, text_of(cfg, "run"), config, ranks)
        with advice_on_other_model():
            trainer = build_trainer(config, folder, ranks)
        if ranks.is_main:
            with replacing(folder.path / "config.yaml") as file:
                file.write(OmegaConf.to_yaml(cfg, resolve=True).encode())
        trainer.run()


if __name__ == "__main__":
    main()
