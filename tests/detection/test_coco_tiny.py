"""Real photographs with COCO's own annotations: crowds, tiny objects, grey images and all.

The environment variable SVIT_COCO_TINY names a folder in COCO's layout (annotations/, train2017/,
val2017/). No number here is a COCO result.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from svit_det.detection import load_config
from svit_det.detection.data import TokenDatasetMapper
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.trainer import TokenTrainer

FOLDER = os.environ.get("SVIT_COCO_TINY", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="SVIT_COCO_TINY names no folder of photographs in COCO's layout"
)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NUM_EVALUATED = 8


@pytest.fixture
def small_sets(tmp_path):
    """The training set, and of the validation set a few images, some with a crowd region."""
    annotations = Path(FOLDER) / "annotations"
    content = json.loads((annotations / "instances_val2017.json").read_text())
    crowded = {entry["image_id"] for entry in content["annotations"] if entry["iscrowd"]}
    assert len(crowded) >= 3
    images = sorted(content["images"], key=lambda image: (image["id"] not in crowded, image["id"]))
    # Half of them with a crowd region, half without.
    chosen = images[: NUM_EVALUATED // 2] + images[-NUM_EVALUATED // 2 :]
    ids = {image["id"] for image in chosen}
    content["images"] = chosen
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (tmp_path / "few.json").write_text(json.dumps(content))
    return [
        ["tiny_train", str(annotations / "instances_train2017.json"), f"{FOLDER}/train2017"],
        ["tiny_few", str(tmp_path / "few.json"), f"{FOLDER}/val2017"],
    ]


@pytest.fixture
def cfg(small_sets, tmp_path):
    """SViT-T's config with its 80 classes, a narrow network, and photographs of 160 pixels."""
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.VIT.EMBED_DIM": 48,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
        "MODEL.SIMPLE_PYRAMID.OUT_CHANNELS": 32,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
        "TEST.DETECTIONS_PER_IMAGE": 20,
        "DATASETS.COCO_FORMAT": small_sets,
        "DATASETS.TRAIN": ("tiny_train",),
        "DATASETS.TEST": ("tiny_few",),
        "INPUT.MIN_SIZE_TRAIN": (128, 160),
        "INPUT.MAX_SIZE_TRAIN": 224,
        "INPUT.DETR_CROP.ENABLED": False,
        "INPUT.MIN_SIZE_TEST": 160,
        "INPUT.MAX_SIZE_TEST": 224,
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.AMP.ENABLED": False,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": (),
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.WARMUP_ITERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    pairs = [part for pair in options.items() for part in pair]
    cfg = load_config(str(CONFIGS / "plain_svit_t.yaml"), pairs)
    prepare_datasets(cfg, training=True)
    return cfg


def test_every_photograph_can_be_trained_on(cfg):
    """All images and annotations pass the mapper; masks fill their boxes, crowds are left out."""
    mapper = TokenDatasetMapper(cfg, True)
    records = DatasetCatalog.get("tiny_train")
    assert len(records) >= 80
    deviations = []
    for record in records:
        instances = mapper(record)["instances"]
        wanted = [a for a in record["annotations"] if not a["iscrowd"]]
        # What is small may vanish with the resizing, and nothing else does.
        small = sum(annotation["bbox"][2] * annotation["bbox"][3] < 40 for annotation in wanted)
        assert len(wanted) - small <= len(instances) <= len(wanted)
        if len(instances):
            boxes = instances.gt_boxes.tensor
            drawn = instances.gt_masks.get_bounding_boxes().tensor
            deviations += (drawn - boxes).abs().amax(dim=1).tolist()
    # A few of COCO's own boxes do not fit their masks.
    assert np.quantile(deviations, 0.95) < 2


def test_evaluation_and_training(cfg, tmp_path):
    """AP and usage of an untrained SViT on a few photographs, then two steps of training."""
    torch.manual_seed(0)
    results = TokenTrainer.test(cfg, build_model(cfg))
    names = MetadataCatalog.get("tiny_few").thing_classes
    assert len(names) == 80
    for task in ("bbox", "segm"):
        assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-person"} <= set(results[task])
        assert 0 <= results[task]["AP"] < 20
    usage = results["token_usage"]
    assert set(usage) == {"all", "inside_gt", "outside_gt", "inside_pred", "outside_pred"}
    for name in ("all", "inside_gt", "outside_gt"):
        assert 0 < usage[name] < 100, name

    written = json.loads((tmp_path / "out/token_usage.json").read_text())
    assert len(written["images"]) == NUM_EVALUATED
    shares = written["kept_share_per_block"]
    for name in ("all", "inside_gt", "outside_gt"):
        assert shares[name][:3] == [1.0] * 3  # the first three blocks have no gate
        assert all(0 <= share <= 1 for share in shares[name])
    for image in written["images"]:
        inside, outside = image["inside_gt"]["tokens"], image["outside_gt"]["tokens"]
        assert inside + outside == image["all"]["tokens"] <= 10 * 14
        assert image["inside_gt"]["kept"][0] == inside

    trainer = TokenTrainer(cfg)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    (line, *_) = (tmp_path / "out/metrics.json").read_text().splitlines()
    losses = json.loads(line)
    assert losses["iteration"] == 1
    assert np.isfinite(losses["total_loss"]) and losses["loss_keep_ratio"] > 0
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters())]
    assert sum(moved) > 0.9 * len(moved)


SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "DATASETS.TRAIN": "('tiny_train',)",
    "DATASETS.TEST": "('tiny_few',)",
    "INPUT.MIN_SIZE_TRAIN": "(96, 128)",
    "INPUT.MAX_SIZE_TRAIN": 160,
    "INPUT.DETR_CROP.FINAL_SIZE": 144,
    "INPUT.MIN_SIZE_TEST": 128,
    "INPUT.MAX_SIZE_TEST": 160,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.BASE_LR": 0.0001,
    "SEED": 3,
}


RATIO = {"loss_keep_ratio"}
LOSSES = {
    **dict.fromkeys(("svit", "dynamic_vit", "spvit", "ia_red2"), RATIO),
    "a_vit": {"loss_ponder", "loss_depth_prior"},
    "adavit": {"loss_tokens", "loss_heads", "loss_layers"},
}
OF_POLICIES = set().union(*LOSSES.values())
STATISTICS = {"svit": 1, "evit": 1, "spvit": 1, "ia_red2": 1, "adavit": 3}
"""Counters in the state of a policy: of tracked passes, or of steps."""
QUICK = "plain_svit_t"
SLOW = ["svit_t", "svit_s", "plain_svit_s", "evit_t", "ats_t", "evo_vit_t"]
SLOW += ["plain_svit_t_retinanet", "random_t", "plain_dynamic_vit_t", "plain_spvit_t"]
SLOW += ["plain_a_vit_t", "plain_adavit_t", "ia_red2_t"]
NAMES = [QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in SLOW)]


@pytest.mark.parametrize("name", NAMES)
def test_twenty_iterations_evaluation_and_resuming(name, small_sets, fork_tool, tmp_path):
    """The shipped network and recipe on small pictures, through the tool, stopped after ten steps.

    On a CPU AMP is bfloat16 in the trunk, so that is tried here as well.
    """
    folder = tmp_path / "out"
    options = SMALL | {"OUTPUT_DIR": folder, "DATASETS.COCO_FORMAT": str(small_sets)}
    pairs = [part for pair in options.items() for part in pair]
    config = ["--config-file", CONFIGS / f"{name}.yaml"]
    halfway = ["SOLVER.MAX_ITER", 10, "SOLVER.CHECKPOINT_PERIOD", 10]
    first = fork_tool("train_net.py", *config, *pairs, *halfway, "TEST.EVAL_PERIOD", 0)
    assert first.returncode == 0, first.stdout + first.stderr
    (folder / "results.json").unlink()
    second = fork_tool("train_net.py", *config, "--resume", *pairs, "SOLVER.MAX_ITER", 20)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Starting training from iteration 10" in second.stdout
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    (last,) = [line for line in lines if line.get("iteration") == 19 and "total_loss" in line]
    losses = {key: value for key, value in last.items() if "loss" in key}
    masks = "retinanet" not in name
    policy = name.removeprefix("plain_").removesuffix("_retinanet")[:-2]
    assert {each for each in losses if each in OF_POLICIES} == LOSSES.get(policy, set())
    assert ("loss_mask" in losses) == masks
    assert all(np.isfinite(value) for value in losses.values())
    results = json.loads((folder / "results.json").read_text())
    assert set(results) == {"bbox", "token_usage", *(["segm"] if masks else [])}
    # Whether twenty steps from random weights let a token of A-ViT halt is left to the draw.
    assert 0 < results["token_usage"]["all"] <= 100
    assert results["token_usage"]["all"] < 100 or policy == "a_vit"
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    counters = (".budget.num_batches_tracked", "policy.num_steps")
    tracked = [n for n in saved["model"] if n.endswith(counters)]
    # Twenty passes were tracked; the last step that EViT heard of has the number 19.
    last = {"num_batches_tracked": 20, "num_steps": 19}
    assert all(saved["model"][name] == last[name.rpartition(".")[2]] for name in tracked)
    assert len(tracked) == STATISTICS.get(policy, 0)
    assert all(value.isfinite().all() for value in saved["model"].values())
