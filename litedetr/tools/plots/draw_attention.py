"""Draw where attention samples for a point or an object, and its weight by level (the paper's Figure 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy
from litedetr.data import Categories, evaluation_pixels, read_image
from litedetr.engine.checkpoint import LoadedDetector, checkpoint_file, load_detector
from litedetr.engine.distributed import choose_device
from litedetr.models.record_attentions import RecordedCall, record_attentions
from litedetr.paths import user_path
from litedetr.settings import require
from litedetr.structures import ImageBatch, Predictions
from litedetr.tools.plots.attention_figure import AttentionPicture, draw_picture
from litedetr.tools.plots.attention_samples import AttentionSamples, decoder_samples, encoder_samples
from litedetr.tools.plots.plot_config import AttentionPlot
from litedetr.tools.plots.style import fonts_for, save

KINDS = {
    "deformable": "deformable attention",
    "key_aware": "key-aware attention",
    "key_aware_shared": "key-aware attention, keys shared with values",
}


@dataclass(frozen=True)
class FoundObject:
    """A detection."""

    rank: int  # 1 for the best
    name: str
    score: float
    query: int  # index of the decoder's query
    box: tuple[float, float, float, float]  # (x1, y1, x2, y2) relative to the image

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    def __str__(self) -> str:
        return f"object {self.rank} ({self.name}, score {self.score:.2f})"


@dataclass(frozen=True)
class Spot:
    """The point of the image whose attention is drawn."""

    xy: tuple[float, float]  # relative to the image
    text: str  # what it is
    file_name: str
    found: FoundObject | None = None  # the object whose centre it is


def draw_attention(config: AttentionPlot) -> list[Path]:
    """Write the picture, and its weights by level as JSON; returns their paths."""
    path = checkpoint_file(config.checkpoint)
    loaded = load_detector(path)
    image = read_image(user_path(config.image))
    predictions, calls = _look(loaded, image, config)
    spot = _spot(config, image, predictions, loaded.categories)
    sampled = encoder_samples(calls, spot.xy) if config.of == "encoder" else decoder_samples(calls, spot.found.query)
    picture = _picture(config, image, spot, sampled, calls)
    stem = user_path(config.output or path.parent / "plots") / f"attention_{Path(config.image).stem}_{spot.file_name}"
    with fonts_for([picture.title]):
        picture_path = save(draw_picture(picture), stem.with_name(f"{stem.name}_{config.of}.png"))
    weights_path = picture_path.with_suffix(".json")
    weights_path.write_text(json.dumps(_weights(picture), indent=2), encoding="utf-8")
    return [picture_path, weights_path]


@torch.no_grad()
def _look(loaded: LoadedDetector, image: Image.Image, config: AttentionPlot) -> tuple[Predictions, list[RecordedCall]]:
    pixels = evaluation_pixels(image, loaded.config.data.transforms)
    device = choose_device(config.device)
    with record_attentions(loaded.model.to_device(device)) as calls:
        output = loaded.model(ImageBatch.from_images([pixels]).to(device))
    return output.predictions, calls


def _spot(config: AttentionPlot, image: Image.Image, predictions: Predictions, categories: Categories) -> Spot:
    if config.point is not None:
        x, y = config.point
        inside = 0 <= x < image.width and 0 <= y < image.height
        require(inside, "point", f"[x, y] within the image of {image.width}x{image.height} pixels", config.point)
        return Spot((x / image.width, y / image.height), f"the point ({x:g}, {y:g})", f"point_{x:g}_{y:g}")
    found = find_object(predictions, categories, config.object or 1, config.min_score)
    return Spot(found.centre, f"the centre of {found}", f"object_{found.rank}", found)


def find_object(predictions: Predictions, categories: Categories, rank: int, min_score: float) -> FoundObject:
    """The detection of this rank among those of score >= `min_score`; ConfigError if there are fewer."""
    scores: Tensor = predictions.class_logits[0].sigmoid()
    ordered, index = scores.flatten().sort(descending=True, stable=True)
    _require_found(ordered, rank, min_score)
    query, label = divmod(int(index[rank - 1]), scores.shape[1])
    box = tuple(cxcywh_to_xyxy(predictions.boxes[0, query]).tolist())
    return FoundObject(rank, categories.names[label], float(ordered[rank - 1]), query, box)


def _require_found(ordered: Tensor, rank: int, min_score: float) -> None:
    """ConfigError unless `rank` of the scores, best first, reach `min_score`; it says which one they would reach."""
    number = int((ordered >= min_score).sum())
    if rank <= number:
        return
    shown = min(rank, len(ordered))
    lower = f"min_score={0.9 * ordered[shown - 1]:.2g}"
    if number == 0:
        expected = f"at most the best detection's score, {ordered[0]:.3f}: {lower} shows object {shown}"
        require(False, "min_score", expected, min_score)
    reached = f"at most {number}, the detections of score >= min_score={min_score:g} (the best has {ordered[0]:.3f})"
    require(False, "object", f"{reached}, or {lower}" if rank <= len(ordered) else reached, rank)


def _picture(
    config: AttentionPlot, image: Image.Image, spot: Spot, sampled: AttentionSamples, calls: list[RecordedCall]
) -> AttentionPicture:
    attention = next(call.attention for call in calls if call.name.startswith(f"{config.of}."))
    heads, levels, points = attention.grid
    if config.of == "encoder":
        queries = f"Queries: the tokens whose cell holds {spot.text}, one of each level that a layer updates"
        count = f"{sampled.num_queries} queries in"
    else:
        queries = f"Query: number {spot.found.query} of the decoder, which found {spot.found}"
        count = "one query in each of"
    title = (
        f"{config.of.capitalize()}, {KINDS[attention.kind]}: {Path(config.image).name}, {config.checkpoint}\n"
        f"{queries}\n"
        f"{count} {len(sampled.layers)} layers x {heads} heads x {levels} levels x {points} points: "
        f"{len(sampled.samples)} samples to choose from"
    )
    return AttentionPicture(image, title, sampled, spot.xy, None if spot.found is None else spot.found.box)


def _weights(picture: AttentionPicture) -> dict[str, object]:
    sampled = picture.sampled

    def by_level(shares) -> dict[str, float]:
        return dict(zip(sampled.level_names, shares.tolist(), strict=True))

    layers = [
        {"layer": layer.name.replace("\n", " "), "queries": layer.num_queries, "weights": by_level(layer.level_shares)}
        for layer in sampled.layers
    ]
    return {"what": picture.title, "weights": by_level(sampled.level_shares), "layers": layers}
