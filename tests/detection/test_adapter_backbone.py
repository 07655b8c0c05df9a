"""The ViT-Adapter under detectron2's FPN, in a small detector."""

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_backbone, build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from svit_det.detection.adapter_backbone import build_norm
from svit_det.errors import InputError
from svit_det.vit import find_token_net, record_passes

ADAPTER = (
    *("MODEL.BACKBONE.NAME", "build_vit_adapter_fpn_backbone"),
    *("MODEL.ADAPTER.INTERACTIONS", "[[0, 0], [1, 2]]"),
    *("MODEL.ADAPTER.DEFORM_NUM_HEADS", 2),
    *("MODEL.ADAPTER.STEM_WIDTH", 4),
    *("MODEL.ADAPTER.FINEST_MAP", False),
    *("MODEL.ADAPTER.TOP_BLOCK", False),
    *("MODEL.FPN.OUT_CHANNELS", 16),
)
WITH_TWO = (
    *("MODEL.ADAPTER.FINEST_MAP", True),
    *("MODEL.ADAPTER.TOP_BLOCK", True),
)
MOUTHS = {"pyramid": (), "adapter": ADAPTER}


def test_levels_and_strides(tiny_config):
    backbone = build_backbone(tiny_config(*ADAPTER)).eval()
    shapes = backbone.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {"p2": 4, "p3": 8, "p4": 16}
    assert backbone.size_divisibility == 16
    maps = backbone(torch.rand(1, 3, 48, 80))
    for name, each in maps.items():
        stride = shapes[name].stride
        assert each.shape == (1, 16, 48 // stride, 80 // stride)


def test_five_levels_as_the_paper_has_them(tiny_config):
    """Four maps and one more by pooling: with patches of 16 that is p2 to p6."""
    names = "['p2', 'p3', 'p4', 'p5', 'p6']"
    paper = ("MODEL.VIT.PATCH_SIZE", 16, "MODEL.RPN.IN_FEATURES", names)
    sizes = ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]")
    backbone = build_backbone(tiny_config(*ADAPTER, *WITH_TWO, *paper, *sizes)).eval()
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert backbone.size_divisibility == 32
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert torch.equal(maps["p6"], maps["p5"][..., ::2, ::2])


def test_some_of_the_maps(tiny_config):
    options = (*ADAPTER, "MODEL.ADAPTER.FINEST_MAP", True)
    options += ("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4']")
    assert list(build_backbone(tiny_config(*options)).output_shape()) == ["p2", "p3", "p4"]


def test_every_key_reaches_the_network(tiny_config):
    options = (
        *("MODEL.ADAPTER.NUM_POINTS", 3),
        *("MODEL.ADAPTER.FFN_RATIO", 0.5),
        *("MODEL.ADAPTER.NUM_EXTRA_EXTRACTORS", 1),
        *("MODEL.VIT.DROP_PATH_RATE", 0.3),
        *("MODEL.VIT.LAYER_NORM_EPS", 1e-5),
        *("MODEL.FPN.NORM", "GN"),
        *("MODEL.FPN.OUT_CHANNELS", 32),
        *("MODEL.FPN.FUSE_TYPE", "avg"),
    )
    backbone = build_backbone(tiny_config(*ADAPTER, *options))
    net = find_token_net(backbone)
    assert [list(stage) for stage in net.stages] == [[0], [1, 2]]
    assert {injector.attn.shape for injector in net.injectors} == {
        (2, 3, 3)
    }  # heads, levels, points
    assert {extractor.attn.shape for extractor in net.extractors} == {(2, 1, 3)}
    assert len(net.extractors) == 3
    assert net.extractors[0].ffn.fc1.out_features == 16
    assert {extractor.drop_path.p for extractor in net.extractors} == {0.3}
    assert net.trunk.blocks[2].drop_path.rate == pytest.approx(0.3)
    assert net.trunk.blocks[0].norm1.eps == 1e-5
    assert net.spatial_prior.stem[0].out_channels == 4
    assert net.up is None and net.spatial_prior.fc1 is None
    assert type(backbone.lateral_convs[0].norm) is nn.GroupNorm
    assert backbone.lateral_convs[0].out_channels == 32
    assert backbone._fuse_type == "avg"


# ------------------------------------------------------------------ norms


def test_norms_by_processes_and_device(monkeypatch):
    assert type(build_norm("SyncBN", 4, device="cuda")) is nn.BatchNorm2d
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    assert type(build_norm("SyncBN", 4, device="cuda:1")) is nn.SyncBatchNorm
    assert type(build_norm("SyncBN", 4, device="cpu")) is NaiveSyncBatchNorm
    assert type(build_norm("GN", 32, device="cpu")) is nn.GroupNorm


