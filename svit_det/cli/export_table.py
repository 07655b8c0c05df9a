"""The tables of docs/export.md: what exports, how far it is from the model, and the shipped AP.

    python tools/export_table.py [--image-folder FOLDER] [--policies NAME ...] [--skip-ap]

Every policy under both networks at toy size, on real pictures, in every format; then the shipped
detectors, exported and evaluated beside the model itself.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from torch import Tensor, nn
from tqdm import tqdm

from svit_det.cli.export import fixed_count_options
from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.datasets import prepare_datasets
from svit_det.detection.exported import ExportedDetector
from svit_det.detection.trainer import TokenTrainer
from svit_det.errors import InputError
from svit_det.export.backbone import BackboneGraph
from svit_det.export.build import Wanted, export_files, has_fixed_count
from svit_det.export.checks import compare
from svit_det.export.formats import FORMATS
from svit_det.export.quiet import quiet
from svit_det.export.running import load
from svit_det.files import write_whole
from svit_det.images import find_images, read_image, spread_out
from svit_det.policies import POLICY_REGISTRY
from svit_det.vit import find_token_net

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "export.md"
MARKS = "<!-- {} of tools/export_table.py: {} -->"
NETWORKS = {"simple pyramid": "demo/dense.yaml", "ViT-Adapter": "demo/adapter_dense.yaml"}
SIZE = (64, 96)
TOY = (
    *("MODEL.DEVICE", "cpu", "MODEL.VIT.EMBED_DIM", "48", "MODEL.VIT.DEPTH", "6"),
    *("MODEL.ADAPTER.INTERACTIONS", "[[0, 2], [3, 5]]"),
)
SHIPPED = ("dense", "svit", "adapter_svit")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--image-folder", default="datasets/nuclei/val", help="pictures; default: %(default)s")
    add("--policies", nargs="+", default=POLICY_REGISTRY.names(), help="default: every one")
    add("--skip-ap", action="store_true", help="leave the table of the shipped models as it is")
    add("--file", type=Path, default=PAGE, help="default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, then write the tables into the page."""
    try:
        page = args.file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--file {args.file}: cannot be read ({error.strerror}).") from error
    pictures = [picture(path) for path in spread_out(find_images([args.image_folder]), 2)]
    page = with_table(page, "parity", parity_rows(args.policies, pictures), args.file)
    if not args.skip_ap:
        page = with_table(page, "ap", ap_rows(), args.file)
    with write_whole(args.file) as path:
        path.write_text(page, encoding="utf-8")
    return {"file": str(args.file)}


def with_table(page: str, name: str, rows: Iterator[str], path: Path) -> str:
    """The page with new rows between the two marks of this name."""
    begin, end = (MARKS.format(word, name) for word in ("begin", "end"))
    head, begun, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not begun or not ended:
        raise InputError(f"{path} has no place for the table: put '{begin}' and '{end}' there.")
    table = "\n".join(rows)
    return f"{head}{begin}\n\n{table}\n\n{end}{tail}"


def picture(path: Path) -> Tensor:
    """(1, 3, height, width) the upper left corner of a picture, of the toy size."""
    pixels = read_image(path, "RGB")[: SIZE[0], : SIZE[1]]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float()


# ------------------------------------------------------------------ every policy, at toy size


def parity_rows(policies: Sequence[str], pictures: Sequence[Tensor]) -> Iterator[str]:
    """Largest difference of the maps by policy, network and format; or why there is none."""
    yield f"| policy | network | tokens kept | {' | '.join(FORMATS)} |"
    yield "|---" * (3 + len(FORMATS)) + "|"
    cases = [
        (policy, options, network)
        for policy in policies
        for options in dict.fromkeys(((), tuple(fixed_count_options(policy))))
        for network in NETWORKS
    ]
    for policy, options, network in tqdm(cases, desc="exports", unit="model"):
        model = toy_model(policy, options, network, pictures)
        fixed = has_fixed_count(find_token_net(model), SIZE)
        label = f"{policy} `{options[-1]}`" if options else policy
        cells = cells_of(model, pictures)
        kept = "fixed number" if fixed else "by image"
        yield f"| {label} | {network} | {kept} | {' | '.join(cells)} |"


