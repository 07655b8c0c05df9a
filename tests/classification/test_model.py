"""TokenClassifier: DeiT's logits, the laws with a class token in the sequence, what it refuses."""

import pytest
import timm
import torch
from torch.testing import assert_close

from svit_det.classification.build import build_classifier
from svit_det.classification.config import default_config
from svit_det.classification.model import TokenClassifier
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, TaskLosses
from svit_det.vit import Execution, Masked, Padded

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def from_timm(model):
    """timm's DeiT weights by our names."""
    own = ("norm.", "head.")
    return {
        name if name.startswith(own) else f"trunk.{name}": value
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_small_patch16_224"])
def test_logits_equal_those_of_timms_deit(name):
    theirs = timm.create_model(name, num_classes=1000).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    cfg = default_config()
    vit = cfg.MODEL.VIT
    vit.EMBED_DIM, vit.NUM_HEADS = theirs.embed_dim, theirs.blocks[0].attn.num_heads
    ours = build_classifier(cfg).eval()
    ours.load_state_dict(from_timm(theirs))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        outputs, record = ours(images)
        assert_close(outputs["logits"], theirs(images), **TOLERANCE)
    assert len(record.blocks) == 12 and record.counts().tolist() == [[196] * 12] * 2


@pytest.mark.parametrize("reads", ["class_token", "patch_mean"])
def test_an_image_has_the_logits_that_it_has_alone(policy, classifier, images, reads):
    """Also where images keep different numbers of tokens."""
    model = classifier(policy, reads=reads)
    batch = images(4, (5, 7))
    with torch.no_grad():
        together, record = model(batch)
        alone = [model(batch[image : image + 1]) for image in range(4)]
    assert together["logits"].shape == (4, 5)
    assert_close(together["logits"], torch.cat([each["logits"] for each, _ in alone]), **TOLERANCE)
    assert torch.equal(record.counts(), torch.cat([each.counts() for _, each in alone]))


def test_masked_and_padded_execution_come_to_the_same_logits(policy, classifier, images):
    model = classifier(policy)
    batch = images(3, (5, 7))
    with torch.no_grad():
        packed = model(batch)[0]["logits"]
        for hard in (Masked(), Padded(1.0)):
            model.trunk.execution = Execution(hard=hard)
            assert_close(model(batch)[0]["logits"], packed, **TOLERANCE)


@pytest.mark.parametrize("reads", ["class_token", "two_heads"])
def test_every_parameter_learns_from_the_logits(policy, classifier, images, reads):
    """Head, norm, class token, trunk and policy; the last block too, of which one row is read."""
    model, labels, still = classifier(policy, reads=reads).train(), torch.arange(6) % 5, None
    for _ in range(8):  # by chance no image of a pass may run some sub-layer
        outputs, record = model(images(6, (4, 5)))
        task = {
            f"loss_{name}": torch.nn.functional.cross_entropy(logits, labels)
            for name, logits in outputs.items()
        }
        own = model.trunk.policy.losses(record, TaskLosses(task))
        (sum(task.values()) + sum(own.values())).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert without == []
        broken = [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]
        assert broken == []
        still = [name for name, p in model.named_parameters() if not p.grad.any()]
        if not still:
            break
    assert still == []


def test_two_heads_train_and_the_mean_answers(classifier, images):
    model = classifier(reads="two_heads")
    batch = images(2)
    outputs, _ = model.train()(batch)
    assert set(outputs) == {"logits", "class_logits"}
    state = model.trunk(batch)
    assert_close(outputs["logits"], model.head(model.norm(state.patches.mean(dim=1))))
    assert_close(outputs["class_logits"], model.class_head(model.class_norm(state.extra[:, 0])))
    assert set(model.eval()(batch)[0]) == {"logits"}


@pytest.mark.parametrize("name", POLICY_REGISTRY.names())
def test_the_keys_of_detection_choose_the_policy(name):
    cfg = default_config()
    cfg.MODEL.TOKEN_POLICY.NAME = name
    vit = cfg.MODEL.VIT
    vit.EMBED_DIM, vit.NUM_HEADS, vit.PRETRAIN_GRID = 24, 3, [2, 2]
    cfg.MODEL.NUM_CLASSES, cfg.MODEL.TOKEN_POLICY.IA_RED2.AGENT_HEADS = 7, 3
    model = build_classifier(cfg).eval()
    assert type(model.trunk.policy).__name__ == name
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32))[0]["logits"].shape == (1, 7)


