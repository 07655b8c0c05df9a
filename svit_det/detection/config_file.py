"""From a yaml and the command line to a config, saying in one sentence what is wrong with either.

Loading a yaml never executes anything: python tags are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)

from svit_det.config.policy import token_policy_config
from svit_det.config.reading import check_device, merge_file, refuse_unused
from svit_det.detection.config import add_svit_config, check_values
from svit_det.errors import InputError
from svit_det.shipped import find_config


def load_config(path: str, options: Sequence[str] = ()) -> CfgNode:
    """detectron2's defaults, ours, the yaml at `path` with its bases, then KEY VALUE overrides.

    A `path` that is no file is looked for among the configs that ship: "svit_t" works anywhere.
    MODEL.DEVICE starts as "cuda" where there is one, else as "cpu".
    Raises InputError for a file that cannot be read, an unknown key or registered name (naming the
    nearest one), a value of the wrong type or outside its interval, a key that is set although the
    policy does not use it, and yaml that asks for python objects.
    """
    path = find_config(path)
    cfg = get_cfg()
    add_svit_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    named = merge_file(cfg, path, options)
    check_values(cfg)
    _check_names(cfg)
    _check_choices(cfg.INPUT)
    check_device(cfg.MODEL.DEVICE)
    refuse_unused(cfg.MODEL.TOKEN_POLICY.NAME, named)
    token_policy_config(cfg.MODEL.TOKEN_POLICY)
    return cfg


def _check_names(cfg: CfgNode) -> None:
    """Refuse names that detectron2 would look up in vain while it builds the model."""
    model = cfg.MODEL
    chosen = {
        "META_ARCHITECTURE": (model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        "BACKBONE.NAME": (model.BACKBONE.NAME, BACKBONE_REGISTRY),
        "ANCHOR_GENERATOR.NAME": (model.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
        "PROPOSAL_GENERATOR.NAME": (model.PROPOSAL_GENERATOR.NAME, PROPOSAL_GENERATOR_REGISTRY),
        "RPN.HEAD_NAME": (model.RPN.HEAD_NAME, RPN_HEAD_REGISTRY),
        "ROI_HEADS.NAME": (model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        "ROI_BOX_HEAD.NAME": (model.ROI_BOX_HEAD.NAME, ROI_BOX_HEAD_REGISTRY),
        "ROI_MASK_HEAD.NAME": (model.ROI_MASK_HEAD.NAME, ROI_MASK_HEAD_REGISTRY),
    }
    for key, (name, registry) in chosen.items():
        if name and name not in registry and name != "PrecomputedProposals":
            known = [known for known, _ in registry]
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise InputError(f"MODEL.{key}: no '{name}' is registered; the nearest is '{nearest}'.")


def _check_choices(node: CfgNode) -> None:
    """Refuse words that the mapper would stumble over at the first image."""
    choices = {
        "FORMAT": (node.FORMAT, ("RGB", "BGR")),
        "MASK_FORMAT": (node.MASK_FORMAT, ("bitmask", "polygon")),
        "MIN_SIZE_TRAIN_SAMPLING": (node.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range")),
        "RANDOM_FLIP": (node.RANDOM_FLIP, ("none", "horizontal", "vertical", "both")),
        "CROP.TYPE": (
            node.CROP.TYPE,
            ("relative_range", "relative", "absolute", "absolute_range"),
        ),
    }
    for key, (word, words) in choices.items():
        if word not in words:
            raise InputError(f"INPUT.{key}: no '{word}'; choose one of {', '.join(words)}.")
