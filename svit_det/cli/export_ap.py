"""AP of the shipped detectors, and of their exported files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from torch import nn
from tqdm import tqdm

from svit_det.cli.export_calibration import calibration_pictures
from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.exported import ExportedDetector
from svit_det.detection.trainer import TokenTrainer
from svit_det.export.build import Wanted, export_files
from svit_det.export.formats import FORMATS
from svit_det.export.quiet import quiet
from svit_det.files import scratch_folder

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("dense", "svit", "adapter_svit")
REDUCED = ("onnx", "openvino")
"""The formats that also have a reduced precision."""


def ap_rows(shipped: Sequence[str] = SHIPPED, options: Sequence[str] = ()) -> Iterator[str]:
    """Head and rows with the AP of shipped models, and of their exported files.

    `options`: KEY, VALUE, ... overrides of their configs, such as another test set.
    """
    columns = ["model", *FORMATS, "onnx, int8", "openvino, bfloat16"]
    yield f"| `nuclei_val`, box / mask AP | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name in tqdm(shipped, desc="shipped", unit="model"):
        overrides = ["MODEL.DEVICE", "cpu", *options]
        cfg = load_config(str(ROOT / f"configs/demo/{name}.yaml"), overrides)
        prepare_datasets(cfg, training=False)
        model = build_model(cfg).eval()
        TokenCheckpointer(model).load(str(ROOT / f"configs/demo/{name}.safetensors"))
        with scratch_folder() as folder:
            arms = [model, *exported_arms(cfg, model, folder)]
            cells = [average_precision(cfg, arm.eval()) for arm in arms]
        yield f"| demo/{name} | {' | '.join(cells)} |"


def exported_arms(cfg: CfgNode, model: nn.Module, folder: Path) -> list[nn.Module]:
    """The exported detectors: every format in float32, then the reduced precisions."""
    size = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST)
    exact = Wanted(part="detector", size=size)
    pictures = calibration_pictures(cfg, None, size=size, batch=1)
    reduced = replace(exact, formats=REDUCED, int8=pictures, bf16=True)
    arms: list[nn.Module] = []
    source: Path | None = None
    for number, wanted in enumerate((exact, reduced)):
        place = folder / str(number)
        place.mkdir()
        export_files(model, wanted, place, source=source)
        source = place / f"detector{FORMATS['onnx'][-1]}"
        ends = [FORMATS[name][-1] for name in wanted.formats]
        arms += [ExportedDetector(place / f"detector{end}") for end in ends]
    return arms


def average_precision(cfg: CfgNode, model: nn.Module) -> str:
    """Box and mask AP on the config's test set."""
    dataset = cfg.DATASETS.TEST[0]
    with scratch_folder() as folder:
        own = cfg.clone()
        own.merge_from_list(["OUTPUT_DIR", str(folder), "TEST.TOKEN_USAGE", False])
        evaluator = TokenTrainer.build_evaluator(own, dataset)
        loader = TokenTrainer.build_test_loader(cfg, dataset)
        with quiet():
            found = inference_on_dataset(model, loader, evaluator)
    return f"{found['bbox']['AP']:.2f} / {found['segm']['AP']:.2f}"
