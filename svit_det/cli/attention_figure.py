"""What the class token attends to in each block, a dense classifier above a pruned one.

    svit-det attention-figure --dense DENSE.pth --pruned SVIT.pth PICTURE_OR_FOLDER ... \\
        --output DIR

Each file is a model_final.pth of svit-det classify; both models have the same classes. Each
picture gets a sheet DIR/NAME.png in the layout of the supplementary's figure 2: the class token's
attention, as the mean over the heads, with blocks 0 to 5 of a model above its blocks 6 to 11. A
token that is not a key of a block is drawn as skipped. attention_figure.json holds each model's
answer and the number of tokens that each block kept.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from svit_det.classification.images import test_transform
from svit_det.classification.load import read_trained
from svit_det.classification.model import LOGITS, TokenClassifier
from svit_det.cli.execution import problem_of
from svit_det.cli.options import add_device, add_output, add_overwrite
from svit_det.cli.output import OutputFolder, check_output, files_read
from svit_det.cli.stems import Stems
from svit_det.errors import InputError, refuse_url
from svit_det.images import find_images, read_image
from svit_det.policies.attention_probe import AttentionWatch, watched_attention
from svit_det.results import write_json
from svit_det.tokens import PassRecord
from svit_det.visualization.attention_figure import AttentionPanel, draw_attention_figure
from svit_det.visualization.canvas import write_image
from svit_det.weights.class_names import class_names_in
from svit_det.weights.files import DESCRIPTION, read_checkpoint

NUMBERS = "attention_figure.json"
SHOWN = 560
"""Least side in pixels of the picture behind the maps; the network's input may be smaller."""


@dataclass(frozen=True)
class Watched:
    """A trained classifier whose class token is watched."""

    path: str
    cfg: Any
    model: TokenClassifier
    classes: tuple[str, ...]

    @classmethod
    def read(cls, path: str, device: str | None) -> Watched:
        """Load a classifier. Raises InputError for a file that does not say how it was trained."""
        refuse_url(path)
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file.")
        cfg, model = read_trained(path, [] if device is None else ["MODEL.DEVICE", device])
        model.trunk.policy = AttentionWatch(model.trunk.policy)
        known = read_checkpoint(path)[DESCRIPTION].get("classes")
        count = model.num_classes
        names = class_names_in(known, count, source=path) if known else map(str, range(count))
        return cls(path, cfg, model, tuple(names))

    @property
    def name(self) -> str:
        """The policy's name, as the figure shows it."""
        return str(self.cfg.MODEL.TOKEN_POLICY.NAME)

    def caption(self) -> str:
        """Names the weights, the set that they were trained on, and the weights they began from."""
        data = self.cfg.DATA
        trained = f"{self.path}, trained on {Path(data.ROOT).name}/{data.TRAIN}"
        begun = origin_of(self.cfg.MODEL.WEIGHTS)
        return f"{self.name}: {trained}" + (f", begun from {begun}." if begun else ".")

    @torch.no_grad()
    def look(self, path: Path) -> tuple[AttentionPanel, dict[str, Any]]:
        """The panel of one picture, and its numbers for JSON."""
        pixels = _seen(self.cfg.INPUT, path).unsqueeze(0).to(self.cfg.MODEL.DEVICE)
        outputs, record = self.model(pixels)
        shares = outputs[LOGITS][0].float().softmax(dim=0)
        best = int(shares.argmax())
        maps = watched_attention(record)[0].unflatten(1, record.grid.shape).cpu().numpy()
        keys = torch.stack([block.keys[0] for block in record.blocks])
        kept = 100 * float(record.kept_shares().mean())
        says = f"{self.classes[best]} ({100 * float(shares[best]):.0f} %)"
        panel = AttentionPanel(
            title=f"{self.name}: {kept:.0f} % of the tokens kept; its answer: {says}",
            attention=maps,
            keys=keys.unflatten(1, record.grid.shape).cpu().numpy(),
            class_token=_class_token_runs(record),
        )
        found = {"answer": self.classes[best], "share": float(shares[best])}
        found["kept_per_block"] = record.counts()[0].tolist()
        found["attention_on_patches_per_block"] = maps.sum(axis=(1, 2)).tolist()
        found["class_token_ran_per_block"] = panel.class_token.tolist()
        return panel, found


