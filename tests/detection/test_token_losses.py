"""TokenLosses: a greedy pass, a teacher, rates and freezing, with a policy made for the test."""

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.utils.events import EventStorage
from torch import nn

from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.token_losses import TokenLosses
from svit_det.detection.trainer import TokenTrainer, load_teacher
from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.policies.gating import token_distillation
from svit_det.tokens import Selection, everyone
from svit_det.training.distillation import dense_teacher
from svit_det.training.groups import name_of
from svit_det.vit import find_token_net

DENSE = ("MODEL.TOKEN_POLICY.NAME", "Dense")


class Gambler(TokenPolicy):
    """Draws before block 1 in training which tokens to keep; takes the likelier at inference."""

    needs_greedy_pass = True
    needs_teacher = True

    def __init__(self, width):
        super().__init__()
        self.scorer = nn.Linear(width, 1)
        self.register_buffer("passes", torch.zeros(()))
        self.heard = []

    def before_block(self, view, state):
        if view.layer != 1:
            return state, everyone(state)
        probability = self.scorer(state.patches).squeeze(-1).sigmoid()
        drawn = torch.rand_like(probability) if self.training else 0.5
        return state, Selection(keep=probability > drawn, score=probability)

    def losses(self, record, task):
        self.heard.append(task)
        sampled, greedy = (sum(each.named.values()) for each in (task, task.greedy))
        chosen = record.blocks[1].selection
        log = torch.where(chosen.keep, chosen.score, 1 - chosen.score).log().mean()
        return {
            "loss_policy": (sampled - greedy).detach() * log,
            "loss_distillation": 0.5 * token_distillation(record, task.teacher, chosen.keep),
        }

    def track(self, record, mean=lambda value: value):
        self.passes += 1

    def set_step(self, step, steps=None):
        self.clock = (step, steps)

    def rate_factors(self):
        return {"trunk.blocks": 0.25}

    def frozen(self, step, steps=None):
        assert steps in (None, 3)
        return ["trunk.patch_embed"] if step < 2 else []

    def metrics(self, record, task):
        return {"kept": record.blocks[1].selection.keep.float().mean(), "step": self.clock[0]}


@pytest.fixture
def gambling(tiny_model):
    """The tiny model under that policy, with a teacher."""
    model = tiny_model(*DENSE)
    net = find_token_net(model)
    net.trunk.policy = Gambler(32)
    model.set_teacher(dense_teacher(net))
    return model


@pytest.fixture
def batch(training_input):
    return [training_input(64, 64, 2), training_input(50, 77, 1)]


def train_on(model, batch):
    with EventStorage(start_iter=7) as storage:
        losses = model.train()(batch)
        sum(losses.values()).backward()
    return losses, storage


def test_losses_of_both_passes_and_of_the_teacher(gambling, batch):
    losses, storage = train_on(gambling, batch)
    policy = find_token_net(gambling).trunk.policy
    (task,) = policy.heard
    logged = {name: storage.latest()[f"token_policy/{name}"] for name in ("kept", "step")}
    assert logged["kept"][0] == storage.latest()["token_usage/block_01"][0]
    assert logged["step"] == (7.0, 7)
    assert {"loss_policy", "loss_distillation"} <= set(losses)
    assert (
        set(task.named)
        == set(task.greedy.named)
        == set(losses)
        - {
            "loss_policy",
            "loss_distillation",
        }
    )
    assert all(not loss.requires_grad for loss in task.greedy.named.values())
    assert task.named["loss_cls"] != task.greedy.named["loss_cls"]
    assert task.teacher.blocks[1].everyone
    # The greedy pass has kept the likelier tokens, the first one has drawn.
    greedy = task.greedy.record.blocks[1].selection
    assert torch.equal(greedy.keep, greedy.score > 0.5)
    assert policy.scorer.weight.grad.abs().sum() > 0
    assert policy.clock == (7, 3)


