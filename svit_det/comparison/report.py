"""A comparison as a table for people, and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from svit_det.comparison.measures import budgets_of, mean_of
from svit_det.detection.pictures import write_pictures
from svit_det.detection.predictor import TokenPredictor
from svit_det.results import spread
from svit_det.visualization.comparison_charts import (
    Point,
    draw_quality_over_cost,
    draw_share_table,
)


def quality_table(results: Mapping[str, Mapping[str, Any]], controls: Sequence[str]) -> str:
    """AP, cost and time, one line per arm, and the distance to each control at equal cost."""
    headers = ["arm", "box AP", "mask AP", "trunk GMACs", "all GMACs", "ms", "baseline / this"]
    headers += [f"box, mask over {control}" for control in controls]
    lines = []
    for name, found in results.items():
        line = [name, spread(found, "box_ap"), spread(found, "mask_ap")]
        line += [spread(found, "trunk_gmacs", 2), f"{found['gmacs']['detector']:.2f}"]
        line.append(f"{1000 * found['seconds']['median']:.0f}")
        ratio = found.get("speed_up_over_baseline")
        line.append(
            f"x{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
        )
        for control in controls:
            over = found.get(f"over_{control}")
            line.append(f"{over['box_ap']:+.1f}, {over['mask_ap']:+.1f}" if over else "-")
        lines.append(line)
    return tabulate(lines, headers=headers, disable_numparse=True)


def usage_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Usage of tokens, one line per arm."""
    headers = ["arm", "kept %", "on objects %", "off objects %", "overlap %", "returning %"]
    keys = ("kept", "kept_on_objects", "kept_off_objects", "overlap", "returning")
    lines = [[name, *(spread(found, key) for key in keys)] for name, found in results.items()]
    return tabulate(lines, headers=headers, disable_numparse=True)


def draw(
    results: Mapping[str, Mapping[str, Any]], folder: Path, *, controls: Sequence[str]
) -> None:
    """Draw the table of kept shares and, for box AP and mask AP, quality over cost."""
    shares = {
        name: np.mean([run["kept_share_per_block"] for run in found["runs"].values()], axis=0)
        for name, found in results.items()
    }
    draw_share_table(shares, folder / "kept_tokens.png")
    lines = {control: budgets_of(results, control) for control in controls}
    for key, label in (("box_ap", "box AP"), ("mask_ap", "mask AP")):
        points = {
            name: Point(mean_of(found, "trunk_gmacs"), [r[key] for r in found["runs"].values()])
            for name, found in results.items()
        }
        draw_quality_over_cost(
            points,
            folder / f"{key}_over_cost.png",
            lines={control: members for control, members in lines.items() if members},
            cost_label="giga multiply-adds of the trunk",
            value_label=label,
        )


def draw_tiles(models: Mapping[str, TokenPredictor], tiles: Sequence[Path], folder: Path) -> None:
    """Draw detections, heat map and keep maps of the tiles under every arm."""
    for name, predictor in models.items():
        for tile in tiles:
            write_pictures(
                predictor(tile), folder, f"{tile.stem}_{name}", class_names=predictor.class_names
            )
