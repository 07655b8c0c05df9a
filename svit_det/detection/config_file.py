"""From a yaml and the command line to a config, saying in one sentence what is wrong with either.

Loading a yaml never executes anything: python tags are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from textwrap import shorten

import torch
import yaml
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

from svit_det.detection.config import (
    add_svit_config,
    check_values,
    token_policy_config,
    unused,
    unused_keys,
)
from svit_det.detection.keys import POLICY_NODE
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
    defaults = cfg.clone()
    known = list(_keys(cfg))
    loaded = _read_yaml(path)
    try:
        cfg.merge_from_other_cfg(CfgNode(loaded))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: {_explain(error, known)}") from error
    flag = next((option for option in options if str(option).startswith("--")), None)
    if flag:
        raise InputError(f"{flag} is no override: it belongs before the first KEY VALUE.")
    if len(options) % 2:
        raise InputError(f"Overrides come in pairs, KEY VALUE; '{options[-1]}' stands alone.")
    for key in options[::2]:
        if key not in known:
            raise InputError(f"On the command line: {_unknown(key, known)}")
    try:
        cfg.merge_from_list(list(options))
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"On the command line: {_explain(error, known)}") from error
    _check_numbers(cfg, defaults)
    check_values(cfg)
    _check_names(cfg)
    _check_choices(cfg.INPUT)
    _check_device(cfg.MODEL.DEVICE)
    _refuse_unused(cfg.MODEL.TOKEN_POLICY.NAME, _named(loaded) | set(options[::2]))
    token_policy_config(cfg.MODEL.TOKEN_POLICY)
    return cfg


def _read_yaml(path: str) -> dict:
    """The yaml at `path` over its bases, as plain values."""
    try:
        loaded = CfgNode.load_yaml_with_base(path, allow_unsafe=False)
    except yaml.constructor.ConstructorError as error:
        raise InputError(
            f"{path}: a config holds plain values only; remove the python tag ({error.problem})."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: its _BASE_ leads back to itself.") from error
    except (
        OSError,
        yaml.YAMLError,
        AttributeError,
        TypeError,
        ValueError,
        AssertionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable yaml config ({reason}).") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: a config holds keys with values, unlike this file.")
    return loaded


def _keys(node: dict, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _named(loaded: dict) -> set[str]:
    """The keys that a yaml sets.

    The config.yaml that a run leaves names every key there is, which says nothing: there, only a
    value that is not the default counts, and `token_policy_config` finds those.
    """
    named, every = set(_keys(loaded)), set(_keys(get_cfg()))
    # Not all of them: another version of detectron2 has some keys more or less.
    return set() if len(named & every) > 0.9 * len(every) else named


def _refuse_unused(policy: str, named: set[str]) -> None:
    """Refuse shared keys that are set, whatever their value, although the policy has no use."""
    for key in unused_keys(policy):
        if f"{POLICY_NODE}.{key}" in named:
            raise unused(key, policy)


def _explain(error: Exception, known: Sequence[str]) -> str:
    """yacs's complaint, in one sentence; for an unknown key, with the nearest that exists."""
    message = str(error).strip("'\"")
    unknown = re.search(r"Non-existent config key: (.+)", message)
    if unknown:
        return _unknown(unknown.group(1), known)
    mismatch = re.search(r"with values \((.*) vs\. (.*)\) for config key: (.+)", message, re.S)
    if mismatch:
        default, given, key = (shorten(part, 80) for part in mismatch.groups())
        return f"{key}: '{given}' is not of the type of the value it replaces, {default}."
    return message


def _unknown(key: str, known: Sequence[str]) -> str:
    same_end = [name for name in known if name.endswith(f".{key}")]
    nearest = difflib.get_close_matches(key, same_end or known, n=1, cutoff=0.0)[0]
    return f"no config key '{key}'; the nearest is '{nearest}'."


def _check_numbers(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """yacs lets None and lists of anything pass where the default is a number or numbers."""
    for name, default in defaults.items():
        value = cfg[name]
        if isinstance(default, CfgNode):
            _check_numbers(value, default, f"{prefix}{name}.")
            continue
        expected = list(_leaves(default))
        if expected and all(map(_is_number, expected)):
            wrong = [leaf for leaf in _leaves(value) if not _is_number(leaf)]
            if wrong:
                raise InputError(f"{prefix}{name}: '{wrong[0]}' is not a number.")


def _leaves(value: object) -> Iterator[object]:
    if not isinstance(value, (list, tuple)):
        yield value
        return
    for part in value:
        yield from _leaves(part)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"MODEL.DEVICE: no device '{name}'; choose cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"MODEL.DEVICE is {name}, but there is no usable GPU here; choose cpu.")
