"""Shared by the tests of detectron2's side: a tiny model, drawn pictures, clean registries.

The tiny model has patches of 8 pixels and 3 blocks, the last two of them with a gate; its images
are 64 pixels wide or so.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.logger import setup_logger
from PIL import Image
from pycocotools import mask as coco_mask

from svit_det.detection import load_config
from svit_det.export.build import made_up_picture
from svit_det.policies import POLICY_REGISTRY
from svit_det.vit import find_token_net

PROJECT = Path(__file__).resolve().parents[2]
# Seconds after which a tool hangs. The slowest test needs four minutes on a core of its own, and
# several times that on a busy machine.
PATIENCE = 1200

TINY_YAML = """
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  BACKBONE:
    NAME: "build_plain_vit_simple_pyramid_backbone"
  VIT:
    PATCH_SIZE: 8
    EMBED_DIM: 32
    DEPTH: 3
    NUM_HEADS: 2
    PRETRAIN_GRID: [8, 8]
  SIMPLE_PYRAMID:
    SCALE_FACTORS: [2.0, 1.0, 0.5]
    OUT_CHANNELS: 16
    TOP_BLOCK: False
  ANCHOR_GENERATOR:
    SIZES: [[16], [32], [64]]
  RPN:
    IN_FEATURES: ["p2", "p3", "p4"]
    CONV_DIMS: [16]
    POST_NMS_TOPK_TRAIN: 50
    POST_NMS_TOPK_TEST: 20
  ROI_HEADS:
    IN_FEATURES: ["p2", "p3", "p4"]
    NUM_CLASSES: 2
    BATCH_SIZE_PER_IMAGE: 16
    SCORE_THRESH_TEST: 0.0
  ROI_BOX_HEAD:
    NUM_FC: 1
    FC_DIM: 32
    POOLER_SAMPLING_RATIO: 2
  ROI_MASK_HEAD:
    NUM_CONV: 1
    CONV_DIM: 16
    POOLER_SAMPLING_RATIO: 2
DATASETS:
  COCO_FORMAT:
    - ["discs_train", "{data}/train.json", "{data}/images"]
    - ["discs_val", "{data}/val.json", "{data}/images"]
  TRAIN: ("discs_train",)
  TEST: ("discs_val",)
INPUT:
  MIN_SIZE_TRAIN: (64,)
  MIN_SIZE_TEST: 64
  MAX_SIZE_TRAIN: 128
  MAX_SIZE_TEST: 128
  DETR_CROP:
    ENABLED: False
DATALOADER:
  NUM_WORKERS: 0
SOLVER:
  IMS_PER_BATCH: 4
  BASE_LR: 0.001
  MAX_ITER: 3
  STEPS: ()
  WARMUP_ITERS: 0
TEST:
  DETECTIONS_PER_IMAGE: 5
SEED: 1
"""
TINY_POLICY = """
_BASE_: "dense.yaml"
MODEL:
  TOKEN_POLICY:
    NAME: "SViT"
    LAYERS: [1, 2]
    KEEP_RATIOS: [0.7, 0.5]
"""


# ------------------------------------------------------------------ what a test leaves behind


@pytest.fixture(autouse=True)
def clean_detectron():
    """Forget the data sets and the log handlers that a test added."""
    known = set(DatasetCatalog.list())
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "svit_det")]
    before = [(log, log.handlers[:], log.propagate, log.level) for log in loggers]
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
    for name in set(MetadataCatalog.list()) - known:
        MetadataCatalog.remove(name)
    for log, handlers, propagate, level in before:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
    setup_logger.cache_clear()


# ------------------------------------------------------------------ a drawn data set


def disc_polygon(column, row, radius):
    """A disc as a polygon of 24 corners: [x, y, x, y, ...]."""
    angles = np.arange(24) * (2 * np.pi / 24)
    corners = np.stack([column + radius * np.cos(angles), row + radius * np.sin(angles)], axis=1)
    return corners.flatten().round(2).tolist()


def to_rle(mask):
    """(height, width) bool -> compressed RLE with text in it, as json files hold it."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture(scope="session")
def polygon_of_disc():
    """Factory: `polygon_of_disc(column, row, radius)`."""
    return disc_polygon


@pytest.fixture(scope="session")
def rle_of():
    """Factory: `rle_of(mask)`."""
    return to_rle


COLOURS = [(230, 60, 40), (60, 90, 240)]


def draw_set(folder, name, sizes, first_id):
    """Discs in two colours, one per class: class 1 as polygons, class 2 as RLE, two per image.

    The last image has none; the first has a crowd region besides.
    """
    random = np.random.default_rng(first_id)
    (folder / "images").mkdir(exist_ok=True)
    images, annotations = [], []
    for index, (height, width) in enumerate(sizes):
        image_id = first_id + index
        pixels = random.integers(90, 130, (height, width, 3), dtype=np.uint8)
        objects = [] if index == len(sizes) - 1 else [1, 2]
        for category in objects:
            radius = float(random.uniform(8, 12))
            column = (category - 0.5) * width / 2
            row = float(random.uniform(radius, height - radius))
            polygon = disc_polygon(column, row, radius)
            mask = np.zeros((height, width), np.uint8)
            corners = np.array(polygon).reshape(-1, 2).round().astype(np.int32)
            cv2.fillPoly(mask, [corners], 1)
            pixels[mask == 1] = COLOURS[category - 1]
            left, top, *_ = box = cv2.boundingRect(mask)
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(left), float(top), float(box[2]), float(box[3])],
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": [polygon] if category == 1 else to_rle(mask),
                }
            )
        if index == 0:
            mask = np.zeros((height, width), np.uint8)
            mask[:6, :10] = 1
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [0.0, 0.0, 10.0, 6.0],
                    "area": 60.0,
                    "iscrowd": 1,
                    "segmentation": to_rle(mask),
                }
            )
        file_name = f"{name}_{index}.png"
        Image.fromarray(pixels).save(folder / "images" / file_name)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def discs(tmp_path_factory):
    """A folder with train.json, val.json and images/: discs in two colours, some 64 pixels wide."""
    folder = tmp_path_factory.mktemp("discs")
    draw_set(folder, "train", [(64, 64)] * 5 + [(48, 72), (72, 48), (64, 64)], first_id=100)
    draw_set(folder, "val", [(64, 64), (48, 72), (72, 50), (64, 64)], first_id=200)
    draw_set(folder, "equal", [(64, 64)] * 5, first_id=300)
    return folder


