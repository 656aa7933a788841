"""Convert a file of the published code to a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path

from litedetr.data import COCO_CLASSES, Categories, DataConfig, TransformConfig, read_categories
from litedetr.engine.changed_settings import flat_settings
from litedetr.engine.checkpoint import Checkpoint, Progress, save_checkpoint
from litedetr.engine.run_config import RunConfig
from litedetr.models import DetectorConfig
from litedetr.models.detector_config import BackboneConfig, EncoderConfig
from litedetr.paths import user_path
from litedetr.settings import ConfigError, Flag, Integer, Maybe, Text, require, settings, to_mapping
from litedetr.weights import load_published, read_published

# A published file does not say on which data it was trained: evaluation must name the data, and its error shows this.
NO_ROOT = "none: a converted checkpoint knows no data, give data=coco data.root=<folder>"
# The recipe of DETR, DINO and Lite DETR, as in conf/transforms/detr.yaml.
TRANSFORMS = TransformConfig()


@settings()
class ConvertConfig:
    """The arguments of scripts/convert.py."""

    published: Text  # file of the published code
    out: Text  # the checkpoint to write
    num_high_levels: Maybe[Integer] = None  # x of HxLy, which the file does not show; None for a full encoder (DINO)
    annotations: Maybe[Text] = None  # COCO JSON with the classes' names; None: COCO's 80, for files with 91 logits
    overwrite: Flag = False  # write even if there is a file already

    @property
    def target(self) -> Path:
        return user_path(self.out)

    def check_files(self) -> None:
        """ConfigError if reading or writing cannot work."""
        published = user_path(self.published)
        require(published.is_file(), "published", "an existing file", self.published)
        require(not self.target.is_dir(), "out", "a file name, not a folder", self.out)
        if self.target.exists():
            require(self.overwrite, "out", "a file that is not there yet, or overwrite=true", self.out)
            require(not self.target.samefile(published), "out", "another file than the published one", self.out)


def convert(config: ConvertConfig) -> str:
    """Write the checkpoint. Returns what it holds and how to go on with it, in words."""
    config.check_files()
    named = None if config.annotations is None else read_categories(user_path(config.annotations))
    names = None if named is None else dict(zip(named.ids, named.names, strict=True))
    model = load_published(read_published(config.published), config.num_high_levels)
    run = RunConfig(DataConfig("coco", TRANSFORMS, root=NO_ROOT), model.config)
    checkpoint = Checkpoint(
        config=to_mapping(run),
        categories=to_mapping(_categories(model.num_classes, names)),
        model=model.state_dict(),
        ema=None,
        optimizer={},
        scaler={},
        progress=Progress(),
        steps_per_epoch=0,
    )
    config.target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(config.target, checkpoint)
    return _summary(config.out, model.config, model.num_classes)


def _categories(num_classes: int, names: dict[int, str] | None) -> Categories:
    """The published class head is indexed by raw category id: logit i is the category with the id i."""
    if names is None and num_classes != max(COCO_CLASSES) + 1:
        raise ConfigError(
            f"annotations: expected the COCO JSON that the file was trained on, got None: its {num_classes} class "
            f"logits are not the {max(COCO_CLASSES) + 1} of COCO, so their names are not known"
        )
    return Categories.by_id(COCO_CLASSES if names is None else names, num_classes)


def _summary(out: str, config: DetectorConfig, num_classes: int) -> str:
    encoder, attention = config.encoder, config.attention
    high, levels = encoder.num_high_levels, config.neck.num_levels
    if encoder.update == "full":
        form = f"full encoder of {encoder.num_layers} layers, {levels} levels"
    else:
        form = f"H{high}L{levels - high}-({encoder.num_high_layers}+1)x{encoder.num_blocks}"
    return (
        f"{out}: {form}, {config.backbone.name}, attention {attention.encoder} (encoder) and {attention.decoder} "
        f"(decoder), {config.query_selection.num_queries} queries, {num_classes} class logits\n"
        f"evaluate:  python scripts/eval.py checkpoint={out} data=coco data.root=<coco>\n"
        f"fine-tune: python scripts/train.py trainer.init_from={out} data=coco data.root=<yours> "
        f"{' '.join(train_settings(config))}"
    )


def train_settings(config: DetectorConfig) -> list[str]:
    """What to tell scripts/train.py so that it builds a detector of this configuration."""
    encoder = config.encoder
    backbone = BackboneConfig(config.backbone.name)
    if encoder.update == "full":
        groups = ["encoder=full"]
        composed = DetectorConfig(backbone=backbone, encoder=EncoderConfig("full", None, None, None, 6))
    else:
        a, b = encoder.num_high_layers, encoder.num_blocks
        groups = ["encoder=h3l1", f"a={a}", f"b={b}"]
        composed = DetectorConfig(backbone=backbone, encoder=EncoderConfig("sequential", 3, a, b))
    mine, theirs = flat_settings(to_mapping(config)), flat_settings(to_mapping(composed))
    single = [f"{name}={'null' if value is None else value}" for name, value in mine.items() if value != theirs[name]]
    return ["size=paper", f"backbone={config.backbone.name}", "backbone.weights=null", *groups, *single]
