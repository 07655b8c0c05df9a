"""Detector and training step as parts; trained weights; pictures."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svit_det.benchmark.arms import trunk_of
from svit_det.benchmark.stages import DETECTOR_REST, REST, find_stages, time_stages
from svit_det.benchmark.timing import Spread
from svit_det.benchmark.training import count_training_macs
from svit_det.cli.benchmark_inputs import cover, make_images
from svit_det.cli.benchmark_models import read_configs
from svit_det.cli.benchmark_parts import build
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.vit.flops import count_macs

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = (
    *("MODEL.ADAPTER.STEM_WIDTH", "8", "MODEL.ADAPTER.FINEST_MAP", "False"),
    *("MODEL.ADAPTER.TOP_BLOCK", "False", "MODEL.FPN.OUT_CHANNELS", "8"),
)
ONCE = ("--tokens", "4", "6", "--batch-sizes", "1")


@pytest.fixture
def built(tiny_arguments):
    """Factory: parts and arms of the tiny network, and its first config."""

    def make(*options, overrides=()):
        args = tiny_arguments(*options, overrides=overrides)
        configs = read_configs(args)
        with torch.no_grad():
            return build(configs, args), configs[0], args

    return make


def inputs_of(part, cfg, args, batch=1, size=(32, 48)):
    return part.prepare(make_images(cfg, args, batch, size)[0])


# ------------------------------------------------------------------ detector


def test_the_detector_is_given_pixels_that_it_normalises_to_the_same_noise(built):
    found, cfg, args = built("--parts", "detector")
    part = found.parts["detector"]
    given = inputs_of(part, cfg, args, batch=2)
    assert [(each["height"], each["width"]) for each in given] == [(32, 48)] * 2
    seen = part.models["dense"].preprocess_image(given).tensor
    torch.testing.assert_close(seen, make_images(cfg, args, 2, (32, 48))[0])
    with torch.no_grad():
        outputs = part.runs["pruned"](given)
    assert outputs[0]["instances"].pred_masks.shape[1:] == (32, 48)
    assert part.split(given) == [[given[0]], [given[1]]]


def test_the_detector_and_its_stages(tiny):
    ran = tiny("--parts", "detector", *ONCE, "--stages")
    (row,) = ran.results["rows"]
    assert row["macs_per_image"]["dense"] > row["macs_per_image"]["pruned"] > 0
    assert row["bound"] == row["macs_per_image"]["dense"] / row["macs_per_image"]["pruned"]
    stages = ["embed", "blocks", REST, "proposals", "heads", DETECTOR_REST]
    for arm in ("dense", "pruned"):
        assert list(row["stage_seconds_per_batch"][arm]) == stages
    assert "Where the detector spends its time" in ran.printed


def test_every_input_is_counted(tiny):
    """Two noise images that keep different numbers of tokens, each timed twice."""
    ran = tiny(
        *("--parts", "blocks", "backbone", "detector", *ONCE, "--images", "2", "--repeats", "2"),
        overrides=("MODEL.TOKEN_POLICY.NAME", "IARED2"),
    )
    for row in ran.results["rows"]:
        one, other = row["bound_by_input"]
        assert one != other and row["bound"] == (one + other) / 2
        raw = row["raw_seconds_per_batch"]
        of_pairs = zip(raw["dense"], raw["pruned"], [one, other, one, other], strict=True)
        etas = [dense / pruned / bound for dense, pruned, bound in of_pairs]
        assert row["eta"] == asdict(Spread.of(etas))
    # Of a block, one image keeps a token more than the other.
    assert any(count % 1 == 0.5 for count in ran.results["rows"][0]["kept_tokens_per_block"])


def test_stages_of_a_detector_are_the_whole(built, ticks):
    """With a clock of ticks: five stages within, one of which holds two of the others."""
    found, cfg, args = built("--parts", "detector")
    model = found.parts["detector"].models["dense"]
    assert set(find_stages(model)) == {"embed", "blocks", "backbone", "proposals", "heads"}
    given = inputs_of(found.parts["detector"], cfg, args)
    with torch.no_grad():
        timed = time_stages({"one": model}, [given], device="cpu", repeats=1, clock=ticks())
    # Each of the three outer calls is a tick and what lies within: four more in the backbone.
    expected = {"embed": [1], "blocks": [1], REST: [3], "proposals": [1], "heads": [1]}
    assert timed["one"] == {**expected, DETECTOR_REST: [11 - 5 - 1 - 1]}


@pytest.mark.parametrize("network", ["plain_svit_t", "svit_t"])
def test_a_detector_in_bfloat16_has_weights_in_float32(built, network):
    """Beside blocks that are turned into it: products are in bfloat16, boxes in float32."""
    overrides = ADAPTER if network == "svit_t" else ()
    found, cfg, args = built(
        *("--config-file", str(ROOT / f"configs/{network}.yaml"), "--parts", "blocks", "detector"),
        *("--dtype", "bfloat16"),
        overrides=overrides,
    )
    part = found.parts["detector"]
    given = inputs_of(part, cfg, args)
    assert given[0]["image"].dtype == torch.float32
    model = part.models["pruned"]
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert {each.dtype for each in found.parts["blocks"].models["pruned"].parameters()} == {
        torch.bfloat16
    }
    seen = []
    model.roi_heads.box_head.fc1.register_forward_hook(lambda _m, _i, rows: seen.append(rows.dtype))
    with torch.no_grad():
        (output,) = part.runs["pruned"](given)
    assert seen == [torch.bfloat16]
    boxes = output["instances"].pred_boxes.tensor
    assert boxes.isfinite().all() and output["instances"].pred_masks.shape[1:] == (32, 48)


def test_a_detector_in_bfloat16_is_timed_with_its_stages(tiny):
    ran = tiny("--parts", "detector", *ONCE, "--stages", "--dtype", "bfloat16")
    (row,) = ran.results["rows"]
    assert row["part"] == "detector" and ran.results["dtype"] == "bfloat16"
    assert row["stage_seconds_per_batch"]["pruned"]["heads"][0] > 0


# ------------------------------------------------------------------ training


def test_a_training_step_has_the_policys_losses_and_leaves_nothing(built):
    found, cfg, args = built("--parts", "training")
    part = found.parts["training"]
    images = inputs_of(part, cfg, args, batch=2)
    assert set(part.runs) == {"dense", "pruned"}
    assert set(part.runs["dense"].losses(images)) == {"loss_maps"}
    assert set(part.runs["pruned"].losses(images)) == {"loss_maps", "loss_keep_ratio"}
    model = part.models["pruned"]
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.no_grad():  # as the whole benchmark runs
        part.runs["pruned"](images)
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
    ours = dict(model.named_parameters())
    assert all(ours[name] is each for name, each in part.models["dense"].named_parameters())


def test_the_loss_is_the_mean_square_of_every_map(built):
    found, cfg, args = built("--parts", "training", overrides=("MODEL.VIT.DROP_PATH_RATE", "0.0"))
    part = found.parts["training"]
    images = inputs_of(part, cfg, args)
    loss = part.runs["dense"].losses(images)["loss_maps"]
    with torch.no_grad():
        maps = part.models["dense"](images).values()
    by_hand = sum(each.square().mean() for each in maps)
    torch.testing.assert_close(loss.detach(), by_hand)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("DynamicViT", ("MODEL.TOKEN_POLICY.DYNAMIC_VIT.DISTILL_WEIGHT", "0.5")),
        ("IARED2", ("MODEL.TOKEN_POLICY.IA_RED2.METHOD", "reinforce")),
        ("AViT", ()),
    ],
)
def test_a_teacher_and_a_second_pass_are_there_where_a_policy_needs_them(built, name, overrides):
    found, cfg, args = built("--parts", "training", "--policies", name, overrides=overrides)
    step = found.parts["training"].runs[name]
    losses = step.losses(inputs_of(found.parts["training"], cfg, args, batch=2))
    assert len(losses) > 1 and all(each.isfinite() for each in losses.values())


def test_a_training_step_is_three_times_the_way_forward():
    """Two products on the way back for each on the way forward, five for attention's two."""
    image = torch.randn(1, 3, 5, 8, requires_grad=True)
    weight = torch.randn(8, 7, requires_grad=True)

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(image, image, image)

    def multiply():
        return image @ weight

    forward = count_macs(attend).total
    assert forward == 2 * 3 * 5 * 5 * 8
    assert count_training_macs(lambda: attend().sum().backward()) == forward + 5 * 3 * 5 * 5 * 8
    assert count_training_macs(lambda: multiply().sum().backward()) == 3 * 3 * 5 * 8 * 7


