"""Every config key this project adds to detectron2's, its default, and what it means.

Blocks count from 0.
"""

from __future__ import annotations

from detectron2.config import CfgNode


def add_svit_config(cfg: CfgNode) -> None:
    """Declare the keys of svit_det on detectron2's defaults."""
    # ---------------------------------------------------------------- the trunk: a plain ViT
    cfg.MODEL.VIT = CfgNode()
    cfg.MODEL.VIT.PATCH_SIZE = 16  # pixels per token and side
    cfg.MODEL.VIT.EMBED_DIM = 192  # channels; DeiT-T 192, DeiT-S 384
    cfg.MODEL.VIT.DEPTH = 12  # blocks
    cfg.MODEL.VIT.NUM_HEADS = 3  # must divide EMBED_DIM; DeiT-T 3, DeiT-S 6
    cfg.MODEL.VIT.MLP_RATIO = 4.0  # hidden channels of the MLP over EMBED_DIM
    cfg.MODEL.VIT.DROP_PATH_RATE = 0.0  # stochastic depth of the last block; linear from 0
    cfg.MODEL.VIT.PRETRAIN_GRID = [14, 14]  # tokens (rows, columns) of the stored pos_embed
    cfg.MODEL.VIT.POS_EMBED_INIT = "trunc_normal"  # or "sincos", for training from nothing
    # Precision in which the trunk trains on a CPU: "float32" or "bfloat16". train_net.py sets it
    # where SOLVER.AMP.ENABLED meets a CPU, for which detectron2 has no AMP.
    cfg.MODEL.VIT.CPU_PRECISION = "float32"

    # ---------------------------------------------------------------- simple feature pyramid
    cfg.MODEL.SIMPLE_PYRAMID = CfgNode()
    cfg.MODEL.SIMPLE_PYRAMID.SCALE_FACTORS = [4.0, 2.0, 1.0, 0.5]  # of the trunk's one map
    cfg.MODEL.SIMPLE_PYRAMID.OUT_CHANNELS = 256  # of every level
    cfg.MODEL.SIMPLE_PYRAMID.NORM = "LN"  # as in ViTDet
    cfg.MODEL.SIMPLE_PYRAMID.TOP_BLOCK = True  # one more level by max pooling

    # ---------------------------------------------------------------- who runs
    cfg.MODEL.TOKEN_POLICY = CfgNode()
    cfg.MODEL.TOKEN_POLICY.NAME = "Dense"  # a policy of POLICY_REGISTRY
    cfg.MODEL.TOKEN_POLICY.WRAPPERS = []  # of WRAPPER_REGISTRY, innermost first: "Monotone", ...
    cfg.MODEL.TOKEN_POLICY.LAYERS = [3, 4, 5, 6, 7, 8, 9, 10, 11]  # blocks with a decision
    # Target share of tokens that each of LAYERS processes, in (0, 1].
    cfg.MODEL.TOKEN_POLICY.KEEP_RATIOS = [0.7] * 3 + [0.49] * 3 + [0.343] * 3
    cfg.MODEL.TOKEN_POLICY.LOSS_WEIGHT = 4.0  # of the policy's auxiliary loss
    # Mean share over LAYERS at inference, in (0, 1]; None: as trained. No retraining needed.
    cfg.MODEL.TOKEN_POLICY.TEST_KEEP_RATIO = None

    cfg.MODEL.TOKEN_POLICY.SVIT = CfgNode()
    cfg.MODEL.TOKEN_POLICY.SVIT.MODE = "threshold"  # or "argmax", "sample", "quota"
    cfg.MODEL.TOKEN_POLICY.SVIT.SAMPLE_SEED = 0  # of the draws in mode "sample"
    cfg.MODEL.TOKEN_POLICY.SVIT.RATIO_PER_IMAGE = (
        False  # hold each image, not the batch, to KEEP_RATIOS
    )

    # ---------------------------------------------------------------- training and evaluation
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # or "SGD", detectron2's own
    # AdamW: parameters with one of these in their full name get no weight decay.
    cfg.SOLVER.NO_WEIGHT_DECAY = ["norm", "bias", "pos_embed", "level_embed"]
    cfg.TEST.TOKEN_USAGE = True  # report who ran where, next to COCO's AP

    # ---------------------------------------------------------------- data sets
    # COCO-format sets to register: [["name", "annotations.json", "image folder"], ...]
    cfg.DATASETS.COCO_FORMAT = []
