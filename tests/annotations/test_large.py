"""A set of COCO's size is checked in memory that a workstation has.

Numbers of annotations and pictures are those of COCO's training set; every picture is one file.
With `-s` pytest shows the seconds and the memory.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
OBJECTS, IMAGES = 860_001, 118_287
LARGEST = 4 * 10**9
"""Bytes."""

PROGRAM = """
import json, resource, sys, time
from svit_det.annotations import Demands, examine
demands = Demands(trained=True, evaluated=True, masks=True, num_classes=80)
begin = time.perf_counter()
examined = examine(sys.argv[1], sys.argv[2], demands)
elapsed = time.perf_counter() - begin
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    **examined.sizes, "trainable": examined.trainable, "is whole": examined.is_whole,
    "bytes": used.ru_maxrss * 1024, "seconds": round(elapsed),
    "of the processor": round(used.ru_utime + used.ru_stime),
}))
"""


def entries():
    """Annotations as text, with some 50 numbers in the outline as COCO has."""
    draw = random.Random(0)
    outlines = [
        json.dumps(
            [round(draw.uniform(1, 479), 2) for _ in range(2 * draw.choice([8, 20, 30, 60]))]
        )
        for _ in range(500)
    ]
    for number in range(1, OBJECTS + 1):
        box = [round(draw.uniform(1, 230), 2) for _ in range(4)]
        yield (
            f'{{"segmentation": [{outlines[number % 500]}], "area": {box[2] * box[3]:.2f}, '
            f'"iscrowd": 0, "image_id": {1 + number % IMAGES}, "bbox": {box}, '
            f'"category_id": {1 + number % 80}, "id": {number}}}'
        )


@pytest.mark.long
def test_as_many_annotations_as_coco_has(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    images = [
        {"id": n, "file_name": "a.jpg", "height": 480, "width": 640} for n in range(1, IMAGES + 1)
    ]
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, 81)]
    path = tmp_path / "large.json"
    with open(path, "w") as file:
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)},')
        file.write('"annotations": [')
        for number, entry in enumerate(entries()):
            file.write(f",\n{entry}" if number else entry)
        file.write("]}")
    command = [sys.executable, "-c", PROGRAM, str(path), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    path.unlink()
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads(done.stdout)
    assert (found["images"], found["annotations"]) == (IMAGES, OBJECTS)
    assert found["trainable"] == OBJECTS and found["is whole"]
    assert found["bytes"] < LARGEST
