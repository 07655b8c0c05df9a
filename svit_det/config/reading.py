"""Merges a yaml with its bases, and the command line's KEY VALUE pairs, into a config's defaults.

Each error is one sentence that names the file, or the command line.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from textwrap import shorten
from typing import Any

import torch
from fvcore.common.config import CfgNode

from svit_det.config.keys import POLICY_NODE
from svit_det.config.policy import unused, unused_keys
from svit_det.config.yaml_file import read_yaml
from svit_det.errors import InputError
from svit_det.settings import shown

OTHER_TASKS = {
    "DATA": "image classifiers, as in configs/imagenet",
    **dict.fromkeys(
        ("VERSION", "DATASETS", "DATALOADER", "GLOBAL", "SEED", "VIS_PERIOD", "CUDNN_BENCHMARK"),
        "detectors, as in configs",
    ),
}
"""Nodes and keys that the configs of one task alone have, and that task."""
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,15})")
"""A whole number as text. With more digits it cannot be meant."""
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "list": "a list",
    "tuple": "a list",
    "str": "text; one that looks like a number needs two pairs of quotes, as in \"'2024'\"",
}
"""What to give for a default of this type."""
LONGEST_VALUE = 20_000
"""Most characters of a value on the command line."""


def merge_file(
    cfg: CfgNode, path: str, options: Sequence[str] = (), sources: dict[str, str] | None = None
) -> set[str]:
    """Merge the yaml at `path`, with its bases, then KEY VALUE overrides; returns the keys set.

    `sources` gets for each key the place where it was set. Raises InputError for a file that cannot
    be read, an unknown key (naming the nearest one), and a value of the wrong type.
    """
    sources = {} if sources is None else sources
    return merge_read(cfg, read_yaml(path, sources), options, sources, source=path)


def merge_read(
    cfg: CfgNode,
    loaded: Mapping[str, Any],
    options: Sequence[str],
    sources: dict[str, str],
    *,
    source: str,
) -> set[str]:
    """As `merge_file`, for values that were read already; `source` names their file."""
    every = set(keys_of(cfg))
    merge_values(cfg, loaded, source=source)
    merge_options(cfg, options)
    sources |= dict.fromkeys(options[::2], "On the command line")
    return _named(loaded, every) | set(options[::2])


@contextmanager
def naming_the_source(sources: Mapping[str, str]) -> Iterator[None]:
    """Inside the with-block, an InputError about a key also says where the key was set."""
    try:
        yield
    except InputError as error:
        key = re.match(r"[A-Z0-9_.]+", str(error))
        if key is None or key.group().rstrip(".") not in sources:
            raise
        raise InputError(f"{sources[key.group().rstrip('.')]}: {error}") from error


def refuse_unused(policy: str, named: set[str]) -> None:
    """Refuse shared keys that are set, to any value, although the policy does not use them."""
    for key in unused_keys(policy):
        if f"{POLICY_NODE}.{key}" in named:
            raise unused(key, policy)


def check_device(name: str, *, key: str = "MODEL.DEVICE") -> None:
    """Refuse a device that torch does not know, that is not supported, or that is missing.

    `key`: the key or option that names the device. Raises InputError.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{key}: no device {shown(name)}; choose cpu or cuda.") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise InputError(f"{key}: {name} is not supported; choose cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{key} is {name}, but there is no usable GPU here; choose cpu.")
    if device.index and device.index >= torch.cuda.device_count():
        raise InputError(
            f"{key} is {name}, but there are {torch.cuda.device_count()} GPUs here, counted from 0."
        )


def keys_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The full names of all nodes and keys."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")


def _named(loaded: Mapping[str, Any], every: set[str]) -> set[str]:
    """The keys that a yaml sets.

    The config.yaml that a run writes names every existing key, set or not. Of such a file no key
    counts as set here; `token_policy_config` still finds values that are not the default.
    """
    named = set(keys_of(loaded))
    # 90 percent is enough: another version of detectron2 has some keys more or less.
    return set() if len(named & every) > 0.9 * len(every) else named


# ------------------------------------------------------------------ merging


def merge_values(cfg: CfgNode, loaded: Mapping[str, Any], *, source: str) -> None:
    """Put nested plain values over the config. Raises InputError that begins with `source`."""
    known = list(keys_of(cfg))
    _check_keys(cfg, loaded, known, source)
    loaded = _with_points(cfg, loaded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # for words that begin like a number
            cfg.merge_from_other_cfg(type(cfg)(loaded))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{source}: {_explain(error, known)}") from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{source}: a value in quotes is nested too deeply.") from error