# ------------------------------------------------------------------ a tiny model


@pytest.fixture(scope="session")
def tiny_yaml(discs, tmp_path_factory):
    """The config of the tiny model on the drawn data set: Mask R-CNN over an SViT."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    base = (PROJECT / "configs/base/mask_rcnn.yaml").as_posix()
    path.with_name("dense.yaml").write_text(TINY_YAML.format(base=base, data=discs.as_posix()))
    path.write_text(TINY_POLICY)
    return path


@pytest.fixture
def tiny_config(tiny_yaml):
    """Factory: the tiny model's config under overrides KEY, VALUE, ..."""

    def make(*options):
        options = [str(option) for option in options]
        # A schedule may not be set under a policy that has none.
        named = dict(zip(options[::2], options[1::2])).get("MODEL.TOKEN_POLICY.NAME")
        kind = POLICY_REGISTRY.get(named) if named in POLICY_REGISTRY.names() else None
        without = kind is not None and "layers" not in kind.Config.described()
        path = tiny_yaml.with_name("dense.yaml") if without else tiny_yaml
        return load_config(str(path), options)

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Factory: the tiny model under overrides, always with the same initial weights."""

    def make(*options):
        torch.manual_seed(3)
        return build_model(tiny_config(*options))

    return make


@pytest.fixture
def lively_model(tiny_model):
    """Factory: the tiny model with weights far from their start, and thresholds in their midst."""

    def make(*options):
        model = tiny_model(*options).eval()
        net = find_token_net(model)
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            image = (made_up_picture((64, 96), 7) - model.pixel_mean) / model.pixel_std
            net.trunk.policy.track(net.train()(image.expand(2, -1, -1, -1))[1])
        return model.eval()

    return make


@pytest.fixture
def training_input():
    """Factory: random pixels (height, width) with so many square objects of class 0, 1, 0, ..."""

    def make(height, width, num_objects):
        corners = torch.tensor([[4.0 + 9 * i, 6.0, 22.0 + 9 * i, 30.0] for i in range(num_objects)])
        masks = torch.zeros(num_objects, height, width, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, corners.int().tolist()):
            mask[top:bottom, left:right] = True
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(corners.reshape(-1, 4))
        instances.gt_classes = torch.arange(num_objects) % 2
        instances.gt_masks = BitMasks(masks)
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        return {"image": pixels, "instances": instances}

    return make


# ------------------------------------------------------------------ the tools


def environment():
    """Of a tool: our package, no GPU, one thread."""
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run_tool(tmp_path_factory):
    """Factory: run tools/NAME as a user does, in an empty folder."""

    def run(name, *arguments):
        return subprocess.run(
            [sys.executable, str(PROJECT / "tools" / name), *map(str, arguments)],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run


# Imports what the tools import, once; then, for each line of JSON it reads, a fork of it becomes
# the tool. What the tool does, prints and ends with is its own; what is saved are the seconds of
# the imports and of taking them down again.
PREPARED = """
import atexit, json, os, runpy, signal, sys, traceback
import svit_det.detection.pictures, svit_det.detection.trainer, tensorboard

def become(command):
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
            return 1
        return ending.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(order["seconds"])
        os.chdir(order["folder"])
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        status = become(order["command"])
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(status), flush=True)
"""


@pytest.fixture(scope="session")
def prepared():
    """A process that can become any tool."""
    with subprocess.Popen(
        [sys.executable, "-c", PREPARED],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="session")
def fork_tool(prepared, tmp_path_factory):
    """Factory: as `run_tool`, without the seconds that imports take."""

    def run(name, *arguments):
        folder = tmp_path_factory.mktemp("elsewhere")
        command = [str(PROJECT / "tools" / name), *map(str, arguments)]
        order = {"folder": str(folder), "command": command, "seconds": PATIENCE}
        prepared.stdin.write(json.dumps(order) + "\n")
        prepared.stdin.flush()
        status = json.loads(prepared.stdout.readline())
        printed = [(folder / stream).read_text() for stream in ("stdout", "stderr")]
        return subprocess.CompletedProcess(command, status, *printed)

    return run


@pytest.fixture
def refused(fork_tool):
    """Factory: what a tool says, in one sentence and with status 1, about its arguments."""

    def call(name, *arguments):
        run = fork_tool(name, *arguments)
        assert run.returncode == 1, run.stdout + run.stderr
        assert run.stderr.startswith(f"{name}: ")
        assert run.stderr.count("\n") == 1
        return run.stderr.strip()

    return call
