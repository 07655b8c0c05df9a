"""TokenRCNN: the policy's losses in training, the usage of tokens in the outputs."""

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from svit_det.vit import find_token_net, record_passes

DENSE = ("MODEL.TOKEN_POLICY.NAME", "Dense")
CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
MASK_RCNN_LOSSES = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}


@pytest.fixture
def batch(training_input):
    """Two pictures of different size with three objects between them."""
    return [training_input(64, 64, 2), training_input(50, 77, 1)]


def train_on(model, batch):
    with EventStorage() as storage:
        losses = model.train()(batch)
        sum(losses.values()).backward()
    return losses, {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), MASK_RCNN_LOSSES | {"loss_keep_ratio"}),
        (DENSE, MASK_RCNN_LOSSES),
        (
            CASCADE,
            {"loss_mask", "loss_rpn_cls", "loss_rpn_loc", "loss_keep_ratio"}
            | {f"loss_{what}_stage{i}" for what in ("cls", "box_reg") for i in range(3)},
        ),
    ],
    ids=["SViT", "Dense", "Cascade"],
)
def test_losses(tiny_model, batch, options, expected):
    losses, _ = train_on(tiny_model(*options), batch)
    assert set(losses) == expected
    assert all(loss.isfinite() for loss in losses.values())


def test_the_ratio_loss_is_that_of_this_pass(tiny_model, batch):
    """4 x mean of (kept share - target)^2 over the two gates."""
    model = tiny_model()
    with record_passes(model) as records:
        losses, _ = train_on(model, batch)
    shares = records[0].kept_shares()[1:]
    by_hand = 4.0 * ((shares[0] - 0.7) ** 2 + (shares[1] - 0.5) ** 2) / 2
    assert losses["loss_keep_ratio"].item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("empty", [1, 2])
def test_pictures_without_objects(tiny_model, training_input, empty):
    """Losses stay finite and every parameter has a gradient, without which DDP would stop."""
    batch = [training_input(64, 64, 2), training_input(64, 64, 0)]
    if empty == 2:
        batch[0] = training_input(64, 64, 0)
    model = tiny_model()
    losses, _ = train_on(model, batch)
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_gates_learn_from_the_task_through_pyramid_and_heads(tiny_model, batch):
    model = tiny_model()
    with EventStorage():
        losses = model.train()(batch)
    (losses["loss_cls"] + losses["loss_mask"] + losses["loss_rpn_cls"]).backward()
    for gate in find_token_net(model).trunk.policy.gates.values():
        for name, parameter in gate.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


def test_usage_goes_to_the_event_storage_for_gated_blocks(tiny_model, batch):
    model = tiny_model()
    with record_passes(model) as records:
        _, scalars = train_on(model, batch)
    usage = {name: value for name, value in scalars.items() if name.startswith("token_usage")}
    shares = records[0].kept_shares().tolist()
    assert usage == {
        "token_usage/block_01": pytest.approx(shares[1]),
        "token_usage/block_02": pytest.approx(shares[2]),
    }
    assert 0.2 < shares[1] < 0.8


def test_dense_has_no_usage_to_log(tiny_model, batch):
    _, scalars = train_on(tiny_model(*DENSE), batch)
    assert not any(name.startswith("token_usage") for name in scalars)


def test_training_is_tracked_for_the_thresholds(tiny_model, batch):
    model = tiny_model()
    budget = find_token_net(model).trunk.policy.budget
    with record_passes(model) as records:
        train_on(model, batch)
        model.eval()(batch)
    assert budget.num_batches_tracked == 1
    assert budget.kept_share.tolist() == pytest.approx(records[0].kept_shares()[1:].tolist())


# ------------------------------------------------------------------ inference


def test_usage_of_two_pictures_without_their_padding(tiny_model, batch):
    """50 x 77 pixels are 7 x 10 tokens, 8 x 10 with the padding to multiples of 16."""
    model = tiny_model().eval()
    batch[0]["height"], batch[0]["width"] = 128, 128
    with torch.no_grad(), record_passes(model) as records:
        outputs = model(batch)
    assert [output["token_usage"].shape for output in outputs] == [(3, 8, 8), (3, 7, 10)]
    first, second = (record.keep_maps() for record in records)
    assert first.shape == (1, 3, 8, 8) and second.shape == (1, 3, 8, 10)
    assert torch.equal(outputs[0]["token_usage"], first[0])
    assert torch.equal(outputs[1]["token_usage"], second[0, :, :7, :10])
    # A decision worth its name: neither everyone nor no one, and not the same for both pictures.
    for maps in (first, second):
        assert 0 < maps[:, 1:].float().mean() < 1
    assert not torch.equal(first[0], second[0, :, :, :8])
    sizes = [output["instances"].image_size for output in outputs]
    assert sizes == [(128, 128), (50, 77)]


def test_dense_uses_everything(tiny_model, batch):
    with torch.no_grad():
        outputs = tiny_model(*DENSE).eval()(batch)
    assert all(output["token_usage"].all() for output in outputs)


@pytest.mark.parametrize("options", [(), CASCADE], ids=["Mask R-CNN", "Cascade"])
def test_without_postprocessing_the_instances_come_bare(tiny_model, batch, options):
    model = tiny_model(*options).eval()
    with torch.no_grad():
        outputs = model.inference(batch, do_postprocess=False)
    assert all(isinstance(output, Instances) for output in outputs)
    # Masks are still those of the head, not pasted into the picture.
    assert outputs[0].pred_masks.shape[-2:] == (28, 28)


def test_masks_for_given_boxes(tiny_model, batch):
    model = tiny_model().eval()
    with torch.no_grad():
        found = model.inference(batch, do_postprocess=False)
        again = model.inference(batch, detected_instances=found)
    assert [len(output["instances"]) for output in again] == [len(each) for each in found]
    assert again[0]["token_usage"].shape == (3, 8, 8)
