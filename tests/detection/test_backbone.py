"""Backbones under detectron2's contract: padding, levels, records that leave nothing behind."""

import copy
import gc
import weakref

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from torch import nn

from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError
from svit_det.vit import find_token_net, record_passes

ALL_LEVELS = "[4.0, 2.0, 1.0, 0.5]"


@pytest.mark.parametrize(
    ("patch", "factors", "top", "divisibility", "levels"),
    [
        (8, ALL_LEVELS, False, 16, {"p1": 2, "p2": 4, "p3": 8, "p4": 16}),
        (8, "[2.0, 1.0]", False, 8, {"p2": 4, "p3": 8}),
        (8, "[1.0, 0.5]", True, 16, {"p3": 8, "p4": 16, "p5": 32}),
        (16, ALL_LEVELS, True, 32, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        (16, "[4.0, 2.0, 1.0]", True, 16, {"p2": 4, "p3": 8, "p4": 16, "p5": 32}),
        (16, "[4.0, 2.0]", False, 16, {"p2": 4, "p3": 8}),
        (16, "[1.0]", False, 16, {"p4": 16}),
        (16, "[0.5]", False, 32, {"p5": 32}),
    ],
)
def test_padding_and_levels(tiny_config, patch, factors, top, divisibility, levels):
    """Images of any size are padded so that every level has a whole number of cells."""
    cfg = tiny_config(
        *("MODEL.VIT.PATCH_SIZE", patch),
        *("MODEL.SIMPLE_PYRAMID.SCALE_FACTORS", factors),
        *("MODEL.SIMPLE_PYRAMID.TOP_BLOCK", top),
        *("MODEL.RPN.IN_FEATURES", list(levels)),
        *("MODEL.ROI_HEADS.IN_FEATURES", list(levels)),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[16]]),
    )
    backbone = build_backbone(cfg).eval()
    assert backbone.size_divisibility == divisibility
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == levels

    images = [torch.rand(3, 45, 83), torch.rand(3, 70, 33)]
    padded = ImageList.from_tensors(
        images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    ).tensor
    height, width = (-(-side // divisibility) * divisibility for side in (70, 83))
    assert padded.shape == (2, 3, height, width)
    maps = backbone(padded)
    assert list(maps) == list(levels)
    for name, stride in levels.items():
        # Max pooling keeps what is left of an odd row; all other levels divide evenly.
        cells = (-(-height // stride), -(-width // stride))
        assert maps[name].shape == (2, 16, *cells)
        if stride <= divisibility:
            assert (cells[0] * stride, cells[1] * stride) == (height, width)


@pytest.mark.parametrize("patch", [8, 16])
def test_odd_sizes_pass_through_the_whole_model(tiny_model, training_input, patch):
    model = tiny_model("MODEL.VIT.PATCH_SIZE", patch, *patch_levels(patch))
    images = [training_input(45, 83, 2), training_input(71, 33, 1)]
    with EventStorage():
        losses = model(images)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        alone = model.eval()(images[:1])
    assert alone[0]["token_usage"].shape == (3, -(-45 // patch), -(-83 // patch))


def patch_levels(patch):
    """At patch 16 the tiny pyramid's levels are called p3 to p5."""
    if patch == 8:
        return ()
    names = "['p3', 'p4', 'p5']"
    return ("MODEL.RPN.IN_FEATURES", names, "MODEL.ROI_HEADS.IN_FEATURES", names)


ONE_MAP = (
    "MODEL.BACKBONE.NAME",
    "build_plain_vit_backbone",
    "MODEL.RPN.IN_FEATURES",
    "['last_feat']",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "['last_feat']",
)
"""The token network's own map, without a pyramid."""


def test_a_single_map_without_pyramid(tiny_config):
    backbone = build_backbone(tiny_config(*ONE_MAP))
    assert backbone.size_divisibility == 8
    assert backbone.output_shape()["last_feat"].stride == 8
    maps = backbone.eval()(torch.rand(2, 3, 16, 24))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "last_feat": (2, 32, 2, 3)
    }


# ------------------------------------------------------------------ record_passes


@pytest.fixture
def backbone(tiny_config):
    return build_backbone(tiny_config()).eval()


PIXELS = torch.linspace(-1, 1, 3 * 16 * 32).reshape(1, 3, 16, 32)


def hooks_of(backbone):
    return len(find_token_net(backbone)._forward_hooks)


def test_one_trace_for_each_pass(backbone):
    with record_passes(backbone) as records:
        assert records == []
        backbone(PIXELS)
        backbone(PIXELS.repeat(2, 1, 1, 1))
    assert [record.keep_maps().shape for record in records] == [(1, 3, 2, 4), (2, 3, 2, 4)]
    backbone(PIXELS)
    assert len(records) == 2


def test_nested_recordings_both_see_the_pass(backbone):
    with record_passes(backbone) as outer:
        backbone(PIXELS)
        with record_passes(backbone) as inner:
            backbone(PIXELS)
        backbone(PIXELS)
    assert (len(outer), len(inner)) == (3, 1)
    assert outer[1] is inner[0]
    assert hooks_of(backbone) == 0


def test_the_hook_is_removed_also_after_an_exception(backbone):
    with record_passes(backbone):
        assert hooks_of(backbone) == 1
    assert hooks_of(backbone) == 0
    with pytest.raises(InputError, match="patches of 8"), record_passes(backbone):
        backbone(torch.rand(1, 3, 17, 32))
    assert hooks_of(backbone) == 0


def test_a_failing_model_leaves_no_hook(tiny_model, training_input):
    model = tiny_model()
    with pytest.raises(AssertionError, match="EventStorage"):
        model([training_input(64, 64, 1)])
    assert hooks_of(model) == 0


def test_nothing_is_retained_and_the_model_can_be_copied(tiny_model, training_input):
    model = tiny_model()
    with record_passes(model) as records, EventStorage():
        losses = model([training_input(64, 64, 1)])
        sum(losses.values()).backward()
    record = weakref.ref(records.pop())
    del losses
    gc.collect()
    assert record() is None
    copied = copy.deepcopy(model)
    assert hooks_of(copied) == 0
    for name, parameter in model.named_parameters():
        assert torch.equal(copied.get_parameter(name), parameter)


def test_a_model_without_token_backbone_is_named(tiny_config):
    with pytest.raises(InputError, match=r"Linear holds no network"):
        find_token_net(nn.Linear(2, 2))
    resnet = ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RPN.IN_FEATURES", "['res4']")
    heads = ("MODEL.ROI_HEADS.IN_FEATURES", "['res4']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[16]]")
    with pytest.raises(InputError, match=r"MODEL\.BACKBONE\.NAME"):
        build_model(tiny_config(*resnet, *heads))


# ------------------------------------------------------------------ precision on a CPU


def block_dtypes(backbone):
    """What the first block computes in, filled by each pass from now on."""
    seen = []
    mlp = find_token_net(backbone).trunk.blocks[0].mlp
    mlp.fc1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    return seen


def test_bfloat16_is_used_in_training_only_and_maps_stay_float32(tiny_config):
    half = build_backbone(tiny_config("MODEL.VIT.CPU_PRECISION", "bfloat16"))
    seen = block_dtypes(half)
    with record_passes(half):
        trained = half.train()(PIXELS)
    evaluated = half.eval()(PIXELS)
    assert seen == [torch.bfloat16, torch.float32]
    assert {value.dtype for value in [*trained.values(), *evaluated.values()]} == {torch.float32}


def test_float32_is_the_default(tiny_config):
    full = build_backbone(tiny_config())
    seen = block_dtypes(full)
    with record_passes(full):
        full.train()(PIXELS)
    assert seen == [torch.float32]


def test_bfloat16_computes_nearly_the_same_with_float32_gradients(tiny_config):
    options = ("MODEL.TOKEN_POLICY.NAME", "Dense", *ONE_MAP)
    full = build_backbone(tiny_config(*options)).train()
    half = build_backbone(tiny_config(*options, "MODEL.VIT.CPU_PRECISION", "bfloat16")).train()
    half.load_state_dict(full.state_dict())
    maps = [backbone(PIXELS)["last_feat"] for backbone in (full, half)]
    difference = (maps[0] - maps[1]).norm() / maps[0].norm()
    assert 0 < difference < 0.02
    maps[1].square().sum().backward()
    assert {parameter.grad.dtype for parameter in half.parameters()} == {torch.float32}


# ------------------------------------------------------------------ losses are never left out


def test_training_a_policy_with_losses_needs_somebody_to_record(tiny_config):
    backbone = build_backbone(tiny_config())
    with pytest.raises(InputError, match=r"SViT has losses.*TokenRCNN"):
        backbone.train()(PIXELS)
    with torch.no_grad():
        backbone(PIXELS)
    with record_passes(backbone):
        backbone(PIXELS)
    build_backbone(tiny_config("MODEL.TOKEN_POLICY.NAME", "Dense")).train()(PIXELS)


@pytest.mark.parametrize("wrappers", ["[]", "['Monotone']"])
def test_a_stock_meta_architecture_is_refused_before_anything_is_read(tiny_config, wrappers):
    stock = ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.TOKEN_POLICY.WRAPPERS", wrappers)
    with pytest.raises(InputError, match=r"GeneralizedRCNN would train .* without"):
        TokenTrainer(tiny_config(*stock))
    build_model(tiny_config(*stock))  # to evaluate, nothing is missing


@pytest.mark.parametrize("name", ["Dense", "ATS"])
def test_a_stock_meta_architecture_may_run_a_policy_without_losses(tiny_config, name):
    options = ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.TOKEN_POLICY.NAME", name)
    build_model(tiny_config(*options))
