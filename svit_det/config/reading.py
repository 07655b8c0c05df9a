"""A yaml with its bases and the command line's KEY VALUE pairs, merged into a config's defaults.

What is wrong with either is said in one sentence. Loading a yaml never executes anything: python
tags are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from svit_det.config.keys import POLICY_NODE
from svit_det.config.policy import unused, unused_keys
from svit_det.errors import InputError


def merge_file(cfg: CfgNode, path: str, options: Sequence[str] = ()) -> set[str]:
    """Merge the yaml at `path`, with its bases, then KEY VALUE overrides; returns the keys set.

    Raises InputError for a file that cannot be read, an unknown key (naming the nearest one), a
    value of the wrong type, and yaml that asks for python objects.
    """
    known = list(keys_of(cfg))
    defaults = cfg.clone()
    loaded = read_yaml(path)
    try:
        cfg.merge_from_other_cfg(type(cfg)(loaded))
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
    return _named(loaded, set(keys_of(defaults))) | set(options[::2])


def read_yaml(path: str) -> dict[str, Any]:
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


def refuse_unused(policy: str, named: set[str]) -> None:
    """Refuse shared keys that are set, whatever their value, although the policy has no use."""
    for key in unused_keys(policy):
        if f"{POLICY_NODE}.{key}" in named:
            raise unused(key, policy)


def check_device(name: str) -> None:
    """Refuse MODEL.DEVICE where there is no such device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"MODEL.DEVICE: no device '{name}'; choose cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"MODEL.DEVICE is {name}, but there is no usable GPU here; choose cpu.")


def keys_of(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The full names of all nodes and keys."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")


def _named(loaded: dict[str, Any], every: set[str]) -> set[str]:
    """The keys that a yaml sets.

    The config.yaml that a run leaves names every key there is, which says nothing: there, only a
    value that is not the default counts, and `token_policy_config` finds those.
    """
    named = set(keys_of(loaded))
    # Not all of them: another version of detectron2 has some keys more or less.
    return set() if len(named & every) > 0.9 * len(every) else named


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
