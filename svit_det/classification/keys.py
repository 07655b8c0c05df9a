"""The config keys of classification: a group of settings for each node.

Trunk and policy have the same keys as in detection, see `svit_det/config/keys.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from svit_det.classification.model import READS
from svit_det.config.keys import POLICY_NODE, VIT_NODE, PolicyKeys, TrunkKeys
from svit_det.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ModelKeys(Settings):
    """The classifier."""

    device: str = setting("cpu", "cpu or cuda; the key starts as cuda where there is a usable GPU.")
    weights: str = setting(
        "",
        "Weights to begin from, or to evaluate; a teacher begins from these weights too. An "
        "empty text means random weights.",
    )
    num_classes: int = setting(1000, "Number of classes of the head.", interval="[1, 100000]")
    reads: str = setting(
        "class_token",
        "What the head reads. two_heads means the mean of the patch tokens and, in training, a "
        "second head on the class token, as in Evo-ViT.",
        choices=READS,
    )


@dataclass(frozen=True, kw_only=True)
class DataKeys(Settings):
    """Images in ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg."""

    root: str = setting("datasets/imagenet", "The folder that holds both splits.")
    train: str = setting("train", "Folder of the training images, inside ROOT.")
    val: str = setting("val", "Folder of the images to evaluate on, inside ROOT.")
    num_workers: int = setting(
        8,
        "Number of processes that read images, beside each training process.",
        interval="[0, 1024]",
    )


@dataclass(frozen=True, kw_only=True)
class InputKeys(Settings):
    """Sizes and augmentation, which timm does."""

    size: int = setting(224, "Side of an image in pixels, after cropping.", interval="[1, 100000]")
    crop_share: float = setting(
        0.875,
        "SIZE over the short side that evaluation resizes to before the central crop.",
        interval="[0.1, 1]",
    )
    interpolation: str = setting(
        "bicubic", "Interpolation of the resizing.", choices=("bicubic", "bilinear", "nearest")
    )
    mean: tuple[float, ...] = setting(
        (0.485, 0.456, 0.406),
        "Mean of the pixels, RGB, in [0, 1].",
        kind=float,
        many=True,
        shortest=3,
        longest=3,
        interval="[0, 1]",
    )
    std: tuple[float, ...] = setting(
        (0.229, 0.224, 0.225),
        "Standard deviation of the pixels, RGB, in [0, 1].",
        kind=float,
        many=True,
        shortest=3,
        longest=3,
        interval="[0.0001, 1]",
    )
    scale: tuple[float, ...] = setting(
        (0.08, 1.0),
        "Least and largest share of a training image's area that a crop takes.",
        kind=float,
        many=True,
        shortest=2,
        longest=2,
        interval="(0, 1]",
    )
    ratio: tuple[float, ...] = setting(
        (0.75, 1.3333333),
        "Least and largest width over height of that crop.",
        kind=float,
        many=True,
        shortest=2,
        longest=2,
        interval="[0.01, 100]",
    )
    flip: float = setting(0.5, "Chance of a horizontal flip.", interval="[0, 1]")
    rand_augment: str = setting(
        "rand-m9-mstd0.5-inc1",
        "timm's RandAugment, in timm's notation. An empty text means no RandAugment.",
    )
    color_jitter: float = setting(
        0.4,
        "Strength of the colour jitter, which is used where RAND_AUGMENT is empty. 0 means none.",
        interval="[0, 100]",
    )
    erase: float = setting(0.25, "Chance of random erasing, with noise.", interval="[0, 1]")
    repeats: int = setting(
        3, "Repeated augmentation: how often an image comes in a row.", interval="[1, 1000]"
    )
    mixup: float = setting(0.8, "Alpha of mixup. 0 means no mixup.", interval="[0, 1000]")
    cutmix: float = setting(1.0, "Alpha of cutmix. 0 means no cutmix.", interval="[0, 1000]")
    mix_switch: float = setting(0.5, "Chance of cutmix where both are on.", interval="[0, 1]")
    label_smoothing: float = setting(0.1, "Smoothing of the labels.", interval="[0, 1)")


@dataclass(frozen=True, kw_only=True)
class SolverKeys(Settings):
    """The recipe of a training. Learning rates hold for RATE_BATCH images a step."""

    epochs: int = setting(30, "Number of passes over the training set.", interval="[1, 1e6]")
    batch_size: int = setting(
        1024, "Images a step, of all processes together.", interval="[1, 100000]"
    )
    base_lr: float = setting(
        1e-5,
        "Learning rate of AdamW, which is multiplied by BATCH_SIZE / RATE_BATCH.",
        interval="(0, 1000]",
    )
    rate_batch: int = setting(
        512,
        "The batch size that BASE_LR is meant for. 0 means any size: BASE_LR is then not scaled.",
        interval="[0, 100000]",
    )
    min_lr: float = setting(
        1e-6,
        "Learning rate at which the cosine ends; the batch does not scale this rate.",
        interval="[0, 1000]",
    )
    warmup_epochs: int = setting(
        0,
        "Number of epochs in which the learning rate rises from WARMUP_LR to its full value.",
        interval="[0, 1e6]",
    )
    warmup_lr: float = setting(
        1e-6,
        "Learning rate at which the warm-up begins; the batch does not scale this rate.",
        interval="[0, 1000]",
    )
    lr_by_step: bool = setting(
        False, "Move the schedule at every step; DeiT's schedule moves at every epoch."
    )
    weight_decay: float = setting(1e-6, "Weight decay of AdamW.", interval="[0, 1000]")
    no_weight_decay: tuple[str, ...] = setting(
        ("norm", "bias", "pos_embed", "cls_token"),
        "Parameters with one of these words in their full name get no weight decay.",
        kind=str,
        many=True,
    )
    frozen: tuple[str, ...] = setting(
        (),
        "Beginnings of names, such as trunk.pos_embed: parameters with such a name never learn.",
        kind=str,
        many=True,
    )
    clip_norm: float = setting(
        0.0,
        "Largest norm of all gradients together. 0 means that any norm is allowed.",
        interval="[0, 1e6]",
    )
    ema_decay: float = setting(
        0.99996,
        "Decay of the averaged weights, which are evaluated. 0 means no averaged weights.",
        interval="[0, 1)",
    )
    amp: bool = setting(
        False, "Half precision: float16 with loss scaling on a GPU, bfloat16 on a CPU."
    )
    teacher: str = setting(
        "",
        "Weights of the frozen dense teacher; refused where no loss learns from a teacher. An "
        "empty text means the weights of MODEL.WEIGHTS.",
    )
    logit_distill_weight: float = setting(
        0.0,
        "Weight of the divergence from the logits of the teacher. 0 means no such loss.",
        interval="[0, 1e6]",
    )
    policy_steps_per_epoch: int = setting(
        0,
        "How many steps of a policy's own keys, such as FROZEN_STEPS, are one epoch, whatever "
        "the set and the batch. 0 means as many steps as an epoch has.",
        interval="[0, 1e9]",
    )
    seed: int = setting(0, "Seed of all random draws.", interval="[0, 1e9]")
    checkpoint_epochs: int = setting(
        1, "Number of epochs between two checkpoints to resume from.", interval="[1, 1e6]"
    )
    eval_epochs: int = setting(
        1,
        "Number of epochs between two evaluations; the last epoch always has an evaluation.",
        interval="[1, 1e6]",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationKeys(Settings):
    """Evaluation."""

    batch_size: int = setting(
        128, "Number of images at a time in each process.", interval="[1, 100000]"
    )


GROUPS: dict[str, type[Settings]] = {
    "MODEL": ModelKeys,
    VIT_NODE: TrunkKeys,
    POLICY_NODE: PolicyKeys,
    "DATA": DataKeys,
    "INPUT": InputKeys,
    "SOLVER": SolverKeys,
    "TEST": EvaluationKeys,
}
"""The groups by node, in the order in which the docs list the nodes."""
