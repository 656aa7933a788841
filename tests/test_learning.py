"""That the default model learns: minutes, hence slow."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from litedetr.data import DataConfig, ShapesConfig, build_datasets
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import Ranks, use_all_cores
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder

CONF = Path(__file__).parent.parent / "conf"


def eight_images(folder: Path, transforms) -> DataConfig:
    """Eight images of the embedded set, to train and to evaluate on."""
    shapes = ShapesConfig(cache=str(folder), num_train=8, num_val=1, min_side=128, max_side=128)
    drawn = build_datasets(DataConfig("shapes", transforms, shapes=shapes), seed=0).train
    root = drawn.annotations_path.parent.parent
    same = {"train_images": "train", "train_annotations": "annotations/instances_train.json"}
    return DataConfig(
        "coco",
        transforms,
        root=str(root),
        **same,
        **{name.replace("train", "val"): path for name, path in same.items()},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [["encoder=h3l1", "a=6", "b=1"], ["encoder=h2l2"], ["model=dino_4scale"]],
    ids=["H3L1-(6+1)x1", "H2L2-(2+1)x3", "DINO"],
)
def test_overfits_eight_images(tmp_path, model):
    import torch

    with initialize_config_dir(str(CONF), version_base=None):
        settings = OmegaConf.to_container(compose("train", model), resolve=True)
    config = RunConfig.from_settings(settings)
    use_all_cores()
    config = replace(
        config,
        data=eight_images(tmp_path, replace(config.data.transforms, flip=0.0)),
        schedule=replace(
            config.schedule, batch_size=8, max_epochs=None, max_steps=300, warmup_steps=20, ema_decay=None
        ),
        trainer=replace(config.trainer, device="cpu", evaluate_every=None, num_pictures=0),
    )
    scores = build_trainer(config, RunFolder(tmp_path / "run", None, "overfit"), Ranks(torch.device("cpu"))).run()
    assert scores.ap > 0.9
