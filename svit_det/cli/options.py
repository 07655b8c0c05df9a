"""Options that several commands have, spelled and explained once.

| option | meaning |
| --- | --- |
| `--config-file` | a yaml, or the name of one that ships |
| `--weights` | a .pth or .safetensors file |
| `--output` | the folder, or the one file, that results go to |
| `--overwrite` | replace results that are there |
| `--allow-untrained` | run although gates or heads have no trained weights |
| `--device` | cpu or cuda |
| `KEY VALUE ...` | config overrides, last |
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")
TOP_LEVEL_KEYS = ("OUTPUT_DIR", "SEED", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK")


def add_config_file(parser: argparse.ArgumentParser, meaning: str, **others: Any) -> None:
    """--config-file; `meaning` is its help."""
    help_ = f"{meaning}: a yaml, or the name of one that ships, such as svit_t"
    parser.add_argument("--config-file", metavar="FILE", help=help_, **others)


def add_weights(parser: argparse.ArgumentParser, meaning: str, **others: Any) -> None:
    """--weights."""
    help_ = f"{meaning}: a .safetensors or .pth file"
    parser.add_argument("--weights", metavar="FILE", help=help_, **others)


def add_output(parser: argparse.ArgumentParser, meaning: str, **others: Any) -> None:
    """--output."""
    parser.add_argument("--output", metavar="PATH", help=meaning, **others)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """--overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")


def add_allow_untrained(parser: argparse.ArgumentParser) -> None:
    """--allow-untrained."""
    help_ = "run or export although gates or heads hold random numbers"
    parser.add_argument("--allow-untrained", action="store_true", help=help_)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    help_ = "cpu or cuda; default: cuda where there is one"
    parser.add_argument("--device", metavar="DEVICE", help=help_)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """KEY VALUE ... at the end."""
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, last")


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """PICTURES and, behind them, KEY VALUE ...; `pictures_of` separates pictures and overrides."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PICTURE",
        help="files or folders, and behind them config overrides: KEY VALUE ...",
    )
    # An older spelling, from the time before `svit-det`.
    parser.add_argument("--input", nargs="+", default=[], help=argparse.SUPPRESS)


def pictures_of(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The pictures of a command line, and its overrides."""
    return split_pictures([*args.input, *args.words])


def split_pictures(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Pictures, then overrides, which begin with the first word that is spelled like a config key.

    A word that names a file or folder is a picture, however it is spelled.
    """
    for at, word in enumerate(words):
        is_key = KEY.fullmatch(word) or word in TOP_LEVEL_KEYS
        if is_key and not os.path.exists(word):
            return list(words[:at]), list(words[at:])
    return list(words), []