def toy_model(
    policy: str, options: Sequence[str], network: str, pictures: Sequence[Tensor]
) -> nn.Module:
    """A small detector whose weights are far from their start, and whose thresholds divide."""
    cfg = toy_config(policy, options, network)
    torch.manual_seed(0)
    model = build_model(cfg)
    net = find_token_net(model)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        images = (torch.cat(list(pictures)) - model.pixel_mean) / model.pixel_std
        net.trunk.policy.track(net.train()(images)[1])
    return model.eval()


def toy_config(policy: str, options: Sequence[str], network: str) -> CfgNode:
    """The demo's config at toy size; a schedule of its last blocks, where the policy has one."""
    path = str(ROOT / "configs" / NETWORKS[network])
    chosen = [*TOY, "MODEL.TOKEN_POLICY.NAME", policy, *options]
    if "layers" in POLICY_REGISTRY.get(policy).Config.described():
        chosen += ["MODEL.TOKEN_POLICY.LAYERS", "[2, 3, 4]"]
        chosen += ["MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.49, 0.343]"]
    return load_config(path, chosen)


def cells_of(model: nn.Module, pictures: Sequence[Tensor]) -> list[str]:
    """What each format makes of the model's backbone; all from one program where all can."""
    try:
        return exported_cells(model, tuple(FORMATS), pictures)
    except InputError:
        return [cell_or_reason(model, name, pictures) for name in FORMATS]


def cell_or_reason(model: nn.Module, name: str, pictures: Sequence[Tensor]) -> str:
    """What one format makes of it, or why it does not."""
    try:
        return exported_cells(model, (name,), pictures)[0]
    except InputError as problem:
        return f"no: {problem}".replace("|", "/")


def exported_cells(
    model: nn.Module, formats: tuple[str, ...], pictures: Sequence[Tensor]
) -> list[str]:
    """The largest difference of each format's maps from the model's, on real pictures."""
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        export_files(model, Wanted(part="backbone", size=SIZE, formats=formats), Path(folder))
        for name in formats:
            run, _ = load(Path(folder) / f"backbone{FORMATS[name][-1]}")
            parity = compare(BackboneGraph(model), run, pictures)
            cells.append(f"{parity.difference:.0e}" if parity.same_kept else f"no: {parity}")
    return cells


# ------------------------------------------------------------------ the shipped detectors


def ap_rows() -> Iterator[str]:
    """AP of the shipped models, and of their exported files."""
    columns = ["model", *FORMATS]
    yield f"| `nuclei_val`, box / mask AP | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name in tqdm(SHIPPED, desc="shipped", unit="model"):
        cfg = load_config(str(ROOT / f"configs/demo/{name}.yaml"), ["MODEL.DEVICE", "cpu"])
        prepare_datasets(cfg, training=False)
        model = build_model(cfg).eval()
        TokenCheckpointer(model).load(str(ROOT / f"configs/demo/{name}.safetensors"))
        side = cfg.INPUT.MIN_SIZE_TEST
        with tempfile.TemporaryDirectory() as folder:
            export_files(model, Wanted(part="detector", size=(side, side)), Path(folder))
            ends = [endings[-1] for endings in FORMATS.values()]
            arms = [model, *(ExportedDetector(Path(folder) / f"detector{end}") for end in ends)]
            cells = [average_precision(cfg, arm.eval()) for arm in arms]
        yield f"| demo/{name} | {' | '.join(cells)} |"


def average_precision(cfg: CfgNode, model: nn.Module) -> str:
    """Box and mask AP on the config's test set."""
    dataset = cfg.DATASETS.TEST[0]
    with tempfile.TemporaryDirectory() as folder:
        own = cfg.clone()
        own.merge_from_list(["OUTPUT_DIR", folder, "TEST.TOKEN_USAGE", False])
        evaluator = TokenTrainer.build_evaluator(own, dataset)
        loader = TokenTrainer.build_test_loader(cfg, dataset)
        with quiet():
            found = inference_on_dataset(model, loader, evaluator)
    return f"{found['bbox']['AP']:.2f} / {found['segm']['AP']:.2f}"
