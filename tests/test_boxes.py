"""Box arithmetic on numbers that can be checked by hand."""

import pytest
import torch

from litedetr.boxes import box_iou, cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh


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


def test_iou_in_pairs_and_of_all_with_all():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 4.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [1.0, 0.0, 3.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(box_iou(a, b), torch.tensor([1 / 7, 1 / 2], dtype=torch.float64))
    table = torch.tensor([[1 / 7, 1 / 5], [0, 1 / 2]], dtype=torch.float64)
    torch.testing.assert_close(box_iou(a.unsqueeze(1), b), table)


def test_iou_of_small_boxes_and_of_points():
    """A box of a thousandth of the image's sides has the IoU of a large one."""
    box = torch.tensor([0.5, 0.5, 0.501, 0.501], dtype=torch.float64)
    assert box_iou(box, box).item() == 1
    assert box_iou(box[[0, 1, 0, 1]], box[[0, 1, 0, 1]]).item() == 0
    assert box_iou(box, box * torch.nan).isnan()


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
