"""Detect objects in images: pictures with boxes, and predictions.json in COCO's form.

python scripts/predict.py checkpoint=runs/foo source=photo.jpg
python scripts/predict.py checkpoint=runs/foo source='photos/**/*.jpg' threshold=0.5 output=found
"""

import sys
from contextlib import closing

from omegaconf import DictConfig
from tqdm import tqdm

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.engine.distributed import use_all_cores
from litedetr.inference.predict_files import PredictConfig, Unreadable, open_prediction, predict_files
from litedetr.settings import from_mapping

FAILED = 2


@script("predict")
def main(cfg: DictConfig) -> None:
    use_all_cores()
    config = from_mapping(PredictConfig, as_mapping(cfg))
    config.gpu.apply()
    predictor, files, writer = open_prediction(config)
    unreadable, complete = [], False
    try:
        with closing(predict_files(predictor, files, config)) as items:
            for item in tqdm(items, total=len(files.paths), unit="image", disable=None):
                if isinstance(item, Unreadable):
                    unreadable.append(item)
                else:
                    writer.add(item)
        complete = True
    finally:  # what was found before an interruption is kept
        writer.close(complete)
    found = ", ".join(f"{name} {number}" for name, number in writer.counts.most_common()) or "none"
    print(f"{len(files.paths) - len(unreadable)} images, objects of score >= {config.threshold:g}: {found}")
    print(f"pictures: {writer.folder}\n{writer.json}" if config.pictures else writer.json)
    if unreadable:
        lines = "\n".join(f"  {item.reason}" for item in unreadable)
        print(f"error: {len(unreadable)} of {len(files.paths)} files were left out:\n{lines}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
