"""Files of open size: what they compute at other sizes, and what is refused.

The tiny model of this folder. A missing runtime is a failure.
"""

import pytest
import torch

from svit_det.errors import InputError
from svit_det.export.backbone import BackboneGraph
from svit_det.export.bounds import too_far
from svit_det.export.build import Wanted, export_files, made_up_picture
from svit_det.export.checks import compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import FORMATS
from svit_det.export.running import load

WIDE = ((64, 96), (48, 176))
QUOTA = ("MODEL.TOKEN_POLICY.SVIT.MODE", "quota")
ATS, RANDOM, EVO, EVIT = (
    ("MODEL.TOKEN_POLICY.NAME", name) for name in ("ATS", "Random", "EvoViT", "EViT")
)
ADAPTER = (
    *("MODEL.BACKBONE.NAME", "build_vit_adapter_fpn_backbone"),
    *("MODEL.ADAPTER.INTERACTIONS", "[[0, 0], [1, 2]]"),
    *("MODEL.ADAPTER.DEFORM_NUM_HEADS", 2),
    *("MODEL.ADAPTER.STEM_WIDTH", 4),
    *("MODEL.ADAPTER.FINEST_MAP", False),
    *("MODEL.ADAPTER.TOP_BLOCK", False),
    *("MODEL.FPN.OUT_CHANNELS", 16),
)


def wanted(part, **others):
    return Wanted(part=part, size=WIDE[0], sides=(64, 128), dynamic_size=True, **others)


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ADAPTER], ids=["pyramid", "adapter"])
@torch.no_grad()
def test_open_sizes(lively_model, tmp_path, options):
    model = lively_model(*options)
    export_files(model, wanted("backbone"), tmp_path)
    graph = BackboneGraph(model)
    # torch's own graph asks for the orientation that it was traced with, and says so loudly.
    any_size = (*WIDE, (128, 64))
    for end, sizes in ((".pt2", WIDE), (".onnx", any_size), (".xml", any_size)):
        for size in sizes:
            parity = compare(
                graph, load(tmp_path / f"backbone{end}")[0], [made_up_picture(size, 5)]
            )
            assert parity.same_kept and parity.difference <= 1e-4, (size, end, parity)


@pytest.mark.long
@torch.no_grad()
def test_a_whole_detector_of_open_size(lively_model, tmp_path):
    model = lively_model()
    export_files(model, wanted("detector", formats=("onnx",)), tmp_path)
    graph, (run, metadata) = DetectorGraph(model), load(tmp_path / "detector.onnx")
    assert metadata["input"]["size"] is None and metadata["input"]["sides"] == [32, 4096]
    for size in (*WIDE, (128, 64)):
        parity = compare(graph, run, [made_up_picture(size, 5)])
        assert parity.same_kept and too_far(parity, "float32") is None, (size, parity)
        keep = run(made_up_picture(size, 5))[-1]
        assert keep.shape == (1, 3, size[0] // 8, size[1] // 8)


@pytest.mark.parametrize("size", [(16, 64), (64, 4064), (4096, 64)])
def test_a_size_beyond_the_open_sides_is_refused(tiny_model, tmp_path, size):
    """Not blamed on the policy, for which torch would find a reason of its own."""
    asked = Wanted(part="backbone", size=size, dynamic_size=True)
    with pytest.raises(InputError, match=r"^--size \d+ \d+: with .*, sides have 32 to 4,096 pix"):
        export_files(tiny_model(), asked, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_constant_that_is_none_is_refused(lively_model, tmp_path, name):
    """torch takes ATS's number of sampling points for a constant of the traced size."""
    one = wanted("backbone", formats=(name,))
    with pytest.raises(InputError) as raised:
        export_files(lively_model(*ATS), one, tmp_path)
    assert str(raised.value) == (
        "ATS does not export as one graph with --dynamic-size: torch takes a number that depends "
        "on the size for a constant."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("options", [RANDOM, QUOTA], ids=["Random", "quota"])
def test_a_rounded_count_of_open_size_is_saved_as_onnx_alone(lively_model, tmp_path, options):
    model = lively_model(*options)
    saved, not_saved = (wanted("backbone", formats=(name,)) for name in ("onnx", "pt2"))
    with pytest.raises(InputError, match=r"^torch\.export cannot save this model"):
        export_files(model, not_saved, tmp_path)
    export_files(model, saved, tmp_path)
    run, _ = load(tmp_path / "backbone.onnx")
    parity = compare(BackboneGraph(model), run, [made_up_picture(size, 5) for size in WIDE])
    assert parity.same_kept and parity.difference <= 1e-4, parity


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "shares", "size"),
    [(EVO, [0.7, 0.5], (80, 144)), (EVIT, [0.6, 0.36], (80, 80))],
    ids=["EvoViT", "EViT"],
)
def test_a_count_on_the_edge_is_the_models(lively_model, tmp_path, options, shares, size):
    """In single precision a grid of 180, or of 100, tokens would keep another number of them."""
    model = lively_model(*options, "MODEL.TOKEN_POLICY.KEEP_RATIOS", shares)
    export_files(model, wanted("backbone", formats=("onnx",)), tmp_path)
    run, _ = load(tmp_path / "backbone.onnx")
    parity = compare(BackboneGraph(model), run, [made_up_picture(size, 5)])
    assert parity.same_kept and parity.difference <= 1e-4, parity


@pytest.mark.long
def test_openvino_is_refused_where_it_rounds_a_count(lively_model, tmp_path):
    with pytest.raises(InputError, match=r"^OpenVINO computes a count of tokens"):
        export_files(lively_model(*QUOTA), wanted("backbone", formats=("openvino",)), tmp_path)
    assert list(tmp_path.iterdir()) == []
