"""Exported detectors: every format computes what the model computes, on other pictures.

The tiny model of this folder, on pictures of 64 x 96 pixels. A missing runtime is a failure.
"""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from svit_det.errors import InputError
from svit_det.export import build
from svit_det.export.backbone import BackboneGraph
from svit_det.export.build import Wanted, export_files, made_up_picture
from svit_det.export.checks import compare
from svit_det.export.detector import DetectorGraph
from svit_det.export.formats import FORMATS
from svit_det.export.running import load, multiplies_bfloat16
from svit_det.policies import POLICY_REGISTRY
from svit_det.vit import find_token_net

SIZE = (64, 96)
QUOTA = ("MODEL.TOKEN_POLICY.SVIT.MODE", "quota")
ADAPTER = (
    *("MODEL.BACKBONE.NAME", "build_vit_adapter_fpn_backbone"),
    *("MODEL.ADAPTER.INTERACTIONS", "[[0, 0], [1, 2]]"),
    *("MODEL.ADAPTER.DEFORM_NUM_HEADS", 2),
    *("MODEL.ADAPTER.STEM_WIDTH", 4),
    *("MODEL.ADAPTER.FINEST_MAP", False),
    *("MODEL.ADAPTER.TOP_BLOCK", False),
    *("MODEL.FPN.OUT_CHANNELS", 16),
)
NETWORKS = {"pyramid": (), "adapter": ADAPTER}


OWN = {
    "IARED2": ("MODEL.TOKEN_POLICY.IA_RED2.AGENT_HEADS", "4"),
    "AViT": (
        *("MODEL.TOKEN_POLICY.A_VIT.GAMMA", "20.0"),
        *("MODEL.TOKEN_POLICY.A_VIT.BETA", "4.0"),
        *("MODEL.TOKEN_POLICY.A_VIT.PRIOR_CENTRE", "2"),
    ),
}
"""What the tiny model must set otherwise under a policy."""


def named(policy):
    return ("MODEL.TOKEN_POLICY.NAME", policy, *OWN.get(policy, ()))


def wanted(part, **others):
    return Wanted(part=part, size=SIZE, sides=(64, 128), **others)


def picture(seed):
    return made_up_picture(SIZE, seed)


# ------------------------------------------------------------------ the module


CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
RETINANET = (
    *("MODEL.META_ARCHITECTURE", "TokenRetinaNet", "MODEL.MASK_ON", False),
    *("MODEL.RETINANET.IN_FEATURES", "['p2', 'p3', 'p4']", "MODEL.RETINANET.NUM_CLASSES", 2),
)


@pytest.mark.parametrize(
    ("name", "options"),
    [("CascadeROIHeads", CASCADE), ("TokenRetinaNet", RETINANET)],
    ids=["Cascade", "RetinaNet"],
)
def test_other_heads_are_refused_and_their_backbones_are_not(lively_model, tmp_path, name, options):
    model = lively_model(*options)
    with pytest.raises(InputError, match=rf"^{name}: .*--part backbone"):
        export_files(model, wanted("detector", formats=("pt2",)), tmp_path)
    assert list(tmp_path.iterdir()) == []
    export_files(model, wanted("backbone", formats=("pt2",)), tmp_path)
    assert_same(model, "backbone", tmp_path, ("pt2",))


# ------------------------------------------------------------------ the files


def assert_same(model, part, folder, formats=tuple(FORMATS)):
    """Every file against the model, on pictures that the exporter has not seen."""
    graph = {"backbone": BackboneGraph, "detector": DetectorGraph}[part](model)
    for name in formats:
        run, metadata = load(folder / f"{part}{FORMATS[name][-1]}")
        assert metadata["outputs"] == graph.outputs
        parity = compare(graph, run, [picture(seed) for seed in (11, 12)])
        assert parity.same_kept and parity.difference <= 1e-4, (name, parity)
        assert metadata["input"]["size"] == list(SIZE)
        with pytest.raises(Exception, match=r"."):
            run(made_up_picture((64, 112), 1))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(QUOTA, id="static"),
        pytest.param((), id="threshold"),
        pytest.param(named("ATS"), id="class token", marks=pytest.mark.long),
    ],
)
def test_whole_detectors(lively_model, tmp_path, options):
    model = lively_model(*options)
    exported = export_files(model, wanted("detector"), tmp_path)
    assert_same(model, "detector", tmp_path)
    assert exported.metadata["kept_tokens"] == ("fixed" if options == QUOTA else "by image")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(wanted("detector").files())


