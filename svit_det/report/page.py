"""The page: statistics and pictures of one or two models, rendered by a template.

Everything is inside the file: photographs, overlays, style and script. A content security policy
forbids the page to load anything from any address.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from svit_det.errors import InputError
from svit_det.report.overlays import (
    MAX_OBJECTS,
    fate_overlays,
    heat_overlay,
    object_lines,
    outlines,
    overlay_style,
    photo,
    return_overlay,
)
from svit_det.report.set_charts import set_charts
from svit_det.report.statistics import ArmStatistics
from svit_det.visualization import FATES, UsagePicture, UsageScale
from svit_det.visualization.usage_picture import first_deciding

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture under every model."""

    name: str
    pictures: Sequence[UsagePicture]
    """One picture per model, of the same image."""


def render_page(
    arms: Sequence[ArmStatistics], shown: Sequence[Shown], *, title: str, facts: Sequence[str]
) -> str:
    """The HTML of the page. `facts`: sentences about the run, placed below the title.

    Raises InputError where there is no picture to report on.
    """
    if not arms or not arms[0].rows or not shown:
        raise InputError("The report has no picture to show; name images that can be read.")
    style, script = ((HERE / name).read_text() for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    everything = [picture for each in shown for picture in each.pictures]
    scale = UsageScale.over(everything)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("page.html.j2").render(
        title=title,
        facts=facts,
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
        arms=arms,
        charts=set_charts(arms),
        table=table_rows(arms, shown),
        has_annotations=any(row.on_annotated == row.on_annotated for row in arms[0].rows),
        pictures=[picture_context(number, each, arms, scale) for number, each in enumerate(shown)],
        swatches=[
            (scale.low + index, "#{:02x}{:02x}{:02x}".format(*colour))
            for index, colour in enumerate(scale.colours.tolist())
        ],
        scale=scale,
        fates=FATES,
        max_objects=MAX_OBJECTS,
    )


def percent(share: float, digits: int = 0) -> str:
    """0.123 -> "12 %"; a dash for a share that does not exist."""
    return f"{100 * share:.{digits}f} %" if share == share else "–"


def table_rows(arms: Sequence[ArmStatistics], shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """One line per picture and model, with a link target for pictures that the page shows."""
    anchors = {each.name: f"picture-{number}" for number, each in enumerate(shown)}
    return [
        {"arm": arm.label, "row": row, "anchor": anchors.get(row.name)}
        for rows in zip(*(arm.rows for arm in arms), strict=True)
        for arm, row in zip(arms, rows, strict=True)
    ]


def picture_context(
    number: int, shown: Shown, arms: Sequence[ArmStatistics], scale: UsageScale
) -> dict[str, Any]:
    """The template's data of one picture."""
    first = shown.pictures[0]
    height, width = first.size
    truth = first.annotated
    return {
        "id": f"picture-{number}",
        "name": shown.name,
        "photo": photo(first),
        "width": width,
        "height": height,
        "truth": None if truth is None else outlines(truth, first.size),
        "truth_count": 0 if truth is None else len(truth),
        "first_block": min(
            first_deciding(shown.pictures), max(p.layers for p in shown.pictures) - 1
        ),
        "last_block": max(picture.layers for picture in shown.pictures) - 1,
        "arms": [
            arm_context(arm, picture, scale)
            for arm, picture in zip(arms, shown.pictures, strict=True)
        ],
    }


def arm_context(arm: ArmStatistics, picture: UsagePicture, scale: UsageScale) -> dict[str, Any]:
    """The template's data of one picture under one model."""
    back = picture.reactivated_shares()
    found = picture.found
    split = None if found is None else picture.split(found).mean(axis=1).tolist()
    known = picture.annotated
    return {
        "label": arm.label,
        "found": None if found is None else outlines(found, picture.size),
        "found_count": 0 if found is None else len(found),
        "objects": [] if found is None else object_lines(picture, found),
        "overlay": overlay_style(picture.grid),
        "heat": heat_overlay(picture, scale),
        "returns": return_overlay(picture),
        "returned": float((picture.returns > 0).mean()),
        "most_returns": int(picture.returns.max()),
        "kept": float(picture.shares.mean()),
        "split": split,
        "truth_split": None if known is None else picture.split(known).mean(axis=1).tolist(),
        "blocks": [
            {"overlay": overlay, "kept": float(share), "back": float(again)}
            for overlay, share, again in zip(
                fate_overlays(picture), picture.shares, back, strict=True
            )
        ],
    }
