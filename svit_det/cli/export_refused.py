"""What `svit-det export` refuses, in its own words: the tool is asked for each, at toy size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detectron2.modeling import build_model
from tqdm import tqdm

from svit_det.cli import export
from svit_det.cli.export_toy import CONFIGS, NETWORKS, SIZE, toy_options
from svit_det.config.declared import node_of
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.export.build import has_fixed_count
from svit_det.policies import POLICY_REGISTRY
from svit_det.vit import find_token_net
from svit_det.weights.files import write_weights

HEAD = ("| asked for | of | refused because |", "|---" * 3 + "|")
TAKEN = "NOT REFUSED"
PYRAMID = NETWORKS["simple pyramid"]
BUDGET = ("--budget", "0.5")
BACKBONE = ("--part", "backbone")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One export that is refused."""

    what: str
    """In words for the table, `of` likewise."""
    of: str
    policy: str = "Dense"
    config: str = PYRAMID
    options: tuple[str, ...] = ()
    """Overrides of the config."""
    words: tuple[str, ...] = ()
    """Of the command line."""


OTHERS = (
    Asked(
        what="the whole detector",
        of="Cascade R-CNN",
        options=(
            *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
            *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
        ),
    ),
    Asked(what="the whole detector", of="RetinaNet", config="plain_dense_t_retinanet.yaml"),
    Asked(what="`--batch 2`", of="whole detectors", words=("--batch", "2")),
    Asked(what="`--no-topk`", of="whole detectors", words=("--no-topk",)),
    Asked(what="`--opset 23`", of="whole detectors", words=("--opset", "23")),
    Asked(what="`--dynamic-size`", of="ATS", policy="ATS", words=(*BACKBONE, "--dynamic-size")),
)


def refused_rows() -> Iterator[str]:
    """Head and rows: what was asked for, of which model, and the sentence of the refusal."""
    yield from HEAD
    for asked in tqdm(list(everything()), desc="refused", unit="export"):
        yield f"| {asked.what} | {asked.of} | {in_a_cell(refusal(asked))} |"


def everything() -> Iterator[Asked]:
    """All exports of the table: what every policy is asked for, then the others."""
    for policy in POLICY_REGISTRY.names():
        mode = POLICY_REGISTRY.get(policy).Config.described().get("mode")
        if mode is not None and "sample" in (mode.choices or ()):
            options = (f"{node_of(policy)}.MODE", "sample")
            yield Asked(what="the mode `sample`", of=policy, policy=policy, options=options)
        fixed = export.fixed_count_options(policy)
        if not export.has_budget(policy) or counts_by_image(policy, *fixed):
            yield Asked(what="`--budget 0.5`", of=policy, policy=policy, words=BUDGET)
        if not fixed and counts_by_image(policy):
            words = (*BACKBONE, "--batch", "2")
            yield Asked(what="`--batch 2`", of=policy, policy=policy, words=words)
    yield from OTHERS


def counts_by_image(policy: str, *options: str) -> bool:
    """Whether the number of tokens depends on the image under these overrides."""
    cfg = load_config(str(CONFIGS / PYRAMID), [*toy_options(policy), *options])
    return not has_fixed_count(find_token_net(build_model(cfg).eval()), SIZE)


def refusal(asked: Asked) -> str:
    """The sentence with which the tool refuses; `TAKEN` where it exports."""
    path = str(CONFIGS / asked.config)
    options = [*toy_options(asked.policy), *asked.options]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.pth"
        write_weights(build_model(load_config(path, options)).state_dict(), weights)
        words = ["--weights", str(weights), "--output", str(Path(folder) / "exported")]
        words += ["--config-file", path, "--formats", "onnx", *asked.words]
        words += ["--size", *map(str, SIZE), *options]
        try:
            export.run(export.build_parser().parse_args(words))
        except InputError as problem:
            return str(problem).replace(f"{CONFIGS.parent}/", "")
    return TAKEN


def in_a_cell(text: str) -> str:
    """The text for a cell of a table: it makes neither a column nor a link."""
    return text.replace("|", "/").replace("[", "\\[")
