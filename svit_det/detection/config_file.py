"""Building a config from a yaml file and the command line, with one-line errors.

Loading a yaml never executes anything: python tags are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from svit_det.config.policy import token_policy_config
from svit_det.config.reading import (
    check_device,
    keys_of,
    merge_file,
    merge_read,
    naming_the_source,
    refuse_unused,
)
from svit_det.config.yaml_file import parse_yaml
from svit_det.detection.config import add_svit_config, check_values
from svit_det.detection.names import check_agreement, check_names
from svit_det.detection.parts import check_parts
from svit_det.detection.ranges import check_foreign_values
from svit_det.shipped import find_config


def default_config() -> CfgNode:
    """The defaults of detectron2 and of this project.

    MODEL.DEVICE is "cuda" where a GPU is usable, else "cpu".
    """
    cfg = get_cfg()
    add_svit_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg


def load_config(path: str, options: Sequence[str] = ()) -> CfgNode:
    """The defaults, then the yaml at `path` with its bases, then KEY VALUE overrides.

    MODEL.DEVICE starts as "cuda" where a GPU is usable, else as "cpu".
    Raises InputError for a file that cannot be read, an unknown key or registered name (naming the
    nearest one), a value of the wrong type or outside its interval, a key that is set although the
    policy does not use it, and yaml that asks for python objects.
    """
    cfg = default_config()
    sources: dict[str, str] = {}
    named = merge_file(cfg, find_config(path), options, sources)
    return _checked(cfg, named, sources)


def config_in(text: str, options: Sequence[str] = (), *, source: str) -> CfgNode:
    """As `load_config`, for a config that stands as text in another file, which `source` names.

    Such a config has no bases: a file of weights names no other file to read.
    """
    cfg = default_config()
    values = parse_yaml(text, source=source)
    sources = dict.fromkeys(keys_of(values), source)
    named = merge_read(cfg, values, options, sources, source=source)
    return _checked(cfg, named, sources)


def _checked(cfg: CfgNode, named: set[str], sources: dict[str, str]) -> CfgNode:
    with naming_the_source(sources):
        check_config(cfg)
        refuse_unused(cfg.MODEL.TOKEN_POLICY.NAME, named)
        token_policy_config(cfg.MODEL.TOKEN_POLICY)
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Raise InputError for a value that no run can use, wherever it was set."""
    check_foreign_values(cfg)
    check_values(cfg)
    check_names(cfg)
    check_agreement(cfg)
    check_parts(cfg)
    check_device(cfg.MODEL.DEVICE)