def test_training_in_the_table(tiny):
    ran = tiny("--parts", "training", "--tokens", "4", "6", "--batch-sizes", "1", "2")
    one, two = ran.results["rows"]
    assert (one["part"], one["batch_size"], two["batch_size"]) == ("training", 1, 2)
    # Masked in training: nothing is saved, and the gates are dearer than nothing.
    assert 0.9 < one["bound"] < 1
    assert set(two["raw_seconds_per_batch"]) == {"dense", "pruned"}


# ------------------------------------------------------------------ weights and pictures


@pytest.fixture
def trained(built, tmp_path):
    """A file with the weights of the tiny detector, whose gates have other ones than at first."""
    found, _, _ = built("--parts", "detector")
    model = found.parts["detector"].models["pruned"]
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    TokenCheckpointer(model, str(tmp_path)).save("trained")
    return model, ("MODEL.WEIGHTS", str(tmp_path / "trained.pth"))


@pytest.mark.parametrize("part", ["blocks", "backbone", "detector"])
def test_trained_decisions_are_run_as_they_are(built, trained, part):
    model, overrides = trained
    found, cfg, _ = built("--parts", part, overrides=overrides)
    loaded = trunk_of(found.parts[part].models["pruned"]).state_dict()
    for name, value in trunk_of(model).state_dict().items():
        assert torch.equal(loaded[name], value), name
    assert cfg.MODEL.TOKEN_POLICY.SVIT.MODE != "quota"


