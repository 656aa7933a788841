"""What predictions leave on disk: pictures with boxes, and one JSON in COCO's form."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litedetr.data import Categories, ImageFiles
from litedetr.drawing.draw_boxes import draw_boxes, labelled_boxes
from litedetr.faults.files import replacing, writing
from litedetr.inference.output_folder import FILE, Results
from litedetr.settings import require

if TYPE_CHECKING:
    from litedetr.inference.predict_files import Prediction

LOSSLESS_OR_JPEG = (".png", ".jpg", ".jpeg")  # suffixes that a picture keeps
JPEG_LIMIT = 65500  # pixels of a side


class PredictionWriter:
    """Writes pictures as they come, and at the end predictions.json: a data set in COCO's form whose annotations have
    a score, fit to be looked at, corrected or trained on.

    source: of `output_folder.absolute_source`; empty: unknown. In a folder with results of the same source the new ones
    replace them; pictures that were drawn before and not again are removed then.
    """

    def __init__(
        self, folder: Path, files: ImageFiles, categories: Categories, pictures: bool, source: str = ""
    ) -> None:
        same = folder.resolve() == files.folder.resolve()
        require(not same, "output", "another folder than the images', which would be overwritten", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.files, self.categories, self.pictures = folder, files, categories, pictures
        self.source = source
        self.counts: Counter[str] = Counter()
        self._ids = {path: number for number, path in enumerate(files.paths, start=1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._drawn: set[str] = set()
        earlier = Results.of(folder)
        self._earlier = set(earlier.pictures) if earlier is not None and earlier.source == source else set()
        if source and not self.json.exists():  # from now on the folder is this source's
            self._write_json()

    @property
    def json(self) -> Path:
        return self.folder / FILE

    def add(self, prediction: Prediction) -> None:
        name, size = self.files.name(prediction.path), prediction.image.size
        image_id = self._ids[prediction.path]
        self._images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for (x, y, width, height), label, score in prediction.detections.rows():
            self.counts[self.categories.names[label]] += 1
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, "score": score}
            self._annotations.append({"image_id": image_id, "category_id": self.categories.ids[label]} | box)
        if self.pictures:
            self._draw(prediction, name)

    def close(self, complete: bool = True) -> None:
        """complete: False after an interruption; then earlier pictures stay, and before the first image all files."""
        if not complete and not self._images:
            return
        if not complete:
            self._drawn |= self._earlier
        self._write_json()
        for name in self._earlier - self._drawn:
            path = (self.folder / name).resolve()
            if self.folder.resolve() in path.parents:
                path.unlink(missing_ok=True)

    def _draw(self, prediction: Prediction, name: str) -> None:
        picture = draw_boxes(prediction.image, labelled_boxes(prediction.detections, self.categories))
        target = _picture_name(name, picture.size)
        while target in self._drawn:  # scan.tif beside scan.tif.png
            target = f"{target}.png"
        self._drawn.add(target)
        path = self.folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path):
            picture.save(path, quality=92)

    def _write_json(self) -> None:
        order = sorted(self._annotations, key=lambda entry: entry["image_id"])
        content = {
            "info": Results(self.source, tuple(sorted(self._drawn))).as_info(),
            "images": sorted(self._images, key=lambda entry: entry["id"]),
            "annotations": [{"id": number} | entry for number, entry in enumerate(order, start=1)],
            "categories": self.categories.to_coco(),
        }
        with replacing(self.json) as file:
            file.write(json.dumps(content).encode())


def _picture_name(name: str, size: tuple[int, int]) -> str:
    """As the image's, but a PNG if its format would lose colours or takes no such size: `scan.tif.png`."""
    kept = name.lower().endswith(LOSSLESS_OR_JPEG) and max(size) <= JPEG_LIMIT
    return name if kept else f"{name}.png"