def test_the_second_pass_leaves_no_trace(gambling, batch):
    """Storage, batch norms and random numbers are those of one pass."""
    policy = find_token_net(gambling).trunk.policy
    gambling.roi_heads.extra_norm = nn.BatchNorm2d(16)
    norm = gambling.roi_heads.extra_norm

    def normalise(module, inputs, maps):
        norm(maps["p3"])

    handle = gambling.backbone.register_forward_hook(normalise)
    torch.manual_seed(5)
    losses, storage = train_on(gambling, batch)
    after = torch.get_rng_state()
    assert norm.num_batches_tracked == 1
    assert policy.passes == 1
    histories = storage.histories()
    assert all(len(history.values()) == 1 for history in histories.values())
    policy.needs_greedy_pass = False
    policy.losses = lambda record, task: {}
    torch.manual_seed(5)
    alone, _ = train_on(gambling, batch)
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(loss, losses[name]) for name, loss in alone.items())
    handle.remove()


def test_without_a_teacher_it_says_so(tiny_model, batch):
    model = tiny_model(*DENSE)
    find_token_net(model).trunk.policy = Gambler(32)
    with pytest.raises(InputError, match="Gambler learns from a teacher"):
        train_on(model, batch)


def test_the_teacher_is_no_part_of_the_model(gambling, tiny_model):
    names = set(gambling.state_dict())
    own = {name for name in names if ".policy." not in name}
    assert own == set(tiny_model(*DENSE).state_dict())


def test_a_teacher_from_a_file(gambling, tmp_path):
    net = find_token_net(gambling)
    path = tmp_path / "dense.pth"
    torch.save({"model": gambling.state_dict()}, path)
    name = name_of(net, gambling)
    before = net.trunk.pos_embed.detach().clone()
    with torch.no_grad():
        net.trunk.pos_embed.add_(1)
    teacher = load_teacher(net, name, str(path))
    assert torch.equal(teacher.trunk.pos_embed, before)
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS is empty; Gambler learns"):
        load_teacher(net, name, "")
    with pytest.raises(InputError, match="a file is wanted, not a URL"):
        load_teacher(net, name, "https://example.org/w.pth")
    torch.save({"model": {f"{name}.trunk.pos_embed": before}}, path)
    said = (
        rf"dense\.pth: not a whole dense model to learn from: {name}\.trunk\S* .*not in the file\.$"
    )
    with pytest.raises(InputError, match=said):
        load_teacher(net, name, str(path))