def test_of_several_policies_the_trunk_is_loaded(built, trained):
    model, overrides = trained
    found, _, _ = built("--parts", "blocks", "--policies", "ATS", "SViT", overrides=overrides)
    wanted = trunk_of(model).blocks.state_dict()
    for trunk in found.parts["blocks"].models.values():
        assert all(torch.equal(trunk.blocks.state_dict()[name], wanted[name]) for name in wanted)


def test_weights_that_are_not_there(tiny):
    ran = tiny("--parts", "blocks", *ONCE, overrides=("MODEL.WEIGHTS", "nowhere.pth"))
    assert ran.problem == "nowhere.pth: no such file."


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of one colour, one of them grey."""
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (9, 9, 9)]):
        image = Image.new("RGB", (70, 40), colour)
        (image.convert("L") if number == 2 else image).save(tmp_path / f"{number}.png")
    return tmp_path


def test_pictures_instead_of_noise(tiny_arguments, pictures):
    args = tiny_arguments(
        *("--image-folder", str(pictures), "--height", "30", "--width", "41", "--images", "2")
    )
    (cfg,) = read_configs(args)
    batches = make_images(cfg, args, 2, (32, 48))
    assert [batch.shape for batch in batches] == [(2, 3, 32, 48)] * 2
    mean, std = (torch.tensor(each) for each in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    flat = torch.cat(batches)
    # Red, green, grey, and red again because there are three only.
    for image, colour in zip(flat, [(255, 0, 0), (0, 255, 0), (9, 9, 9), (255, 0, 0)]):
        wanted = (torch.tensor(colour) - mean) / std
        torch.testing.assert_close(image[:, 29, 40], wanted)
        assert not image[:, 30:].any() and not image[:, :, 41:].any()  # padding


def test_a_picture_covers_what_is_asked_for():
    image = np.zeros((40, 70, 3), np.uint8)
    image[:, 30:40] = 200
    for size in ((20, 20), (60, 50), (40, 70), (100, 30)):
        covered = cover(image, size)
        assert covered.shape == (*size, 3)
        assert covered[size[0] // 2, size[1] // 2, 0] == 200  # the middle stays in the middle


def test_the_benchmark_on_pictures(tiny, pictures):
    ran = tiny("--parts", "blocks", *ONCE, "--image-folder", str(pictures))
    assert len(ran.results["rows"]) == 1
