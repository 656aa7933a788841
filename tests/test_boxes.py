"""Box arithmetic on numbers that can be checked by hand."""

import pytest
import torch

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh


def test_conversion_and_back():
    boxes = torch.tensor([[2.0, 3.0, 2.0, 4.0]])
    assert cxcywh_to_xyxy(boxes).tolist() == [[1.0, 1.0, 3.0, 5.0]]
    assert xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)).tolist() == boxes.tolist()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0),
        ([1.0, 0.0, 3.0, 2.0], 2 / 6),  # hull = union
        ([1.0, 1.0, 3.0, 3.0], 1 / 7 - 2 / 9),
        ([4.0, 0.0, 6.0, 2.0], -4 / 12),
    ],
)
def test_generalized_iou(other, expected):
    box = torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    assert generalized_iou(box, torch.tensor(other, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-5)


def test_generalized_iou_of_points_is_finite():
    point = torch.zeros(4, requires_grad=True)
    value = generalized_iou(point, torch.zeros(4))
    value.backward()
    assert value.item() == 0.0
    assert point.grad.isfinite().all()


def test_inverse_sigmoid():
    x = torch.tensor([-0.5, 0.0, 0.25, 1.0], dtype=torch.float64)
    limit = torch.tensor(1e-3, dtype=torch.float64)
    expected = [limit.log().item(), limit.log().item(), torch.tensor(1 / 3).log().item(), -limit.log().item()]
    assert inverse_sigmoid(x).tolist() == pytest.approx(expected)
