"""The dense head: in training every token of the memory predicts an object, and several learn the same one."""

from __future__ import annotations

from torch import nn

from litedetr.boxes import inverse_sigmoid
from litedetr.models.detector_config import DetectorConfig
from litedetr.models.heads import DetectionHead
from litedetr.models.proposals import anchor_boxes
from litedetr.models.training_queries import silenced
from litedetr.structures import DenseOutput, FeaturePyramid, Predictions


class DenseHead(nn.Module):
    """An auxiliary head that gives the encoder many positives an object (in the manner of Co-DETR, Zong et al., 2023).

    Co-DETR has whole detectors here; this is the head of one, with parameters of its own, and inference does without.
    """

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        self.num_positives = config.dense.num_positives
        self.head = DetectionHead(config.neck.channels, num_classes)

    def forward(self, memory: FeaturePyramid) -> DenseOutput:
        """Class logits W t + b and a box sigmoid(MLP(t) + anchor) of each token t.

        memory: the encoder's output, tokens (B, S, C) of all levels.
        Returns the predictions of all S tokens, silent on padding, beside the centres of their cells.
        """
        anchors = anchor_boxes(memory)
        boxes = self.head.refine(memory.tokens, inverse_sigmoid(anchors))
        valid = None if memory.padding_mask is None else ~memory.padding_mask
        predictions = silenced(Predictions(self.head.classes(memory.tokens), boxes), valid)
        return DenseOutput(predictions, anchors[..., :2], self.num_positives)