def test_a_budget_that_holds_on_every_image(lively_model, tmp_path):
    model = lively_model("MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", 0.5)
    exported = export_files(model, wanted("backbone"), tmp_path)
    assert exported.metadata["kept_tokens"] == "by image"
    assert all(parity.same_kept for parity in exported.parity.values())
    assert set(exported.parity) == set(FORMATS)


@pytest.mark.long
@pytest.mark.parametrize("wrapper", ["Monotone", "Forgetful"])
def test_policies_in_a_wrapper(lively_model, tmp_path, wrapper):
    model = lively_model("MODEL.TOKEN_POLICY.WRAPPERS", f"['{wrapper}']")
    assert type(find_token_net(model).trunk.policy).__name__ == wrapper
    exported = export_files(model, wanted("backbone"), tmp_path)
    assert_same(model, "backbone", tmp_path)
    counts = exported.parity["onnx"].counts
    assert counts[0] == 96 and 0 < counts[2] <= counts[1] < 96


@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("policy", [*POLICY_REGISTRY.names(), "SViT quota"])
def test_every_policy_under_every_network(lively_model, tmp_path, network, policy):
    options = QUOTA if policy == "SViT quota" else named(policy)
    model = lively_model(*NETWORKS[network], *options)
    export_files(model, wanted("backbone"), tmp_path)
    assert_same(model, "backbone", tmp_path)


@pytest.mark.long
@torch.no_grad()
def test_blocks_that_keep_nobody_or_one(lively_model, tmp_path):
    """The counts that an exported graph stumbles over first."""
    model = lively_model()
    net = find_token_net(model)
    highest = {}
    for seed in range(11, 16):
        _, record = net((picture(seed) - model.pixel_mean) / model.pixel_std)
        highest[seed] = record.blocks[1].selection.score.flatten().sort().values[-2:].tolist()
    order = sorted(highest, key=lambda seed: highest[seed][1])
    lowest, best = order[0], order[-1]
    net.trunk.policy.budget.thresholds[0] = sum(highest[best]) / 2
    export_files(model, wanted("backbone"), tmp_path)
    graph = BackboneGraph(model)
    for seed, count in ((lowest, 0), (best, 1), (lowest, 0)):
        assert graph(picture(seed))[-1][0, 1].sum() == count
        for end in (".pt2", ".onnx", ".xml"):
            run, _ = load(tmp_path / f"backbone{end}")
            parity = compare(graph, run, [picture(seed)])
            assert parity.same_kept and parity.difference <= 1e-4, (end, seed, parity)


@pytest.mark.long
def test_nothing_found_is_nothing_found(lively_model, tmp_path):
    model = lively_model(*QUOTA, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.99)
    exported = export_files(model, wanted("detector"), tmp_path)
    for parity in exported.parity.values():
        assert parity.not_compared == ("boxes", "scores", "classes", "mask_logits")
    for end in (".pt2", ".onnx", ".xml"):
        boxes, scores, classes, masks, keep = load(tmp_path / f"detector{end}")[0](picture(1))
        assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)
        assert masks.shape == (0, 28, 28) and keep.shape == (1, 3, 8, 12)


@pytest.mark.long
def test_without_topk_there_is_none(lively_model, tmp_path):
    def operators(path):
        return {node.op_type for node in onnx.load(path).graph.node}

    model = lively_model(*QUOTA)
    export_files(model, wanted("backbone", formats=("onnx",)), tmp_path)
    assert "TopK" in operators(tmp_path / "backbone.onnx")
    without = tmp_path / "without"
    without.mkdir()
    export_files(model, wanted("backbone", formats=("onnx",), topk=False), without)
    assert "TopK" not in operators(without / "backbone.onnx")
    assert_same(model, "backbone", without, ("onnx",))
    with pytest.raises(InputError, match=r"--no-topk.*--part backbone"):
        export_files(model, wanted("detector", topk=False), tmp_path)


@pytest.mark.long
def test_opset_23_has_an_operator_for_attention(lively_model, tmp_path):
    model = lively_model()
    export_files(model, wanted("backbone", formats=("onnx",), opset=23), tmp_path)
    made = onnx.load(tmp_path / "backbone.onnx")
    assert [each.version for each in made.opset_import if not each.domain] == [23]
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Attention") == 3 and "Softmax" not in kinds  # one for each block
    assert_same(model, "backbone", tmp_path, ("onnx",))
    assert load(tmp_path / "backbone.onnx")[1]["opset"] == 23


# ------------------------------------------------------------------ precisions, several pictures