def origin_of(path: str) -> str:
    """The origin of the weights at `path`, as named in the file or in the files it began from."""
    seen = set()
    while path and path not in seen and os.path.isfile(path):
        seen.add(path)
        said = read_checkpoint(path).get(DESCRIPTION, {})
        if "origin" in said:
            return str(said["origin"])
        config = str(said.get("config", ""))
        before = [line for line in config.splitlines() if line.startswith("  WEIGHTS:")]
        path = before[0].partition(":")[2].strip().strip("'\"") if before else ""
    return Path(path).name


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURE", help="image files or folders of them")
    add("--dense", required=True, metavar="FILE", help="the model that keeps every token")
    add("--pruned", required=True, metavar="FILE", help="the one that skips some")
    add_output(parser, "folder for the sheets", required=True, type=Path)
    add_overwrite(parser)
    add_device(parser)
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Draw every picture; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write a sheet for each picture, and the JSON."""
    check_output(args.output, [NUMBERS], overwrite=args.overwrite)
    paths = find_images(args.pictures)
    stems = Stems(paths)
    read = [*paths, *files_read(args)]
    folder = OutputFolder.apart_from(read, args.output, overwrite=args.overwrite)
    folder.check([NUMBERS, *(f"{stems.of(path)}.png" for path in paths)])
    models = [Watched.read(path, args.device) for path in (args.dense, args.pruned)]
    _check_pair(*models)
    captions = " ".join(model.caption() for model in models)
    told: dict[str, Any] = {}
    stopped: InputError | None = None
    try:
        for path in tqdm(paths, desc="pictures", unit="picture"):
            looks = [model.look(path) for model in models]
            if not looks[0][0].keys.all():
                raise InputError(f"--dense {args.dense}: skips tokens; give the dense model.")
            sheet = sheet_of(path, models[0], [panel for panel, _ in looks], captions)
            name = f"{stems.of(path)}.png"
            folder.check([name])
            write_image(folder.path / name, sheet)
            told[str(path)] = {"sheet": name, "dense": looks[0][1], "pruned": looks[1][1]}
    except InputError as problem:
        if not told:
            raise
        stopped = problem  # the numbers of the pictures before it are written all the same
    written = {
        "command": shlex.join(["python", "tools/attention_figure.py", *args.argv]),
        "caption": captions,
        "pictures": told,
    }
    write_json(folder.path / NUMBERS, written)
    print(f"{len(told)} sheets and {NUMBERS} are in {args.output}")
    if stopped is not None:
        raise stopped
    return written


def sheet_of(
    path: Path, watched: Watched, panels: Sequence[AttentionPanel], captions: str
) -> np.ndarray:
    """The sheet of one picture, as the network of `watched` sees it."""
    return draw_attention_figure(
        shown(watched.cfg.INPUT, path),
        panels,
        grid=_grid(watched),
        caption=f"Where the class token looks in each block, mean over its heads; {path.name}. "
        + captions,
    )


def shown(given: Any, path: Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB: what the network sees of the picture, with sides of SHOWN or more."""
    large = given.clone()
    large.SIZE = max(SHOWN, given.SIZE)
    pixels = _seen(large, path)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (given.MEAN, given.STD))
    return (pixels * std + mean).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


def _seen(given: Any, path: Path) -> Tensor:
    return test_transform(given)(Image.fromarray(read_image(path, "RGB")))


def _grid(watched: Watched) -> Any:
    size = watched.cfg.INPUT.SIZE
    return watched.model.grid_of(size, size)


def _class_token_runs(record: PassRecord) -> np.ndarray:
    """(L,) bool: the blocks that the class token of the first image runs in."""
    extra = [block.selection.extra for block in record.blocks]
    return np.array([each is None or bool(each[0, 0]) for each in extra])


def _check_pair(dense: Watched, pruned: Watched) -> None:
    """Raise InputError for two models that one sheet cannot compare."""
    if dense.classes != pruned.classes:
        raise InputError(
            f"--pruned {pruned.path}: trained for other classes than --dense {dense.path}."
        )
    for key in ("SIZE", "CROP_SHARE"):
        ours, theirs = (getattr(each.cfg.INPUT, key) for each in (dense, pruned))
        if ours != theirs:
            raise InputError(
                f"--pruned {pruned.path}: sees pictures with INPUT.{key} {theirs}, --dense "
                f"{dense.path} with {ours}."
            )
    if _grid(dense) != _grid(pruned) or dense.model.trunk.depth != pruned.model.trunk.depth:
        raise InputError(
            f"--pruned {pruned.path}: has another depth or patch size than --dense {dense.path}."
        )
