"""Reading a yaml with its bases: plain values only, each key once, within limits of size.

Every refusal names the file, and the key or the line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from svit_det.errors import InputError
from svit_det.settings import shown

BASE = "_BASE_"
MOST_BYTES = 200_000
"""A run's whole config.yaml has 10,000 bytes; reading MOST_BYTES takes seconds."""
MOST_VALUES = 20_000
"""Most values of a file, with every alias written out."""
DEEPEST = 30
"""Most lists and nodes inside each other, and most bases above each other."""
MOST_FILES = 100
"""Most files of a config with its bases, a file counted as often as it is named."""
KINDS = ("str", "int", "float", "bool", "null", "seq", "map")
PLAIN = frozenset(f"tag:yaml.org,2002:{kind}" for kind in KINDS)
NUMBERS = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "null"}
"""What a text stands for where it is a value of this kind."""
OCTAL = re.compile(r"[+-]?0[0-7_]+")


def read_yaml(path: str, sources: dict[str, str] | None = None) -> dict[str, Any]:
    """The yaml at `path` over its bases, as plain values by nested keys.

    `_BASE_` names one file or a list of files, relative to the folder of the file that holds it. A
    later value replaces an earlier one. `sources` gets for each key the file that sets it. Raises
    InputError.
    """
    return _Reader({} if sources is None else sources).read(path)


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """The plain values of a config that stands in another file, such as a file of weights.

    The limits are those of `read_yaml`; such a config has no bases. Raises InputError that names
    `source`.
    """
    if len(text) > MOST_BYTES:
        raise InputError(f"{source}: a config of more than {MOST_BYTES:,} bytes cannot be meant.")
    values = _parse(text, source)
    if BASE in values:
        raise InputError(f"{source}: a config inside another file names no {BASE}.")
    return values


class _Reader:
    """Reads a file with its bases, which may name the same file more than once."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        self.files = 0

    def read(self, path: str, *, above: tuple[str, ...] = ()) -> dict[str, Any]:
        """The values of the file over those of its bases; `above`: the files that led here."""
        place = _place(path)
        if place in above:
            raise InputError(f"{path}: its {BASE} leads back to itself.")
        if len(above) > DEEPEST:
            raise InputError(f"{path}: more than {DEEPEST} bases stand above each other.")
        self.files += 1
        if self.files > MOST_FILES:
            first = above[0] if above else path
            raise InputError(f"{first}: its {BASE} leads to more than {MOST_FILES} files.")
        own = _values(path)
        given = own.pop(BASE, [])
        bases = [given] if isinstance(given, str) else given
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise InputError(f"{path}: {BASE} names a file or a list of files, not {shown(given)}.")
        merged: dict[str, Any] = {}
        for base in bases:
            below = os.path.join(os.path.dirname(path), os.path.expanduser(base))
            _merge(self.read(below, above=(*above, place)), merged, path)
        _merge(own, merged, path)
        self.sources.update((key, path) for key in _full_keys(own))
        return merged


def _place(path: str) -> str:
    """The path without links. Raises InputError for a text that no file can have as its name."""
    try:
        return os.path.realpath(path)
    except ValueError as error:
        what = "a null byte" if "\0" in path else "a character that no name can hold"
        raise InputError(f"{shown(path)}: no file has {what} in its name.") from error


def _full_keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _full_keys(value, f"{prefix}{name}.")


def _merge(new: dict[str, Any], old: dict[str, Any], path: str, prefix: str = "") -> None:
    """Put `new` over `old`, in place."""
    for name, value in new.items():
        if isinstance(value, dict) and name in old:
            if not isinstance(old[name], dict):
                raise InputError(f"{path}: {prefix}{name} holds keys, but a value in its {BASE}.")
            _merge(value, old[name], path, f"{prefix}{name}.")
        else:
            old[name] = value


# ------------------------------------------------------------------ one file


def _values(path: str) -> dict[str, Any]:
    """The values of one file, without its bases."""
    return _parse(_text(path), path)


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        loader = _ShallowLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise InputError(f"{path}: is empty; a config holds keys with values.")
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{path}: a config holds keys with values, unlike this file.")
        _Measure(path, loader).check(node)
        return loader.construct_document(node)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path}: its lists or nodes are nested too deeply.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: not a readable yaml config ({reason}).") from error


def _text(path: str) -> str:
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            what = "a folder" if os.path.isdir(path) else "no ordinary file"
            raise InputError(f"{path}: is {what}; name a yaml file.")
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable yaml config ({reason}).") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: a config of more than {MOST_BYTES:,} bytes cannot be meant.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8."
        ) from error


class _ShallowLoader(yaml.SafeLoader):
    """A loader that stops at once where lists and nodes are nested too deeply."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        self.depth += 1
        if self.depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