@torch.no_grad()
@pytest.mark.long
def test_an_int8_file_keeps_its_decisions_in_float32(lively_model, tmp_path):
    model = lively_model(*QUOTA)
    pictures = tuple(picture(seed) for seed in range(21, 25))
    only = ("onnx",)
    exported = export_files(model, wanted("detector", formats=only, int8=pictures), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["detector.onnx"]
    run, metadata = load(tmp_path / "detector.onnx")
    assert metadata["precision"] == "int8" and metadata["policy"] == "SViT"
    assert exported.parity["onnx"].finite and exported.parity["onnx"].alike > 0.8
    graph = onnx.load(tmp_path / "detector.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    names = {each.name for each in graph.initializer}
    quantised = {
        maker.input[0].removesuffix("_quantized")
        for node in graph.node
        if node.op_type in ("Gemm", "MatMul", "Conv")
        and len(node.input) > 1
        and (maker := makers.get(node.input[1])) is not None
        and maker.op_type == "DequantizeLinear"
    }
    for part in ("blocks.1.attn.qkv", "blocks.2.mlp.fc2", "rpn_head.conv", "box_head.fc1"):
        assert any(part in name for name in quantised), part
    for part in ("policy", "objectness", "anchor_deltas", "bbox_pred", "cls_score"):
        assert not any(part in name for name in quantised), part
    gates = [each for each in find_token_net(model).trunk.policy.parameters() if each.dim() == 2]
    stored = {numpy_helper.to_array(e).tobytes() for e in graph.initializer}
    assert names and all(
        {gate.numpy().tobytes(), gate.numpy().T.tobytes()} & stored for gate in gates
    )
    assert run(picture(1))[-1].shape == (1, 3, 8, 12)


@pytest.mark.long
@torch.no_grad()
def test_a_bfloat16_file_is_computed_in_it(lively_model, tmp_path):
    model = lively_model(*QUOTA)
    export_files(model, wanted("backbone", formats=("openvino",), bf16=True), tmp_path)
    run, metadata = load(tmp_path / "backbone.xml")
    assert metadata["precision"] == "bfloat16"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.bin", "backbone.xml"]
    parity = compare(BackboneGraph(model), run, [picture(1)])
    assert parity.finite and parity.alike > 0.8
    if multiplies_bfloat16():
        assert parity.difference > 1e-4


@pytest.mark.long
def test_a_file_for_two_pictures(lively_model, tmp_path):
    model = lively_model(*QUOTA)
    export_files(model, wanted("backbone", batch=2), tmp_path)
    graph, pictures = BackboneGraph(model), torch.cat([picture(11), picture(12)])
    for end in (".pt2", ".onnx", ".xml"):
        run, metadata = load(tmp_path / f"backbone{end}")
        assert metadata["input"]["batch"] == 2
        parity = compare(graph, run, [pictures])
        assert parity.same_kept and parity.difference <= 1e-4, (end, parity)
        with pytest.raises(Exception, match=r"."):
            run(picture(11))


def test_a_count_that_depends_on_the_image_is_of_one(lively_model, tmp_path):
    with pytest.raises(InputError, match=r"--batch 2: how many tokens SViT keeps"):
        export_files(lively_model(), wanted("backbone", batch=2), tmp_path)
    with pytest.raises(InputError, match=r"--batch 2: a detector's file takes one picture"):
        export_files(lively_model(*QUOTA), wanted("detector", batch=2), tmp_path)
    with pytest.raises(InputError, match=r"--batch 0: give 1 or more"):
        export_files(lively_model(*QUOTA), wanted("backbone", batch=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_refused(lively_model, tmp_path, monkeypatch):
    """The check is able to fail: the program is made of a model with other weights."""
    model, other = lively_model(*QUOTA), lively_model(*QUOTA)
    with torch.no_grad():
        find_token_net(other).trunk.pos_embed.mul_(2)
    made = build.export_program

    def of_the_other(graph, trunk, example, **options):
        return made(BackboneGraph(other), find_token_net(other).trunk, example, **options)

    monkeypatch.setattr(build, "export_program", of_the_other)
    with pytest.raises(InputError, match=r"backbone\.pt2 does not compute"):
        export_files(model, wanted("backbone", formats=("pt2",)), tmp_path)


def test_sizes_that_do_not_divide(tiny_model, tmp_path):
    with pytest.raises(InputError, match="--size 64 100: both sides must be multiples of 16"):
        export_files(tiny_model(), Wanted(part="backbone", size=(64, 100)), tmp_path)


def test_made_up_pictures_differ():
    assert not np.array_equal(picture(1), picture(2))
