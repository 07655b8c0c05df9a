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

    device: str = setting("cpu", "cpu or cuda; starts as cuda where there is one.")
    weights: str = setting(
        "", "Weights to begin from, or to evaluate; a teacher begins from them too. Empty: random."
    )
    num_classes: int = setting(1000, "Classes of the head.", interval="[1, 100000]")
    reads: str = setting(
        "class_token",
        "What the head reads. two_heads: the mean of the patch tokens, and in training a second "
        "head on the class token, as Evo-ViT.",
        choices=READS,
    )


@dataclass(frozen=True, kw_only=True)
class DataKeys(Settings):
    """Images in ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg."""

    root: str = setting("datasets/imagenet", "The folder that holds both splits.")
    train: str = setting("train", "Folder of the training images, inside ROOT.")
    val: str = setting("val", "Folder of the images to evaluate on, inside ROOT.")
    num_workers: int = setting(
        8, "Processes that read images, beside each training process.", interval="[0, 1024]"
    )


@dataclass(frozen=True, kw_only=True)
class InputKeys(Settings):
    """Sizes and augmentation, which timm does."""

    size: int = setting(224, "Pixels a side, after cropping.", interval="[1, 100000]")
    crop_share: float = setting(
        0.875,
        "SIZE over the short side that evaluation resizes to before the central crop.",
        interval="(0, 1]",
    )
    interpolation: str = setting(
        "bicubic", "Of resizing.", choices=("bicubic", "bilinear", "nearest")
    )
    mean: tuple[float, ...] = setting(
        (0.485, 0.456, 0.406),
        "Of the pixels, RGB, in [0, 1].",
        kind=float,
        many=True,
        shortest=3,
        longest=3,
        interval="[0, 1]",
    )
    std: tuple[float, ...] = setting(
        (0.229, 0.224, 0.225),
        "Of the pixels, RGB, in [0, 1].",
        kind=float,
        many=True,
        shortest=3,
        longest=3,
        interval="[0.0001, 1]",
    )
    scale: tuple[float, ...] = setting(
        (0.08, 1.0),
        "Share of a training image's area that a crop takes, least and most.",
        kind=float,
        many=True,
        shortest=2,
        longest=2,
        interval="(0, 1]",
    )
    ratio: tuple[float, ...] = setting(
        (0.75, 1.3333333),
        "Width over height of that crop, least and most.",
        kind=float,
        many=True,
        shortest=2,
        longest=2,
        interval="[0.01, 100]",
    )
    flip: float = setting(0.5, "Chance of a horizontal flip.", interval="[0, 1]")
    rand_augment: str = setting(
        "rand-m9-mstd0.5-inc1", "timm's RandAugment, by its word for it. Empty: none."
    )
    color_jitter: float = setting(0.4, "Where RAND_AUGMENT is empty; 0: none.", interval="[0, 100]")
    erase: float = setting(0.25, "Chance of random erasing, with noise.", interval="[0, 1]")
    repeats: int = setting(
        3, "Repeated augmentation: how often an image comes in a row.", interval="[1, 1000]"
    )
    mixup: float = setting(0.8, "Alpha of mixup; 0: none.", interval="[0, 1000]")
    cutmix: float = setting(1.0, "Alpha of cutmix; 0: none.", interval="[0, 1000]")
    mix_switch: float = setting(0.5, "Chance of cutmix where both are on.", interval="[0, 1]")
    label_smoothing: float = setting(0.1, "Of the labels.", interval="[0, 1)")


@dataclass(frozen=True, kw_only=True)
class SolverKeys(Settings):
    """The recipe of a training. Rates are those at RATE_BATCH images a step."""

    epochs: int = setting(30, "Passes over the training set.", interval="[1, 1e6]")
    batch_size: int = setting(1024, "Images a step, of all processes.", interval="[1, 100000]")
    base_lr: float = setting(
        1e-5, "Rate of AdamW, times BATCH_SIZE / RATE_BATCH.", interval="(0, 1000]"
    )
    rate_batch: int = setting(
        512,
        "The batch that BASE_LR is meant for. 0: for any, it is not scaled.",
        interval="[0, 100000]",
    )
    min_lr: float = setting(
        1e-6, "Where the cosine ends; not scaled by the batch.", interval="[0, 1000]"
    )
    warmup_epochs: int = setting(0, "Epochs from WARMUP_LR up to the rate.", interval="[0, 1e6]")
    warmup_lr: float = setting(
        1e-6, "Where the warm-up begins; not scaled by the batch.", interval="[0, 1000]"
    )
    lr_by_step: bool = setting(
        False, "The schedule moves at every step; DeiT's moves at every epoch."
    )
    weight_decay: float = setting(1e-6, "Of AdamW.", interval="[0, 1000]")
    no_weight_decay: tuple[str, ...] = setting(
        ("norm", "bias", "pos_embed", "cls_token"),
        "Parameters with one of these in their full name get no weight decay.",
        kind=str,
        many=True,
    )
    frozen: tuple[str, ...] = setting(
        (),
        "Parameters whose name begins so never learn, as in trunk.pos_embed.",
        kind=str,
        many=True,
    )
    clip_norm: float = setting(
        0.0, "Largest norm of all gradients together; 0: any.", interval="[0, 1e6]"
    )
    ema_decay: float = setting(
        0.99996, "Of the averaged weights, which are evaluated; 0: none.", interval="[0, 1)"
    )
    amp: bool = setting(
        False, "Half precision: float16 with loss scaling on a GPU, bfloat16 on a CPU."
    )
    teacher: str = setting(
        "",
        "Weights of the frozen dense teacher; refused where nothing learns from one. Empty: those "
        "of MODEL.WEIGHTS.",
    )
    logit_distill_weight: float = setting(
        0.0,
        "Weight of the divergence from the logits of the teacher. 0: none.",
        interval="[0, 1e6]",
    )
    policy_steps_per_epoch: int = setting(
        0,
        "How many steps of a policy's own keys, such as FROZEN_STEPS, are one epoch, whatever the "
        "set and the batch. 0: as many as there are.",
        interval="[0, 1e9]",
    )
    seed: int = setting(0, "Of everything that is drawn.", interval="[0, 1e9]")
    checkpoint_epochs: int = setting(
        1, "Epochs between two checkpoints to resume from.", interval="[1, 1e6]"
    )
    eval_epochs: int = setting(
        1, "Epochs between two evaluations; the last epoch has one.", interval="[1, 1e6]"
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationKeys(Settings):
    """Evaluation."""

    batch_size: int = setting(128, "Images at a time in each process.", interval="[1, 100000]")


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