# Yaml 1.1 takes 1e9 for a text, because it has no point. yacs reads such a text as a number, but
# not inside of a list.
_ShallowLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class _Measure:
    """Refuses, before any value is built, everything that a plain config does not have."""

    def __init__(self, path: str, loader: _ShallowLoader) -> None:
        self.path = path
        self.loader = loader
        self.known: dict[int, tuple[int, int]] = {}
        self.open: set[int] = set()

    def check(self, node: yaml.Node, key: str = "") -> tuple[int, int]:
        """The number of the node's values, with all aliases written out, and their depth."""
        if id(node) in self.known:
            return self.known[id(node)]
        if id(node) in self.open:
            raise self._refusal(key, node, "an alias leads back to itself")
        self.open.add(id(node))
        self._check_tag(key, node)
        size, depth = 1, 0
        for name, entry in self._entries(key, node):
            more, below = self.check(entry, name)
            size, depth = size + more, max(depth, below + 1)
            if depth > DEEPEST:
                raise self._refusal(key, node, f"its aliases nest more than {DEEPEST} deep")
            if size > MOST_VALUES:
                many = f"more than {MOST_VALUES:,} values, aliases written out, cannot be meant"
                raise self._refusal(key, node, many)
        self.open.discard(id(node))
        self.known[id(node)] = size, depth
        return size, depth

    def _entries(self, key: str, node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
        """The entries of a node, each with the key that it belongs to."""
        if isinstance(node, yaml.SequenceNode):
            yield from ((key, entry) for entry in node.value)
        if not isinstance(node, yaml.MappingNode):
            return
        lines: dict[str, int] = {}
        for name, value in node.value:
            is_merge = name.tag == "tag:yaml.org,2002:merge"
            if name.tag != "tag:yaml.org,2002:str" and not is_merge:
                what = shown(name.value) if isinstance(name, yaml.ScalarNode) else "a list"
                raise self._refusal(key, name, f"{what} is no name of a key")
            full, line = f"{key}.{name.value}".lstrip("."), name.start_mark.line + 1
            if name.value in lines:
                twice = f"stands twice, in lines {lines[name.value]} and {line}; remove one"
                raise InputError(f"{self.path}: {shown(full)[1:-1]} {twice}.")
            lines[name.value] = line
            yield key if is_merge else full, value

    def _check_tag(self, key: str, node: yaml.Node) -> None:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if node.tag in PLAIN:
            if isinstance(node, yaml.ScalarNode) and kind in NUMBERS:
                self._check_number(key, node, kind)
            return
        if kind == "timestamp":
            raise self._refusal(key, node, f"{node.value} is read as a date; put it in quotes")
        tag = "python tag" if kind.startswith("python/") else "tag"
        plain = f"a config holds plain values only; remove the {tag} {shown(kind)}"
        raise self._refusal(key, node, plain)

    def _check_number(self, key: str, node: yaml.ScalarNode, kind: str) -> None:
        """Refuse a text that is not of the kind of its tag, and numbers that yaml 1.1 reads oddly.

        Such a number is 10:40, which is 640, or 0640, which is 416.
        """
        text = node.value
        meant = self.loader.resolve(yaml.ScalarNode, text, (True, False))
        if meant != node.tag and not (kind == "float" and meant.endswith(":int")):
            raise self._refusal(key, node, f"{shown(text)} is not {NUMBERS[kind]}, as its tag says")
        if kind in ("int", "float") and (":" in text or OCTAL.fullmatch(text)):
            base = "60" if ":" in text else "8"
            odd = f"{shown(text)} is read to the base {base}; write a plain number, or use quotes"
            raise self._refusal(key, node, odd)

    def _refusal(self, key: str, node: yaml.Node, problem: str) -> InputError:
        where = f"{shown(key)[1:-1]}, " if key else ""
        return InputError(f"{self.path}: {where}line {node.start_mark.line + 1}: {problem}.")
