"""Detections from predictions."""

import torch

from litedetr.postprocess import pack, unpack
from litedetr.structures import Predictions


def test_best_pairs_first_in_original_pixels():
    logits = torch.full((2, 2, 3), -9.0)
    logits[0, 1, 2], logits[0, 0, 0], logits[1, 0, 1] = 2.0, 1.0, 3.0
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]).repeat(2, 1, 1)
    first, second = unpack(pack(Predictions(logits, boxes), max_detections=2), [(100, 200), (10, 20)])
    assert first.labels.tolist() == [2, 0]
    torch.testing.assert_close(first.scores, torch.tensor([2.0, 1.0]).sigmoid())
    torch.testing.assert_close(first.boxes, torch.tensor([[0.0, 0, 100, 100], [80, 30, 120, 70]]))
    assert second.labels[0] == 1
    torch.testing.assert_close(second.boxes[0], torch.tensor([8.0, 3.0, 12.0, 7.0]))


def test_one_query_may_be_two_classes():
    logits = torch.tensor([[[2.0, 1.0], [-5.0, -5.0]]])
    (detections,) = unpack(pack(Predictions(logits, torch.rand(1, 2, 4)), 2), [(10, 10)])
    assert detections.labels.tolist() == [0, 1]
    assert torch.equal(detections.boxes[0], detections.boxes[1])


def test_fewer_pairs_than_asked_for():
    (detections,) = unpack(pack(Predictions(torch.zeros(1, 2, 3), torch.rand(1, 2, 4)), 300), [(10, 10)])
    assert len(detections) == 6


def test_queries_on_padding_are_no_detections():
    logits = torch.zeros(2, 2, 3)
    logits[1, 1] = -1e4
    valid = torch.tensor([[True, True], [True, False]])
    predictions = Predictions(logits, torch.tensor([[0.2] * 4, [0.8] * 4]).repeat(2, 1, 1), valid=valid)
    first, second = unpack(pack(predictions, 300), [(10, 10), (10, 10)])
    assert (len(first), len(second)) == (6, 3)
    assert len(unpack(pack(predictions, 2), [(10, 10), (10, 10)])[1]) == 2
    torch.testing.assert_close(second.boxes, first.boxes.min(0).values.expand(3, 4))