def test_weights_do_not_hang_on_the_norms_kind(monkeypatch):
    plain = build_norm("SyncBN", 4, device="cpu").state_dict()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for device in ("cpu", "cuda"):
        assert build_norm("SyncBN", 4, device=device).state_dict().keys() == plain.keys()


# ------------------------------------------------------------------ in a detector


@pytest.mark.parametrize("options", [(), ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads")])
def test_it_trains(tiny_model, training_input, options):
    cascade = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True) if options else ()
    model = tiny_model(*ADAPTER, *options, *cascade).train()
    batch = [training_input(64, 64, 2), training_input(50, 77, 1)]
    with EventStorage():
        losses = model(batch)
    assert "loss_keep_ratio" in losses
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    net = find_token_net(model)
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert idle == []
    assert net.spatial_prior.stem[1].num_batches_tracked == 1


def test_bfloat16_in_training_on_a_cpu(tiny_config):
    half = build_backbone(tiny_config(*ADAPTER, "MODEL.VIT.CPU_PRECISION", "bfloat16")).train()
    with record_passes(half):
        maps = half(torch.rand(2, 3, 32, 32))
    assert {each.dtype for each in maps.values()} == {torch.float32}
    sum(each.sum() for each in maps.values()).backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.grad is not None)


# ------------------------------------------------------------------ pictures of different size


@pytest.mark.parametrize("mouth", list(MOUTHS))
def test_two_pictures_of_different_size_are_two_single_runs(tiny_model, training_input, mouth):
    """Detections, masks and usage of each are those it has alone, in the order they came in."""
    model = tiny_model(*MOUTHS[mouth]).eval()
    sizes = [(64, 64), (50, 77), (64, 60), (32, 120)]
    batch = [training_input(*size, 1) for size in sizes]
    with torch.no_grad(), record_passes(model) as records:
        together = model(batch)
    # 64 x 64 and 64 x 60 are of one size once they are padded.
    assert [len(record.keep_maps()) for record in records] == [2, 1, 1]
    for index, given in enumerate(batch):
        with torch.no_grad():
            (alone,) = model([given])
        ours = together[index]
        assert torch.equal(ours["token_usage"], alone["token_usage"])
        height, width = sizes[index]
        assert ours["token_usage"].shape[1:] == (-(-height // 8), -(-width // 8))
        found, wanted = ours["instances"], alone["instances"]
        assert len(found) == len(wanted) > 0
        torch.testing.assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor)
        torch.testing.assert_close(found.scores, wanted.scores)
        assert torch.equal(found.pred_masks, wanted.pred_masks)


@pytest.mark.parametrize("mouth", list(MOUTHS))
def test_given_boxes_go_with_their_pictures(tiny_model, training_input, mouth):
    model = tiny_model(*MOUTHS[mouth]).eval()
    batch = [training_input(64, 64, 1), training_input(50, 77, 1), training_input(64, 64, 1)]
    with torch.no_grad():
        found = model.inference(batch, do_postprocess=False)
        assert [each.image_size for each in found] == [(64, 64), (50, 77), (64, 64)]
        again = model.inference(batch, detected_instances=found, do_postprocess=False)
    for one, two in zip(found, again):
        assert torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)
        torch.testing.assert_close(one.pred_masks, two.pred_masks)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("MODEL.ADAPTER.INTERACTIONS", "[[0, 1], [1, 2]]"), "MODEL.ADAPTER.INTERACTIONS: [1, 2]"),
        (("MODEL.ADAPTER.INTERACTIONS", "[[0, 0], [2, 2]]"), "block 1"),
        (("MODEL.ADAPTER.INTERACTIONS", "[[0, 3]]"), "3 blocks count from 0 to 2"),
        (("MODEL.ADAPTER.INTERACTIONS", "[[0, 1]]"), "blocks 2 to 2"),
        (("MODEL.ADAPTER.DEFORM_NUM_HEADS", 5), "MODEL.ADAPTER.DEFORM_NUM_HEADS: 32 channels"),
        (("MODEL.ADAPTER.NORM", "LayerNorm"), "MODEL.ADAPTER.NORM: no 'LayerNorm'"),
        (("MODEL.VIT.PATCH_SIZE", 14), "MODEL.VIT.PATCH_SIZE"),
        (("MODEL.FPN.IN_FEATURES", "['res4', 'res2']"), "MODEL.FPN.IN_FEATURES"),
        (("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p7']"), "MODEL.RPN.IN_FEATURES"),
    ],
)
def test_refused_in_a_sentence(tiny_config, options, said):
    with pytest.raises(InputError) as refusal:
        build_model(tiny_config(*ADAPTER, *options))
    assert said in str(refusal.value)
