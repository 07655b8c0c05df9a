"""Building a config from a classification yaml and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode

from svit_det.classification.keys import GROUPS
from svit_det.config.declared import add_keys, group_at
from svit_det.config.policy import check_policies, token_policy_config
from svit_det.config.reading import check_device, merge_file, naming_the_source, refuse_unused
from svit_det.errors import InputError
from svit_det.settings import Setting, checked


def default_config() -> CfgNode:
    """Every key at its default; MODEL.DEVICE is "cuda" where a GPU is usable, else "cpu"."""
    cfg = CfgNode()
    add_keys(cfg, GROUPS)
    cfg.OUTPUT_DIR = "output/classifier"
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg


def load_config(path: str, options: Sequence[str] = ()) -> CfgNode:
    """The defaults, the yaml at `path` with its bases, then KEY VALUE overrides.

    Raises InputError for a file that cannot be read, an unknown key (naming the nearest one), a
    value of the wrong kind or outside its interval, and a key that the policy does not use.
    """
    cfg = default_config()
    sources: dict[str, str] = {}
    named = merge_file(cfg, path, options, sources)
    with naming_the_source(sources):
        check_config(cfg)
        refuse_unused(cfg.MODEL.TOKEN_POLICY.NAME, named)
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Raise InputError, naming the key, for a value that cannot be used."""
    for name, group in GROUPS.items():
        group_at(cfg, name, group)
    checked("OUTPUT_DIR", cfg.OUTPUT_DIR, Setting("", str))
    check_policies(cfg.MODEL.TOKEN_POLICY)
    check_device(cfg.MODEL.DEVICE)
    token_policy_config(cfg.MODEL.TOKEN_POLICY)
    _check_sizes(cfg)


def _check_sizes(cfg: Any) -> None:
    size, patch = cfg.INPUT.SIZE, cfg.MODEL.VIT.PATCH_SIZE
    if size % patch:
        raise InputError(
            f"INPUT.SIZE: {size} pixels do not divide into patches of {patch} "
            "(MODEL.VIT.PATCH_SIZE)."
        )
    for key, (low, high) in (("SCALE", cfg.INPUT.SCALE), ("RATIO", cfg.INPUT.RATIO)):
        if low > high:
            raise InputError(f"INPUT.{key}: {low} is above {high}; the least comes first.")