def test_rates_and_frozen_parts_through_the_trainer(tiny_config, tmp_path, monkeypatch):
    """Three steps: the patch embedding stands still for two; the blocks learn at a quarter."""
    cfg = tiny_config(*DENSE, "OUTPUT_DIR", tmp_path, "DATASETS.TRAIN", "('discs_train',)")
    prepare_datasets(cfg, training=True)
    build = TokenTrainer.build_model

    def build_with_gambler(cfg):
        model = build(cfg)
        net = find_token_net(model)
        net.trunk.policy = Gambler(32)
        model.set_teacher(dense_teacher(net))
        return model

    monkeypatch.setattr(TokenTrainer, "build_model", staticmethod(build_with_gambler))
    trainer = TokenTrainer(cfg)
    trunk = find_token_net(trainer.model).trunk
    rates = {
        id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    assert rates[id(trunk.blocks[0].mlp.fc1.weight)] == pytest.approx(0.25 * cfg.SOLVER.BASE_LR)
    assert rates[id(trunk.pos_embed)] == pytest.approx(cfg.SOLVER.BASE_LR)
    embedding, blocks = trunk.patch_embed.proj.weight, trunk.blocks[0].mlp.fc1.weight
    moved = []

    class Watch(HookBase):
        def before_step(self):
            self.before = embedding.detach().clone(), blocks.detach().clone()

        def after_step(self):
            now = embedding, blocks
            moved.append([not torch.equal(a, b) for a, b in zip(self.before, now)])

    trainer.register_hooks([Watch()])
    trainer.train()
    assert moved == [[False, True], [False, True], [True, True]]


RETINANET = (
    *("MODEL.META_ARCHITECTURE", "TokenRetinaNet"),
    *("MODEL.MASK_ON", False),
    *("MODEL.RETINANET.IN_FEATURES", "['p2', 'p3', 'p4']"),
    *("MODEL.RETINANET.NUM_CLASSES", 2),
    *("MODEL.RETINANET.NUM_CONVS", 1),
)


def test_the_second_pass_leaves_a_dense_heads_running_mean_alone(tiny_model, batch):
    """It is a plain number on the module, which a first pass alone moves once."""
    moved = []
    for greedy in (False, True):
        model = tiny_model(*DENSE, *RETINANET)
        net = find_token_net(model)
        torch.manual_seed(9)
        net.trunk.policy = Gambler(32)
        net.trunk.policy.needs_greedy_pass = greedy
        net.trunk.policy.losses = lambda record, task: {}
        model.set_teacher(dense_teacher(net))
        train_on(model, batch)
        moved.append(model.loss_normalizer)
    assert moved[0] == moved[1] != 100


class BareMixin(TokenLosses, GeneralizedRCNN):
    """The mixin over an architecture whose `forward` calls its `inference`."""


def test_the_mixin_needs_nothing_more(tiny_model, batch):
    known = tiny_model().eval()
    with torch.no_grad():
        expected = known(batch)
        known.__class__ = BareMixin
        found = known(batch)
    for one, two in zip(found, expected):
        assert torch.equal(one["token_usage"], two["token_usage"])
        assert torch.equal(one["instances"].scores, two["instances"].scores)


def test_both_meta_architectures_are_registered():
    assert {"TokenRCNN", "TokenRetinaNet"} <= {name for name, _ in META_ARCH_REGISTRY}


DISTILLED = (
    *("MODEL.TOKEN_POLICY.NAME", "DynamicViT"),
    *("MODEL.TOKEN_POLICY.DYNAMIC_VIT.DISTILL_WEIGHT", 0.5),
    *("MODEL.TOKEN_POLICY.DYNAMIC_VIT.FROZEN_STEPS", 1),
)


def test_dynamic_vit_learns_from_its_dense_parent(tiny_config, tiny_model, tmp_path):
    """From MODEL.WEIGHTS through the trainer; blocks stand still in the first step."""
    parent = tmp_path / "dense.pth"
    torch.save({"model": tiny_model(*DENSE).state_dict()}, parent)
    options = (*DISTILLED, "MODEL.WEIGHTS", parent, "OUTPUT_DIR", tmp_path)
    cfg = tiny_config(*options, "DATASETS.TRAIN", "('discs_train',)", "SOLVER.MAX_ITER", 1)
    prepare_datasets(cfg, training=True)
    trainer = TokenTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trunk = find_token_net(trainer.model).trunk
    before = {name: value.detach().clone() for name, value in trunk.named_parameters()}
    trainer.train()
    assert trainer.storage.latest()["loss_distillation"][0] > 0
    moved = {name for name, value in trunk.named_parameters() if not value.equal(before[name])}
    assert moved and all(name.startswith("policy.") for name in moved)


def test_a_teacher_of_another_size_is_refused(tiny_model, tmp_path):
    wide, model = tiny_model(*DENSE, "MODEL.VIT.EMBED_DIM", 64), tiny_model(*DISTILLED)
    torch.save({"model": wide.state_dict()}, tmp_path / "wide.pth")
    net = find_token_net(model)
    said = r"wide\.pth: not a whole dense model to learn from: .* and \d+ more differ in shape \("
    with pytest.raises(InputError, match=said) as refusal:
        load_teacher(net, name_of(net, model), str(tmp_path / "wide.pth"))
    assert "\\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def spoiled(weights, how):
    """Weights of a dense model, spoiled in one way, and what is said of them."""
    first, *rest = (name for name in weights if ".trunk." in name)
    if how == "another kind":
        return weights | {first: weights[first].int()}, "holds whole numbers for real numbers"
    if how == "one more":
        return weights | {
            f"{first}.more": torch.zeros(1)
        }, rf": {first}\.more are not in the model\.$"
    left = {name: value for name, value in weights.items() if name not in rest}
    return left, rf": {rest[0]}, .* and \d+ more are not in the file\.$"


@pytest.mark.parametrize("how", ["another kind", "one more", "a part less"])
def test_a_teacher_is_whole_and_of_the_same_kind(tiny_model, tmp_path, how):
    weights, said = spoiled(tiny_model(*DENSE).state_dict(), how)
    torch.save({"model": weights}, tmp_path / "odd.pth")
    model = tiny_model(*DISTILLED)
    net = find_token_net(model)
    with pytest.raises(InputError, match=said):
        load_teacher(net, name_of(net, model), str(tmp_path / "odd.pth"))
