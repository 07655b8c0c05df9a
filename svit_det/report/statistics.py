"""Statistics of one model over a set of pictures: by block, by object size, by class.

L blocks. Pictures are added one by one and are not kept, so that a set of any length fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svit_det.visualization import Objects, UsagePicture
from svit_det.visualization.objects import SIZES, size_of


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """The numbers of one picture; shares are means over all blocks, from 0 to 1, or nan."""

    name: str
    found: int
    kept: float
    """Kept share of all block runs."""
    on_found: float
    off_found: float
    on_annotated: float
    off_annotated: float
    reactivated: float
    """Share of the kept block runs that reactivated their token."""
    macs: float
    """Multiply-adds of the trunk over those of a dense trunk."""


@dataclass(frozen=True, kw_only=True)
class ObjectRow:
    """One object: COCO's word for its size, its class, and its kept share averaged over blocks."""

    size: str
    name: str
    kept: float
    picture: str
    """The name of the object's picture."""


@dataclass(kw_only=True)
class ArmStatistics:
    """What one model did on every picture of the set."""

    label: str
    """The model's name on the page."""
    about: str = ""
    """Policy and weights, for people."""
    rows: list[PictureRow] = field(default_factory=list)
    objects: list[ObjectRow] = field(default_factory=list)
    object_source: str = ""
    """The source of the objects: annotations, detections, or both where some pictures have no
    annotations."""
    _shares: list[np.ndarray] = field(default_factory=list)
    _on: list[np.ndarray] = field(default_factory=list)
    _off: list[np.ndarray] = field(default_factory=list)
    _counts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, picture: UsagePicture) -> PictureRow:
        """Add the numbers of one picture."""
        known = picture.annotated is not None
        source = "annotations" if known else "detections"
        if self.object_source not in ("", source):
            source = "annotations where there are any, else detections"
        self.object_source = source
        splits = [_split(picture, each) for each in (picture.found, picture.annotated)]
        objects = picture.annotated if known else picture.found
        on, off = splits[1 if known else 0]
        back = picture.reactivated_shares()
        kept = picture.keep.sum(axis=(1, 2))
        row = PictureRow(
            name=picture.name,
            found=0 if picture.found is None else len(picture.found),
            kept=float(picture.shares.mean()),
            on_found=float(splits[0][0].mean()),
            off_found=float(splits[0][1].mean()),
            on_annotated=float(splits[1][0].mean()),
            off_annotated=float(splits[1][1].mean()),
            reactivated=float((back * kept).sum() / max(kept.sum(), 1)),
            macs=picture.macs[0] / picture.macs[1] if picture.macs else float("nan"),
        )
        self.rows.append(row)
        self._shares.append(picture.shares)
        self._on.append(on)
        self._off.append(off)
        self._counts.append((back * kept, kept))
        if objects is not None:
            usage = picture.object_usage(objects).mean(axis=1)
            areas = objects.areas(picture.size)
            self.objects += [
                ObjectRow(
                    size=size_of(int(area)),
                    name=objects.name(index),
                    kept=float(share),
                    picture=picture.name,
                )
                for index, (area, share) in enumerate(zip(areas, usage, strict=True))
                if np.isfinite(share)
            ]
        return row

    def drop(self, name: str) -> None:
        """Forget the picture of this name, so that two models count the same pictures."""
        lists: tuple[list[Any], ...] = (self._shares, self._on, self._off, self._counts, self.rows)
        for index in [place for place, row in enumerate(self.rows) if row.name == name]:
            for numbers in lists:
                del numbers[index]
        self.objects = [row for row in self.objects if row.picture != name]

    @property
    def shares(self) -> np.ndarray:
        """(3, L): the lower quartile, mean and upper quartile of the kept share over pictures."""
        table = np.stack(self._shares)
        low, high = np.percentile(table, (25, 75), axis=0)
        return np.stack([low, table.mean(axis=0), high])

    @property
    def on_and_off(self) -> np.ndarray:
        """(2, L) kept shares on the objects and off them; each the mean over pictures that have
        such tokens."""
        return np.stack([_mean(self._on), _mean(self._off)])

    @property
    def reactivated(self) -> np.ndarray:
        """(L,) share of reactivated tokens among the kept tokens, over all pictures."""
        back, kept = (np.sum([pair[i] for pair in self._counts], axis=0) for i in (0, 1))
        shares: np.ndarray = back / np.maximum(kept, 1)
        return shares

    def by_size(self) -> dict[str, tuple[float, int]]:
        """Small, medium, large -> mean kept share (nan for none) and number of objects."""
        return self._grouped(SIZES, lambda row: row.size)

    def by_class(self) -> dict[str, tuple[float, int]]:
        """Class -> mean kept share and number of objects, the most frequent class first."""
        names = [row.name for row in self.objects]
        order = sorted(set(names), key=lambda name: (-names.count(name), name))
        return self._grouped(order, lambda row: row.name)

    def _grouped(
        self, keys: Any, key_of: Callable[[ObjectRow], str]
    ) -> dict[str, tuple[float, int]]:
        groups: dict[str, list[float]] = {key: [] for key in keys}
        for row in self.objects:
            groups[key_of(row)].append(row.kept)
        return {
            key: (float(np.mean(each)) if each else float("nan"), len(each))
            for key, each in groups.items()
        }

    def as_json(self) -> dict[str, Any]:
        """All statistics as plain values."""
        return {
            "label": self.label,
            "about": self.about,
            "kept_share_per_block": self.shares[1].tolist(),
            "kept_share_quartiles": self.shares[::2].tolist(),
            "on_objects_per_block": self.on_and_off[0].tolist(),
            "off_objects_per_block": self.on_and_off[1].tolist(),
            "reactivated_share_per_block": self.reactivated.tolist(),
            "object_source": self.object_source,
            "kept_share_by_size": self.by_size(),
            "kept_share_by_class": self.by_class(),
            "pictures": [vars(row) for row in self.rows],
        }


def _split(picture: UsagePicture, objects: Objects | None) -> np.ndarray:
    if objects is None:
        return np.full((2, picture.layers), np.nan)
    return picture.split(objects)


def _mean(rows: list[np.ndarray]) -> np.ndarray:
    known = [row for row in rows if np.isfinite(row).all()]
    return np.mean(known, axis=0) if known else np.full_like(rows[0], np.nan)
