"""The config keys of detection that belong to no policy: a group of settings for each node.

A field `patch_size` in the group of MODEL.VIT is the key MODEL.VIT.PATCH_SIZE. A new key needs a
new field only, a new node a new group in `GROUPS`. Blocks count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from svit_det.config.keys import POLICY_NODE, VIT_NODE, PolicyKeys, TrunkKeys
from svit_det.settings import Settings, setting

NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
"""detectron2's names of norms; "" means no norm."""


@dataclass(frozen=True, kw_only=True)
class VitKeys(TrunkKeys):
    """The trunk: a plain ViT."""

    cpu_precision: str = setting(
        "float32",
        "Precision in which the trunk trains on a CPU. train_net.py sets this key where "
        "SOLVER.AMP.ENABLED meets a CPU, for which detectron2 has no AMP.",
        choices=("float32", "bfloat16"),
    )


@dataclass(frozen=True, kw_only=True)
class SimplePyramidKeys(Settings):
    """ViTDet's simple feature pyramid over the trunk's one map."""

    scale_factors: tuple[float, ...] = setting(
        (4.0, 2.0, 1.0, 0.5),
        "Scales of the levels over the trunk's one map: a run of 4, 2, 1, 0.5 in that order.",
        kind=float,
        many=True,
        shortest=1,
        interval="[0.5, 4]",
    )
    out_channels: int = setting(256, "Channels of every level.", interval="[1, 65536]")
    norm: str = setting(
        "LN",
        "Norm of the levels, by detectron2's name for the norm; LN as in ViTDet.",
        choices=NORMS,
    )
    top_block: bool = setting(True, "Add one more level by max pooling.")


@dataclass(frozen=True, kw_only=True)
class AdapterKeys(Settings):
    """ViT-Adapter, below MODEL.FPN. FPN.IN_FEATURES [] means all maps of the adapter."""

    interactions: tuple[tuple[int, int], ...] = setting(
        ((0, 2), (3, 5), (6, 8), (9, 11)),
        "[first, last] block of each run between two exchanges; the runs cover the trunk in order.",
        kind=int,
        many=True,
        group=2,
        shortest=1,
        interval="[0, 1000]",
    )
    deform_num_heads: int = setting(
        6, "Number of heads of the exchanges, which must divide EMBED_DIM.", interval="[1, 4096]"
    )
    num_points: int = setting(
        4, "Number of points that each head looks at, per level.", interval="[1, 1024]"
    )
    ffn_ratio: float = setting(
        0.25, "Hidden channels of the extractors' ConvFFN over EMBED_DIM.", interval="(0, 100]"
    )
    stem_width: int = setting(64, "Channels of the first convolutions.", interval="[1, 65536]")
    num_extra_extractors: int = setting(
        2, "Number of extractors after the last exchange.", interval="[0, 100]"
    )
    finest_map: bool = setting(True, "Give the map at a quarter of the patch size too.")
    norm: str = setting(
        "SyncBN",
        "Norm of stem and maps. SyncBN is plain BN where one process runs.",
        choices=("SyncBN", "BN", "FrozenBN", "GN"),
    )
    top_block: bool = setting(True, "Add one more level of the FPN by max pooling.")


@dataclass(frozen=True, kw_only=True)
class DetrCropKeys(Settings):
    """DETR's augmentation of training images.

    Before the usual resize, every second image has its short side resized to one of MIN_SIZES and
    both sides cropped to a length between the two of CROP_SIZE. Then every image is cropped to at
    most FINAL_SIZE. A crop may lose every object. All sizes are in pixels.
    """

    enabled: bool = setting(
        False, "Use this augmentation, which does not go together with INPUT.CROP."
    )
    min_sizes: tuple[int, ...] = setting(
        (400, 500, 600),
        "Short sides to choose from.",
        kind=int,
        many=True,
        shortest=1,
        interval="[1, 100000]",
    )
    crop_size: tuple[int, ...] = setting(
        (384, 600),
        "Smallest and largest side of the first crop.",
        kind=int,
        many=True,
        shortest=2,
        longest=2,
        interval="[1, 100000]",
    )
    final_size: int = setting(1024, "Largest side of the second crop.", interval="[1, 100000]")


@dataclass(frozen=True, kw_only=True)
class SolverKeys(Settings):
    """Training. The other keys of this node are detectron2's."""

    optimizer: str = setting(
        "ADAMW", "The optimiser. SGD is detectron2's own.", choices=("ADAMW", "SGD")
    )
    no_weight_decay: tuple[str, ...] = setting(
        ("norm", "bias", "pos_embed", "level_embed", "cls_token"),
        "Under AdamW, parameters with one of these words in their full name get no weight decay.",
        kind=str,
        many=True,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationKeys(Settings):
    """Evaluation. The other keys of this node are detectron2's."""

    token_usage: bool = setting(True, "Report which tokens ran where, next to COCO's AP.")
    weights: str = setting(
        "",
        "Trained weights of this config, which are evaluated and run where no weights are named.",
    )


@dataclass(frozen=True, kw_only=True)
class DatasetsKeys(Settings):
    """Data sets. The other keys of this node are detectron2's."""

    coco_format: tuple[tuple[str, str, str], ...] = setting(
        (),
        'COCO-format sets to register: [["name", "annotations.json", "image folder"], ...]',
        kind=str,
        many=True,
        group=3,
    )
    skip_bad: bool = setting(
        False,
        "Go on without the images and annotations that the check of a set refuses; "
        "OUTPUT_DIR/annotations then holds the set without these entries, and the list of these "
        "entries.",
    )


GROUPS: dict[str, type[Settings]] = {
    VIT_NODE: VitKeys,
    "MODEL.SIMPLE_PYRAMID": SimplePyramidKeys,
    "MODEL.ADAPTER": AdapterKeys,
    POLICY_NODE: PolicyKeys,
    "INPUT.DETR_CROP": DetrCropKeys,
    "SOLVER": SolverKeys,
    "TEST": EvaluationKeys,
    "DATASETS": DatasetsKeys,
}
"""The groups by node, in the order in which the docs list the nodes."""
