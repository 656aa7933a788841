"""Prints what a seed decides about the data, as digests: run by a test as other processors would run it."""

import hashlib
import json
import sys
from pathlib import Path

from litedetr.data import CocoDetection, DataConfig, EpochSampler, ShapesConfig, TransformConfig, build_datasets

TRANSFORMS = TransformConfig(
    train_sides=(96, 128, 160),
    max_side=240,
    eval_side=128,
    flip=0.5,
    crop=True,
    crop_resize_sides=(120, 140),
    crop_range=(80, 130),
)


def digests(cache: Path) -> dict[str, str]:
    """Of the files as drawn, the order in which they are trained on, and the tensors that the detector gets."""
    shapes = ShapesConfig(cache=str(cache), num_train=40, num_val=10, max_side=192)
    data = build_datasets(DataConfig("shapes", TRANSFORMS, shapes=shapes), seed=7)
    sampler = EpochSampler(len(data.train), 8, seed=7)
    keys = []
    for epoch in range(3):
        sampler.set_position(epoch)
        keys += [key for batch in sampler for key in batch]
    return {
        "annotations": _digest(_files(data.train), _files(data.val)),
        "images": _digest(*(data.train.load_image(image_id).tobytes() for image_id in data.train.image_ids)),
        "order": _digest(json.dumps(keys).encode()),
        "training samples": _digest(*(_sample(data.train, key) for key in keys)),
        "validation samples": _digest(*(_sample(data.val, index) for index in range(len(data.val)))),
    }


def _files(data: CocoDetection) -> bytes:
    return data.annotations_path.read_bytes()


def _sample(data: CocoDetection, key: object) -> bytes:
    image, target = data[key].image, data[key].target
    return b"".join(x.contiguous().numpy().tobytes() for x in (image, target.boxes, target.labels))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps(digests(Path(sys.argv[1]))))
