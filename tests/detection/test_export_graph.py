"""The whole detector as one graph, run eagerly: it finds what detectron2's own code finds.

The tiny model of this folder, on pictures of 64 x 96 pixels.
"""

import pytest
import torch
from detectron2.structures import Instances

from svit_det.export.build import Wanted, export_files, made_up_picture
from svit_det.export.detector import DetectorGraph

SIZE = (64, 96)
QUOTA = ("MODEL.TOKEN_POLICY.SVIT.MODE", "quota")
ATS = ("MODEL.TOKEN_POLICY.NAME", "ATS")
SIGMOID = ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True)


@pytest.mark.parametrize(
    "options",
    [(), QUOTA, ATS, SIGMOID],
    ids=["threshold", "quota", "ATS", "scores by sigmoid"],
)
@torch.no_grad()
def test_the_graph_finds_what_detectron2_finds(lively_model, options):
    """Two classes, per-class boxes, per-level suppression: to the last bit, or nearly."""
    model = lively_model(*options)
    graph = DetectorGraph(model)
    assert model.roi_heads.box_predictor.use_sigmoid_ce is (options == SIGMOID)
    for seed in (1, 2, 3):
        image = made_up_picture(SIZE, seed)
        theirs: Instances = model.inference([{"image": image[0]}], do_postprocess=False)[0]
        boxes, scores, classes, masks, keep = graph(image)
        assert len(theirs) == 5
        assert torch.equal(boxes, theirs.pred_boxes.tensor)
        assert torch.equal(scores, theirs.scores)
        assert torch.equal(classes, theirs.pred_classes)
        assert torch.equal(masks.sigmoid(), theirs.pred_masks[:, 0])
        usage = model([{"image": image[0], "height": 64, "width": 96}])[0]["token_usage"]
        assert torch.equal(keep[0], usage)


@torch.no_grad()
def test_a_file_is_compared_where_the_model_finds_something(lively_model, tmp_path):
    """The first pictures of the check have no detection above this threshold; a later one has."""
    model = lively_model(*QUOTA)
    graph, predictor = DetectorGraph(model), model.roi_heads.box_predictor
    best = {seed: graph(made_up_picture(SIZE, seed))[1].max().item() for seed in range(1, 13)}
    first, later = max(best[1], best[2]), max(best[seed] for seed in range(5, 13))
    assert first < later
    predictor.test_score_thresh = (first + later) / 2
    wanted = Wanted(part="detector", size=SIZE, sides=(64, 128), formats=("pt2",))
    parity = export_files(model, wanted, tmp_path).parity["pt2"]
    assert parity.not_compared == () and "largest difference" in str(parity)
