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
    cfg.MODEL.VIT.LAYER_NORM_EPS = 1e-6  # in the blocks; the original SViT's own weights: 1e-5
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

    # ---------------------------------------------------------------- ViT-Adapter
    # Under it detectron2's MODEL.FPN; FPN.IN_FEATURES [] means all maps of the adapter.
    cfg.MODEL.ADAPTER = CfgNode()
    # [first, last] block of each run between two exchanges; they cover the trunk in order.
    cfg.MODEL.ADAPTER.INTERACTIONS = [[0, 2], [3, 5], [6, 8], [9, 11]]
    cfg.MODEL.ADAPTER.DEFORM_NUM_HEADS = 6  # must divide EMBED_DIM
    cfg.MODEL.ADAPTER.NUM_POINTS = 4  # that each head looks at, per level
    cfg.MODEL.ADAPTER.FFN_RATIO = 0.25  # hidden channels of the extractors' ConvFFN over EMBED_DIM
    cfg.MODEL.ADAPTER.STEM_WIDTH = 64  # channels of the first convolutions
    cfg.MODEL.ADAPTER.NUM_EXTRA_EXTRACTORS = 2  # after the last exchange
    cfg.MODEL.ADAPTER.FINEST_MAP = True  # the map at a quarter of the patch size
    # Of stem and maps: "SyncBN" (plain BN where one process runs), "BN", "FrozenBN", "GN".
    cfg.MODEL.ADAPTER.NORM = "SyncBN"
    cfg.MODEL.ADAPTER.TOP_BLOCK = True  # one more level of the FPN by max pooling

    # ---------------------------------------------------------------- who runs
    cfg.MODEL.TOKEN_POLICY = CfgNode()
    cfg.MODEL.TOKEN_POLICY.NAME = "Dense"  # a policy of POLICY_REGISTRY
    cfg.MODEL.TOKEN_POLICY.WRAPPERS = []  # of WRAPPER_REGISTRY, innermost first: "Monotone", ...
    # Blocks with a decision. []: the policy's own, SViT and ATS 3 to 11, EViT 3, 6 and 9, Evo-ViT
    # 4 to 11.
    cfg.MODEL.TOKEN_POLICY.LAYERS = []
    # Share of an image's tokens that each of LAYERS keeps, in (0, 1]: a target for SViT, exact for
    # EViT and Evo-ViT, an upper bound (the grid's points) for ATS. []: the policy's own, .7, .49,
    # .343 (three blocks each, or one for EViT), Evo-ViT .5 throughout.
    cfg.MODEL.TOKEN_POLICY.KEEP_RATIOS = []
    cfg.MODEL.TOKEN_POLICY.LOSS_WEIGHT = 4.0  # of the policy's auxiliary loss
    # Mean share over LAYERS at inference, in (0, 1]; None: as trained. No retraining needed.
    cfg.MODEL.TOKEN_POLICY.TEST_KEEP_RATIO = None

    cfg.MODEL.TOKEN_POLICY.SVIT = CfgNode()
    cfg.MODEL.TOKEN_POLICY.SVIT.MODE = "threshold"  # or "argmax", "sample", "quota"
    cfg.MODEL.TOKEN_POLICY.SVIT.SAMPLE_SEED = 0  # of the draws in mode "sample"
    cfg.MODEL.TOKEN_POLICY.SVIT.RATIO_PER_IMAGE = (
        False  # hold each image, not the batch, to KEEP_RATIOS
    )

    cfg.MODEL.TOKEN_POLICY.EVIT = CfgNode()
    cfg.MODEL.TOKEN_POLICY.EVIT.FUSE = True  # the dropped tokens into one more token
    cfg.MODEL.TOKEN_POLICY.EVIT.WARMUP_START = 0  # first training steps, with all tokens
    # Steps after those over which the shares fall to KEEP_RATIOS along a cosine. 0: at once.
    cfg.MODEL.TOKEN_POLICY.EVIT.WARMUP_STEPS = 0

    cfg.MODEL.TOKEN_POLICY.EVO_VIT = CfgNode()
    # False: every block of LAYERS selects anew. True: the first of each STAGES does, and its blocks
    # up to the next one keep to that.
    cfg.MODEL.TOKEN_POLICY.EVO_VIT.STAGE_WISE = False
    cfg.MODEL.TOKEN_POLICY.EVO_VIT.STAGES = [4, 8]  # the first is the first of LAYERS
    # Weight of a block's own class attention in the running score, in (0, 1].
    cfg.MODEL.TOKEN_POLICY.EVO_VIT.SCORE_UPDATE = 0.5
    # The same in the blocks before LAYERS. 1: only the last of them counts, as in classification.
    cfg.MODEL.TOKEN_POLICY.EVO_VIT.SCORE_UPDATE_BEFORE = 0.5
    # One token that stands for the skipped, and whose change in a block they all get.
    cfg.MODEL.TOKEN_POLICY.EVO_VIT.REPRESENTATIVE = False

    # ---------------------------------------------------------------- training images
    # DETR's augmentation: for every second image, resize its short side to one of MIN_SIZES and
    # crop both sides to between the two CROP_SIZE before the usual resize; then, for all, crop
    # to at most FINAL_SIZE. Crops may lose every object. All in pixels.
    cfg.INPUT.DETR_CROP = CfgNode()
    cfg.INPUT.DETR_CROP.ENABLED = False  # not together with INPUT.CROP
    cfg.INPUT.DETR_CROP.MIN_SIZES = [400, 500, 600]  # short sides to choose from
    cfg.INPUT.DETR_CROP.CROP_SIZE = [384, 600]  # smallest and largest side of the first crop
    cfg.INPUT.DETR_CROP.FINAL_SIZE = 1024  # largest side of the second crop

    # ---------------------------------------------------------------- training and evaluation
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # or "SGD", detectron2's own
    # AdamW: parameters with one of these in their full name get no weight decay.
    cfg.SOLVER.NO_WEIGHT_DECAY = ["norm", "bias", "pos_embed", "level_embed", "cls_token"]
    cfg.TEST.TOKEN_USAGE = True  # report who ran where, next to COCO's AP

    # ---------------------------------------------------------------- data sets
    # COCO-format sets to register: [["name", "annotations.json", "image folder"], ...]
    cfg.DATASETS.COCO_FORMAT = []
