"""The pictures of a report: where they are, what they are called, and which ones the page shows."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from svit_det.detection.datasets import register_datasets
from svit_det.detection.usage_picture import Annotations
from svit_det.errors import InputError
from svit_det.images import find_images, spread_out
from svit_det.report.page import Shown
from svit_det.visualization import UsagePicture


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of the report, their annotations, and the words that say where they are from."""

    paths: list[Path]
    annotations: Annotations | None
    source: str

    @property
    def jsons(self) -> list[str]:
        """The files of annotations that are read."""
        return [] if self.annotations is None else [self.annotations.json_file]


def find_pictures(given: Sequence[str], args: argparse.Namespace, cfg: CfgNode) -> Pictures:
    """The given pictures, or the pictures of the first test set with their annotations."""
    source, annotations = "the given images", None
    if args.annotations:
        annotations = Annotations(args.annotations)
    if given:
        paths = find_images(given)
    else:
        register_datasets(cfg)
        name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
        metadata = MetadataCatalog.get(name)
        if not hasattr(metadata, "image_root"):
            raise InputError(
                "No picture is named, and the config has no test set: give files or folders."
            )
        if annotations is None:
            annotations = Annotations(metadata.json_file, skip_bad=cfg.DATASETS.SKIP_BAD)
        source = f"the set {name}"
        paths = [Path(metadata.image_root, each) for each in annotations.file_names]
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise InputError(f"{metadata.image_root}: none of the set's images is in this folder.")
    total = len(paths)
    if args.limit is not None and args.limit < total:
        paths = spread_out(paths, args.limit)
        source += f", {len(paths)} of {total}"
    return Pictures(paths=paths, annotations=annotations, source=source)


def name_of(path: Path, paths: Sequence[Path]) -> str:
    """The file's name; the whole path where another picture has the same name."""
    same = [other for other in paths if other.name == path.name]
    return path.name if len(same) == 1 else str(path)


class ShownPictures:
    """The pictures that the page shows. One that cannot be used leaves its place to the next."""

    def __init__(self, wanted: Iterable[Path]) -> None:
        self._wanted = set(wanted)
        self._owed = 0
        self._found: dict[Path, list[UsagePicture]] = {}

    def offer(self, path: Path, picture: UsagePicture | None) -> None:
        """Keep the picture if it is wanted; None: it cannot be used."""
        if picture is None:
            self._owed += path in self._wanted
            return
        if self._owed and path not in self._wanted:
            self._wanted.add(path)
            self._owed -= 1
        if path in self._wanted:
            self._found.setdefault(path, []).append(picture)

    def under(self, models: int) -> list[Shown]:
        """The pictures that every model has run on."""
        found = [each for each in self._found.values() if len(each) == models]
        return [Shown(name=each[0].name, pictures=each) for each in found]
