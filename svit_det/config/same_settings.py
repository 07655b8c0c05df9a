"""Two configs as text, compared key by key: a resumed training has the first one's settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from svit_det.config.yaml_file import parse_yaml
from svit_det.errors import InputError
from svit_det.settings import shown

Change = tuple[str, Any, Any]
"""A key, its old value and its new value."""


def settings_of(config: str, *, defaults: str, source: str) -> dict[str, Any]:
    """The values of a config by their full keys; a key that the text lacks has its default.

    Raises InputError, naming `source`, for text that is not a plain config.
    """
    given = dict(_leaves(parse_yaml(config, source=source)))
    return dict(_leaves(parse_yaml(defaults, source="the defaults"))) | given


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, may_change: Callable[[str], bool]
) -> list[Change]:
    """Each key that is not as it was and does not belong to the ones that may change."""
    keys = [key for key in {**now, **before} if not may_change(key)]
    return [(k, before.get(k), now.get(k)) for k in keys if before.get(k) != now.get(k)]


def refuse_other_training(record: Path, config: str) -> None:
    """Refuse a finished training whose config differs, apart from the place of its folder.

    record: the json that the training left, with the text of its whole config under "config";
    config: the text of the config that is wanted now, as a yaml file may have changed since.
    Raises InputError that names the first key that differs.
    """
    folder = record.parent
    try:
        held = json.loads(record.read_bytes())["config"]
        if not isinstance(held, str):
            raise TypeError
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{record}: holds no config of a training; remove {folder}.") from error
    before, now = (settings_of(text, defaults="{}", source=str(record)) for text in (held, config))
    other = changes(before, now, may_change=lambda key: key == "OUTPUT_DIR")
    if other:
        key, old, new = other[0]
        raise InputError(
            f"{folder} holds a training with other settings ({key} {shown(old)}, not "
            f"{shown(new)}): name another --output."
        )


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