# ------------------------------------------------------------------ the last gate of SViT


@pytest.fixture
def gated(classifier, make_policy):
    """A classifier under SViT whose last gate decides about the class token too."""
    return classifier(make_policy("SViT", gate_class_token=True, mode="argmax"))


def with_last_bias(model, keep, skip):
    """The last gate keeps or skips everything."""
    gate = model.trunk.policy.gates["11"]
    with torch.no_grad():
        gate.fc2.weight.zero_()
        gate.fc2.bias.copy_(torch.tensor([keep, skip]))
    return model


def test_a_class_token_that_the_last_gate_drops_leaves_block_10_to_the_head(gated, images):
    batch = images(2)
    model = with_last_bias(gated, -1.0, 1.0)
    with torch.no_grad():
        state = model.trunk.run(model.trunk.embed(batch), 0, 11)
        outputs, record = model(batch)
    assert_close(outputs["logits"], model.head(model.norm(state.extra[:, 0])))
    assert record.blocks[11].rows.keys == (0, 0)
    assert record.blocks[10].selection.extra is None


def test_a_class_token_that_the_last_gate_keeps_runs(gated, classifier, make_policy, images):
    batch = images(2)
    model = with_last_bias(gated, 1.0, -1.0)
    twin = classifier(make_policy("SViT", mode="argmax"))
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert_close(model(batch)[0]["logits"], twin(batch)[0]["logits"])


def test_the_ratio_of_the_last_gate_counts_the_class_token(gated, images):
    """Gates that keep all 15 patch tokens and skip the class token: 15 of 16."""
    model = with_last_bias(gated, 0.0, 0.0).train()
    _, record = model(images(3))
    last = record.blocks[11].selection
    assert last.extra_gate.shape == (3, 1) and last.gate.shape == (3, 15)
    policy = model.trunk.policy
    loss = policy.losses(record, TaskLosses({}))["loss_keep_ratio"]
    shares = [block.selection.gate.mean() for block in record.blocks[3:11]]
    shares.append(torch.cat([last.extra_gate, last.gate], dim=1).mean())
    goals = torch.tensor(policy.schedule.shares)
    assert_close(loss, 4 * (torch.stack(shares) - goals).square().mean())
    loss.backward()
    assert policy.gates["11"].fc2.bias.grad.abs().sum() > 0


def test_a_single_law_with_the_gated_class_token(gated, images):
    batch = images(4, (5, 7))
    with torch.no_grad():
        together = gated(batch)[0]["logits"]
        alone = torch.cat([gated(batch[i : i + 1])[0]["logits"] for i in range(4)])
    assert_close(together, alone, **TOLERANCE)


# ------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "num_classes: 0 must be at least 1."),
        ({"reads": "nothing"}, "reads: no 'nothing'; choose one of"),
    ],
)
def test_wrong_arguments_are_named(tiny_trunk, options, said):
    with pytest.raises(InputError, match=said):
        TokenClassifier(**{"trunk": tiny_trunk(class_token=True), "num_classes": 2, **options})


def test_a_trunk_without_a_class_token_is_refused(tiny_trunk):
    with pytest.raises(InputError, match="class_token: a classifier's trunk has a class token"):
        TokenClassifier(trunk=tiny_trunk(), num_classes=2)


@pytest.mark.parametrize("name", POLICY_REGISTRY.names())
def test_a_classifier_is_not_traced(name, classifier, make_policy, images):
    model = classifier(make_policy(name))
    with pytest.raises(InputError, match=r"torch\.jit\.trace would keep .* svit-det export "):
        torch.jit.trace(lambda batch: model(batch)[0]["logits"], images(1))
    with pytest.raises(InputError, match=r"torch\.jit\.trace would keep"):
        torch.jit.trace(model, images(1))
