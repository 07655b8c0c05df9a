"""Files changed at random places: each reader takes them or refuses them in one sentence.

Derandomised: the same files in every run. `python tests/test_mutated_files.py SECONDS` goes on with
files of its own, as fast as it can, and says how many it tried.
"""

import io
import json
import random
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from svit_det.annotations import Demands, examine
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.images import pictures_of, read_image, size_on_disk
from svit_det.video.reader import Film
from svit_det.video.writer import film_to
from svit_det.weights.files import read_checkpoint

SMALL = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def torch_file(**options):
    stream = io.BytesIO()
    torch.save({"model": WEIGHTS, "iteration": 3}, stream, **options)
    return stream.getvalue()


def picture(name, mode="RGB", **options):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, name, **options)
    return stream.getvalue()


def coco_json():
    mask = {"size": [9, 7], "counts": "0c0:"}
    polygon = [1, 1, 5, 1.5, 5, 6]
    objects = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 5], "area": 9.5, "iscrowd": 0}
        | {"segmentation": shape}
        for n, shape in enumerate([[polygon], mask, {"size": [9, 7], "counts": [3, 60]}], start=1)
    ]
    images = [{"id": 1, "file_name": "picture.png", "height": 9, "width": 7}]
    categories = [{"id": 1, "name": "<script>alert(1)</script>"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    return json.dumps(content).encode()


CONFIG = """
MODEL:
  DEVICE: "cpu"
  VIT: {EMBED_DIM: 32, DEPTH: 3, NUM_HEADS: 2, PRETRAIN_GRID: [8, 8]}
  TOKEN_POLICY:
    NAME: "SViT"
    LAYERS: [1, 2]
    KEEP_RATIOS: [0.7, 0.5]
DATASETS:
  COCO_FORMAT:
    - ["my_train", "set.json", "."]
  TRAIN: &sets ["my_train"]
  TEST: *sets
SOLVER:
  STEPS: (500, 630)
  AMP: {ENABLED: True}
OUTPUT_DIR: "output/here"
"""


def film(name):
    """A film of four frames, from this machine's encoders."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        frames = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8)
        if path.suffix == ".mp4":
            with film_to(path, size=(32, 48), fps=10.0) as h264:
                for frame in frames:
                    h264.add(frame)
        else:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
            for frame in frames:
                writer.write(frame)
            writer.release()
        return path.read_bytes()


FILES = {
    "a.safetensors": lambda: save(WEIGHTS, metadata={"svit_det": '{"steps": 3}'}),
    "a.pth": torch_file,
    "legacy.pth": lambda: torch_file(_use_new_zipfile_serialization=False),
    "picture.png": lambda: picture("PNG"),
    "palette.png": lambda: picture("PNG", "P"),
    "picture.jpg": lambda: picture("JPEG"),
    "picture.tif": lambda: picture("TIFF"),
    "packed.tif": lambda: picture("TIFF", compression="tiff_lzw"),
    "picture.bmp": lambda: picture("BMP"),
    "picture.webp": lambda: picture("WEBP", lossless=True),
    "picture.gif": lambda: picture("GIF"),
    "picture.ppm": lambda: picture("PPM"),
    "picture.jp2": lambda: picture("JPEG2000"),
    "set.json": coco_json,
    "config.yaml": CONFIG.encode,
    "film.avi": lambda: film("film.avi"),
    "film.mp4": lambda: film("film.mp4"),
}


def read(path):
    """As the project does; InputError is the only exception that a file may lead to."""
    if path.suffix == ".json":
        demands = Demands(trained=True, evaluated=True, masks=True, num_classes=1)
        return examine(str(path), str(path.parent), demands)
    if path.suffix in (".pth", ".safetensors"):
        return read_checkpoint(str(path))
    if path.suffix == ".yaml":
        return load_config(str(path))
    if path.suffix in (".avi", ".mp4"):
        return sum(1 for _ in Film.open(path).read()), sum(1 for _ in pictures_of(path))
    size = size_on_disk(path)
    return size, read_image(path, "RGB")


def try_one(path, content):
    """Whether the file was taken; a refusal has to be one sentence that names it."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except InputError as refusal:
            assert path.parent.name in str(refusal) and str(refusal).isprintable(), refusal
            return False
    return True


@pytest.fixture(params=FILES)
def original(request, tmp_path):
    """(path, bytes) of each kind of file, and of a picture for the json beside it."""
    (tmp_path / "picture.png").write_bytes(picture("PNG"))
    return tmp_path / request.param, FILES[request.param]()


def test_the_originals_are_read(original):
    assert try_one(*original)


@SMALL
@given(data=st.data())
def test_changed_bytes(original, data):
    path, content = original
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        # Heads say how large things are: they are hit more often than the rest.
        end = data.draw(st.sampled_from([16, 64, 200, len(changed)]))
        place = data.draw(st.integers(0, min(end, len(changed)) - 1))
        changed[place] = data.draw(st.sampled_from([0, 1, 127, 128, 255, *b'0"[{9-']))
    try_one(path, bytes(changed))


@SMALL
@given(data=st.data())
def test_cut_and_doubled_parts(original, data):
    path, content = original
    start, end = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    part = content[start:end] * data.draw(st.sampled_from([0, 2, 3]))
    try_one(path, content[:start] + part + content[end:])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner)
    ),
    max_leaves=12,
)


@settings(SMALL, max_examples=300)
@given(data=st.data())
def test_values_of_any_kind_in_a_coco_json(tmp_path, data):
    """The check ends, and whatever it lets pass, detectron2's later readers get as they want it."""
    (tmp_path / "picture.png").write_bytes(picture("PNG"))
    content = json.loads(coco_json())
    where = data.draw(st.sampled_from(["images", "annotations", "categories"]))
    entry = data.draw(st.sampled_from(content[where]))
    entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(VALUES)
    path = tmp_path / "set.json"
    try:
        path.write_text(json.dumps(content))
        examined = read(path)
    except InputError as refusal:
        assert str(refusal).isprintable()
        return
    assert examined.is_whole or examined.problems().isprintable() or "\n" not in examined.problems()


# ------------------------------------------------------------------ by hand, for longer


def mutated(random_, content):
    """A few bytes of the first 300, and now and then the length before a safetensors' head."""
    changed = bytearray(content)
    for _ in range(random_.randint(1, 6)):
        changed[random_.randrange(min(len(changed), 300))] = random_.randrange(256)
    if random_.random() < 0.1:
        changed[:8] = struct.pack("<Q", random_.randrange(2 ** random_.choice([8, 16, 40, 64])))
    return bytes(changed)


def main(seconds):
    """Mutate heads of weights until the time is up; an exception that is no InputError ends it."""
    random_, tried, taken = random.Random(time.time_ns()), 0, 0
    names = ["a.safetensors", "a.pth", "legacy.pth"]
    contents = {name: FILES[name]() for name in names}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = names[tried % len(names)]
            taken += try_one(Path(folder) / name, mutated(random_, contents[name]))
            tried += 1
    print(f"{tried:,} files, {taken:,} of them still readable, the others refused in a sentence")


if __name__ == "__main__":
    main(float(sys.argv[1]))
