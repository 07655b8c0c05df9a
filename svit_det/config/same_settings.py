"""Two configs as text, compared key by key: a resumed training has the first one's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from svit_det.config.yaml_file import parse_yaml

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


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
