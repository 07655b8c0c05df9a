"""docs/your_own_data.md, block by block: on drawn pictures, and on photographs if there are any.

The environment variable SVIT_COCO_TINY names a folder in COCO's layout. The heads are small, the
steps few and the DeiT random; no number here is a COCO result.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = os.environ.get("SVIT_COCO_TINY", "")
with_photographs = pytest.mark.skipif(
    not FOLDER, reason="SVIT_COCO_TINY names no folder of photographs in COCO's layout"
)
SMALL = (
    "MODEL.DEVICE cpu MODEL.ROI_BOX_HEAD.FC_DIM 64 "
    "MODEL.ROI_MASK_HEAD.CONV_DIM 32 MODEL.SIMPLE_PYRAMID.OUT_CHANNELS 32 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 MODEL.RPN.POST_NMS_TOPK_TRAIN 100 "
    "MODEL.RPN.POST_NMS_TOPK_TEST 50 TEST.DETECTIONS_PER_IMAGE 5 INPUT.MIN_SIZE_TRAIN (128,160) "
    "INPUT.MAX_SIZE_TRAIN 224 INPUT.MIN_SIZE_TEST 128 INPUT.MAX_SIZE_TEST 224 "
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.STEPS () DATALOADER.NUM_WORKERS 0"
)
SVIT_DET = f"{sys.executable} -c 'from svit_det.cli.program import main; exit(main())'"
SHOWN = """
import json
print(json.dumps([len(prediction.instances), len(instances), instances.pred_classes.max().item()]))
"""


def blocks(language):
    """The blocks of the page in this language, one after the other."""
    text = (ROOT / "docs/your_own_data.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def random_deit(path):
    """DeiT-tiny's file, with timm's names and shapes, and random numbers."""
    linear = {"attn.qkv": (576, 192), "attn.proj": (192, 192)}
    linear |= {"mlp.fc1": (768, 192), "mlp.fc2": (192, 768)}
    shapes = {"cls_token": (1, 1, 192), "pos_embed": (1, 197, 192)}
    shapes |= {"patch_embed.proj.weight": (192, 3, 16, 16), "patch_embed.proj.bias": (192,)}
    shapes |= {"head.weight": (1000, 192), "head.bias": (1000,)}
    weights = {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    norms = ["norm"]
    for block in range(12):
        norms += [f"blocks.{block}.norm1", f"blocks.{block}.norm2"]
        for name, shape in linear.items():
            weights[f"blocks.{block}.{name}.weight"] = 0.02 * torch.randn(shape)
            weights[f"blocks.{block}.{name}.bias"] = torch.zeros(shape[0])
    for name in norms:
        weights |= {f"{name}.weight": torch.ones(192), f"{name}.bias": torch.zeros(192)}
    torch.save({"model": weights}, path)


def follow_the_page(folder, classes):
    """Run the page from top to bottom in this folder; returns what its Python found."""
    random_deit(folder / "deit_tiny_patch16_224.pth")
    script = "\n".join(blocks("bash"))
    assert "NUM_CLASSES 3" in script
    script = script.replace("NUM_CLASSES 3", f"NUM_CLASSES {classes} {SMALL}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}

    def run(*command):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    run("bash", "-euc", f'set -f; svit-det() {{ {SVIT_DET} "$@"; }}; {script}')
    picture = next((folder / "my/val").iterdir())
    bgr = f"import cv2\nbgr = cv2.imread({str(picture)!r})\n"
    said = run(sys.executable, "-c", bgr + "\n".join(blocks("python")) + SHOWN)
    return json.loads(said.splitlines()[-1])


def few_pictures(source, wanted, count):
    """A COCO json of the first pictures of another."""
    content = json.loads(source.read_text())
    content["images"] = content["images"][:count]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    wanted.write_text(json.dumps(content))
    return content["images"]


def link_pictures(images, source, folder):
    """The files of these entries of a json, in a folder of their own."""
    folder.mkdir(parents=True)
    for image in images:
        (folder / image["file_name"]).symlink_to(source / image["file_name"])


def check_what_is_there(folder, pictures, some_class):
    """The results of both policies, and the predictions and pictures of SViT."""
    for policy in ("svit", "evit"):
        results = json.loads((folder / f"output/custom_plain_{policy}/results.json").read_text())
        assert {"bbox", "segm", "token_usage"} <= set(results)
        assert results["token_usage"]["all"] < 100
    predicted = json.loads((folder / "output/predictions/coco.json").read_text())
    assert len(predicted["images"]) == pictures
    assert some_class in {each["name"] for each in predicted["categories"]}
    drawn = list((folder / "output/pictures").glob("*_keep_maps.png"))
    assert len(drawn) == pictures


def test_the_page_has_its_blocks():
    text = "".join(blocks("bash"))
    assert text.count("svit-det train") == 5 and text.count("svit-det convert") == 1
    assert text.count("svit-det predict") == text.count("svit-det visualize") == 1
    assert ["Predictor(" in block for block in blocks("python")] == [True, True]
    page = (ROOT / "docs/your_own_data.md").read_text(encoding="utf-8")
    assert not re.search(r"^    svit-det", page, re.M)  # outside the blocks


@pytest.mark.long
def test_the_page_on_drawn_pictures(discs, tmp_path):
    for name in ("train", "val"):
        images = few_pictures(discs / f"{name}.json", tmp_path / f"{name}.json", 8)
        link_pictures(images, discs / "images", tmp_path / "my" / name)
        (tmp_path / f"{name}.json").rename(tmp_path / f"my/{name}.json")
    found = follow_the_page(tmp_path, classes=2)
    assert found[0] > 0 and found[1] > 0 and found[2] < 2
    check_what_is_there(tmp_path, 4, "red")


@with_photographs
@pytest.mark.long
def test_the_page_on_photographs(tmp_path):
    source = Path(FOLDER)
    few = few_pictures(source / "annotations/instances_val2017.json", tmp_path / "val.json", 6)
    link_pictures(few, source / "val2017", tmp_path / "my/val")
    (tmp_path / "val.json").rename(tmp_path / "my/val.json")
    (tmp_path / "my/train").symlink_to(source / "train2017")
    (tmp_path / "my/train.json").symlink_to(source / "annotations/instances_train2017.json")
    found = follow_the_page(tmp_path, classes=80)
    assert found[0] > 0 and found[1] > 0
    check_what_is_there(tmp_path, len(few), "zebra")


# ------------------------------------------------------------------ said before anything is built


def test_a_missing_parent_is_named_with_what_to_do(refused, discs):
    sets = [["my_train", f"{discs}/train.json", f"{discs}/images"]]
    sets.append(["my_val", f"{discs}/val.json", f"{discs}/images"])
    said = refused(
        *("train_net.py", "--config-file", "custom/plain_svit", "DATASETS.COCO_FORMAT", sets),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.DEVICE", "cpu"),
    )
    assert "MODEL.WEIGHTS output/custom_plain_dense/model_final.pth: no such file" in said
    assert "train them first" in said and 'MODEL.WEIGHTS ""' in said


def test_a_recipe_for_a_larger_set_is_named(fork_tool, tiny_yaml):
    run = fork_tool(
        *("train_net.py", "--config-file", tiny_yaml, "MODEL.WEIGHTS", ""),
        *("SOLVER.MAX_ITER", 43980, "OUTPUT_DIR", "/proc/nowhere"),
    )
    assert run.returncode == 1
    assert "43980 steps of 4 show every picture of discs_train" in run.stderr
