"""docs/your_own_data.md, command by command, on photographs with COCO's annotations.

The environment variable SVIT_COCO_TINY names a folder in COCO's layout. The network is small and
the steps are few; no number here is a COCO result.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = os.environ.get("SVIT_COCO_TINY", "")
with_photographs = pytest.mark.skipif(
    not FOLDER, reason="SVIT_COCO_TINY names no folder of photographs in COCO's layout"
)
SMALL = (
    "MODEL.DEVICE cpu MODEL.VIT.EMBED_DIM 48 MODEL.ROI_BOX_HEAD.FC_DIM 64 "
    "MODEL.ROI_MASK_HEAD.CONV_DIM 32 MODEL.SIMPLE_PYRAMID.OUT_CHANNELS 32 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 MODEL.RPN.POST_NMS_TOPK_TRAIN 100 "
    "MODEL.RPN.POST_NMS_TOPK_TEST 50 TEST.DETECTIONS_PER_IMAGE 5 INPUT.MIN_SIZE_TRAIN (128,160) "
    "INPUT.MAX_SIZE_TRAIN 224 INPUT.MIN_SIZE_TEST 128 INPUT.MAX_SIZE_TEST 224 "
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.STEPS () DATALOADER.NUM_WORKERS 0"
)
SVIT_DET = f"{sys.executable} -c 'from svit_det.cli.program import main; exit(main())'"


def commands():
    """The bash blocks of the page, one after the other."""
    text = (ROOT / "docs/your_own_data.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)


def few_pictures(source, wanted, count):
    """A COCO json of the first pictures of another."""
    content = json.loads(source.read_text())
    content["images"] = content["images"][:count]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    wanted.write_text(json.dumps(content))
    return content["images"]


def test_the_page_has_its_commands():
    text = "".join(commands())
    assert text.count("svit-det train") == 3
    assert text.count("svit-det predict") == text.count("svit-det visualize") == 1


@with_photographs
@pytest.mark.long
def test_the_page_from_top_to_bottom(tmp_path):
    source = Path(FOLDER)
    (tmp_path / "my/val").mkdir(parents=True)
    (tmp_path / "my/train").symlink_to(source / "train2017")
    (tmp_path / "my/train.json").symlink_to(source / "annotations/instances_train2017.json")
    few = few_pictures(source / "annotations/instances_val2017.json", tmp_path / "my/val.json", 6)
    for image in few:
        (tmp_path / "my/val" / image["file_name"]).symlink_to(
            source / "val2017" / image["file_name"]
        )
    script = "\n".join(commands())
    assert "NUM_CLASSES 3" in script
    script = script.replace("NUM_CLASSES 3", f"NUM_CLASSES 80 {SMALL}")
    # DeiT's weights are not here; everything else runs as it stands.
    script = script.replace("custom/plain_dense $DATA", 'custom/plain_dense $DATA MODEL.WEIGHTS ""')
    run = subprocess.run(
        ["bash", "-euc", f'set -f; svit-det() {{ {SVIT_DET} "$@"; }}; {script}'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    results = json.loads((tmp_path / "output/custom_plain_svit/results.json").read_text())
    assert {"bbox", "segm", "token_usage"} <= set(results)
    assert results["token_usage"]["all"] < 100
    predicted = json.loads((tmp_path / "output/predictions/coco.json").read_text())
    assert len(predicted["images"]) == len(few)
    assert "zebra" in {each["name"] for each in predicted["categories"]}
    drawn = list((tmp_path / "output/pictures").glob("*_keep_maps.png"))
    assert len(drawn) == len(few)


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
