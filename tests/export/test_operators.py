"""What stands in for operators that ONNX lacks gives the same, ties included."""

import pytest
import torch

from svit_det.export.boxes import FAR, apart_by_class, clipped, survives_nms
from svit_det.export.operators import (
    argsort_by,
    rewritten,
    searchsorted_by_comparison,
    sort_by_comparison,
    where_of_bools,
)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_a_sort_by_comparison_is_the_stable_sort(descending, dtype):
    torch.manual_seed(0)
    values = torch.randint(0, 5, (3, 30)).to(dtype)  # many ties
    ours = sort_by_comparison(values, stable=True, dim=1, descending=descending)
    theirs = values.sort(dim=1, stable=True, descending=descending)
    assert torch.equal(ours[0], theirs.values)
    assert torch.equal(ours[1], theirs.indices)
    order = argsort_by(sort_by_comparison)(values, dim=1, descending=descending)
    assert torch.equal(order, theirs.indices)


def test_an_insertion_by_comparison_is_the_search():
    torch.manual_seed(0)
    ascending = torch.randint(0, 9, (2, 20)).double().sort(dim=1).values
    values = torch.randint(-1, 10, (2, 7)).double()
    theirs = torch.searchsorted(ascending, values)
    assert torch.equal(searchsorted_by_comparison(ascending, values), theirs)


def test_a_choice_between_bools_is_logic():
    one, other = torch.rand(2, 50) > 0.5
    condition = torch.arange(50) % 3 == 0
    assert torch.equal(where_of_bools(condition, one, other), torch.where(condition, one, other))
    assert where_of_bools(condition, one.float(), other.float()) is NotImplemented


@pytest.mark.parametrize("topk", [True, False])
def test_a_program_without_topk_has_none(topk):
    class Top(torch.nn.Module):
        def forward(self, score):
            return score.argsort(dim=1, descending=True, stable=True)[:, :3]

    program = rewritten(torch.export.export(Top(), (torch.rand(1, 9),), strict=False), topk=topk)
    targets = {str(node.target) for node in program.graph.nodes}
    assert ("aten.topk.default" in targets) is topk
    assert not any("sort" in target for target in targets)


# ------------------------------------------------------------------ boxes


def test_a_box_that_does_not_count_suppresses_nobody():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [20, 20, 30, 29]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    everyone = torch.ones(4, dtype=torch.bool)
    assert survives_nms(boxes, scores, everyone, 0.5).tolist() == [True, False, True, False]
    without_first = torch.tensor([False, True, True, True])
    assert survives_nms(boxes, scores, without_first, 0.5).tolist() == [False, True, True, False]
    assert not survives_nms(boxes, scores, ~everyone, 0.5).any()
    assert survives_nms(boxes[:1], scores[:1], everyone[:1], 0.5).tolist() == [True]
    assert FAR[2] < 0 and FAR[3] < 0  # off every picture


def test_boxes_of_two_classes_never_overlap():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    apart = apart_by_class(boxes, torch.tensor([0, 1]))
    assert apart[1, 0] > apart[0, 2]


def test_boxes_are_cut_to_the_picture():
    assert clipped(torch.tensor([[-3.0, 2, 50, 60]]), 40, 30).tolist() == [[0, 2, 30, 40]]