def _check_keys(
    node: CfgNode, loaded: Mapping[str, Any], known: Sequence[str], source: str, prefix: str = ""
) -> None:
    """Raise InputError unless names exist, nodes hold keys and keys hold values."""
    for name, value in loaded.items():
        full = f"{prefix}{name}"
        if name not in node:
            raise InputError(f"{source}: {_unknown(full, known)}")
        if isinstance(node[name], CfgNode) and isinstance(value, dict):
            _check_keys(node[name], value, known, source, f"{full}.")
        elif isinstance(node[name], CfgNode):
            raise InputError(f"{source}: {full} holds keys, not '{shown(value)}'.")
        elif isinstance(value, dict):
            raise InputError(f"{source}: {full} holds a value, not keys such as {_first(value)}.")
        elif any(isinstance(leaf, int) and leaf.bit_length() > 1024 for leaf in _leaves(value)):
            # Python refuses to print such a number, so that no later message could show it.
            raise InputError(f"{source}: {full}: a number of hundreds of digits cannot be meant.")


def _with_points(node: CfgNode, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """`loaded` with a point in every whole number that stands for a number of any kind.

    yacs refuses 100 where the default is 4.0.
    """
    return {
        name: _with_points(node[name], value)
        if isinstance(value, dict)
        else _with_point(node[name], value)
        for name, value in loaded.items()
    }


def _with_points_in_pairs(cfg: CfgNode, options: Sequence[str]) -> list[str]:
    words = list(options)
    for at, key in enumerate(words[::2]):
        *nodes, last = key.split(".")
        words[2 * at + 1] = _with_point(reduce(getattr, nodes, cfg)[last], words[2 * at + 1])
    return words


def _with_point(default: Any, value: Any) -> Any:
    if not isinstance(default, float):
        return value
    if isinstance(value, str) and WHOLE.fullmatch(value):
        return f"{value}.0"
    return float(value) if type(value) is int and value.bit_length() < 1000 else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _first(keys: Mapping[Any, Any]) -> str:
    return shown(next(iter(keys), "{}"))


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Put KEY VALUE overrides over the config. Raises InputError."""
    known = list(keys_of(cfg))
    flag = next((option for option in options if str(option).startswith("--")), None)
    if flag:
        raise InputError(f"{flag} is no override: it belongs before the first KEY VALUE.")
    for word in options[::2]:
        key, equals, value = str(word).partition("=")
        if equals and key in known:
            brief = shown(value)[1:-1]
            raise InputError(f"On the command line: write {key} {brief}, without the sign =.")
    for key, value in zip(options[::2], options[1::2]):
        if key not in known:
            raise InputError(f"On the command line: {_unknown(str(key), known)}")
        if any(name.startswith(f"{key}.") for name in known):
            raise InputError(f"On the command line: {key} holds keys; name one of them.")
        if len(str(value)) > LONGEST_VALUE:
            raise InputError(
                f"On the command line: {key}: a value of {len(str(value)):,} characters cannot be "
                "meant."
            )
    if len(options) % 2:
        raise InputError(f"Overrides come in pairs, KEY VALUE; {shown(options[-1])} stands alone.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            cfg.merge_from_list(_with_points_in_pairs(cfg, options))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"On the command line: {_explain(error, known)}") from error
    except (RecursionError, MemoryError) as error:
        raise InputError("On the command line: a value is nested too deeply.") from error


def _explain(error: Exception, known: Sequence[str]) -> str:
    """yacs's error in one sentence; for an unknown key, with the nearest existing key."""
    message = str(error).strip("'\"")
    unknown = re.search(r"Non-existent config key: (.+)", message)
    if unknown:
        return _unknown(unknown.group(1), known)
    mismatch = re.search(
        r"\(<class '(\w+)'> vs.* with values \((.*) vs\. (.*)\) for config key: (.+)", message, re.S
    )
    if mismatch:
        kind, default, given, key = (shorten(part[:200], 80) for part in mismatch.groups())
        wanted = f"; give {KINDS[kind]}" if kind in KINDS else ""
        return f"{key}: '{given}' is not of the type of the value it replaces, {default}{wanted}."
    return shorten(message[:400], 300)


def _unknown(key: str, known: Sequence[str]) -> str:
    if key in known:  # a dotted name in yaml is one word, not a path of nodes
        return f"'{key}' must be written as a key inside nodes: '{key.split('.')[0]}:' and so on."
    # Letters of other alphabets may look alike, and so would the two names of the sentence.
    brief = shown(key)[1:-1] if key.isascii() else ascii(key[:60])[1:-1]
    if key.upper().rpartition(".")[2] == "_BASE_":
        return f"no config key '{brief}': bases are named by _BASE_, at the top of a file."
    if key.upper() in known:
        return f"no config key '{brief}'; keys are in capitals: '{key.upper()}'."
    top = key.partition(".")[0]
    if top in OTHER_TASKS and top not in known:
        return f"no config key '{brief}' here; configs of {OTHER_TASKS[top]}, have one."
    same_end = [name for name in known if name.endswith(f".{key.upper()}")]
    nearest = difflib.get_close_matches(key[:100].upper(), same_end or known, n=1, cutoff=0.0)[0]
    return f"no config key '{brief}'; the nearest is '{nearest}'."
