"""Charts of a benchmark's rows: over tokens, batch sizes and processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from svit_det.visualization.speed_charts import SpeedLine, SpeedPanel, draw_speed_chart

Row = Mapping[str, Any]


def draw_charts(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Every chart that has two or more values along its horizontal axis; returns their files."""
    written = []
    for rows, draw in (
        (results["rows"], _draw_speed_up),
        (results.get("throughput", []), _draw_throughput),
        (results.get("processes", []), _draw_processes),
    ):
        written += draw(rows, folder)
    return written


def charts_in(folder: str | Path, *, wanted: bool) -> list[str]:
    """The names of the charts that stand in the folder, where new ones are wanted."""
    if not wanted or not os.path.isdir(folder):
        return []
    return sorted(path.name for path in Path(folder).glob("*.png"))


def tokens_of(row: Row) -> int:
    """N."""
    rows, columns = row["token_grid"]
    return rows * columns


def batch_of(row: Row) -> int:
    """B."""
    return row["batch_size"]


def _draw_speed_up(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Speed-up and eta: over tokens at each batch size, over batch sizes at each grid."""
    written = []
    for part, own in _grouped(rows, lambda row: row["part"]).items():
        for batch, some in _grouped(own, batch_of).items():
            path = folder / f"{part}_over_tokens_batch_{batch}.png"
            title = f"{part}, batch {batch}"
            written += _speed_up_chart(some, path, tokens_of, "tokens", title)
        for tokens, some in _grouped(own, tokens_of).items():
            path = folder / f"{part}_over_batch_{tokens}_tokens.png"
            title = f"{part}, {tokens:,} tokens"
            written += _speed_up_chart(some, path, batch_of, "batch size", title)
    return written


def _speed_up_chart(
    rows: Sequence[Row], path: Path, x_of: Callable[[Row], int], x_label: str, title: str
) -> list[Path]:
    if len({x_of(row) for row in rows}) < 2:
        return []
    lines: dict[str, dict[str, SpeedLine]] = {"speed_up": {}, "eta": {}}
    for policy, own in _grouped(rows, lambda row: row["policy"]).items():
        own = sorted(own, key=x_of)
        for key, found in lines.items():
            spreads = [row[key] for row in own]
            found[policy] = _line(
                [x_of(row) for row in own],
                spreads,
                bound=[row["bound"] for row in own] if key == "speed_up" else None,
            )
    panels = [
        SpeedPanel(label="speed-up over dense", lines=lines["speed_up"], reference=1.0),
        SpeedPanel(label="eta: speed-up of its bound", lines=lines["eta"], reference=1.0),
    ]
    ticks = {float(x_of(row)): f"{x_of(row):,}" for row in rows}
    draw_speed_chart(panels, path, x_label=x_label, title=title, tick_labels=ticks)
    return [path]


def _line(
    x: Sequence[int], spreads: Sequence[Mapping[str, float]], bound: Sequence[float] | None = None
) -> SpeedLine:
    median, low, high = ([each[key] for each in spreads] for key in ("median", "low", "high"))
    return SpeedLine(x=x, y=median, low=low, high=high, bound=bound)


def _draw_throughput(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Images per second over batch sizes, one line per arm; bars are standard deviations."""
    written = []
    for (part, tokens), own in _grouped(rows, lambda row: (row["part"], tokens_of(row))).items():
        own = sorted(own, key=batch_of)
        if len(own) < 2:
            continue
        lines = {}
        for arm in own[0]["images_per_second"]:
            rates = [row["images_per_second"][arm] for row in own]
            lines[arm.replace("_", " ")] = SpeedLine(
                x=[batch_of(row) for row in own],
                y=[rate["mean"] for rate in rates],
                low=[rate["mean"] - rate["std"] for rate in rates],
                high=[rate["mean"] + rate["std"] for rate in rates],
            )
        path = folder / f"{part}_throughput_{tokens}_tokens.png"
        panel = SpeedPanel(label="images per second", lines=lines)
        title = f"{part}, {tokens:,} tokens"
        draw_speed_chart([panel], path, x_label="batch size", title=title)
        written.append(path)
    return written


def _draw_processes(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Images per second of all processes together, and the ratio, over the number of processes."""
    written = []
    for place, own in _grouped(
        rows, lambda row: (row["part"], tokens_of(row), batch_of(row))
    ).items():
        if len({row["processes"] for row in own}) < 2:
            continue
        rates, ratios = {}, {}
        for policy, some in _grouped(own, lambda row: row["policy"]).items():
            some = sorted(some, key=lambda row: row["processes"])
            x = [row["processes"] for row in some]
            for kind, name in (("dense", f"dense beside {policy}"), ("pruned", policy)):
                rates[name] = _line(x, [row["images_per_second"][kind] for row in some])
            ratios[policy] = _line(x, [row["speed_up"] for row in some])
        part, tokens, batch = place
        path = folder / f"{part}_processes_{tokens}_tokens_batch_{batch}.png"
        panels = [
            SpeedPanel(label="images per second, together", lines=rates),
            SpeedPanel(label="pruned over dense", lines=ratios, reference=1.0),
        ]
        title = f"{part}, {tokens:,} tokens, batch {batch}, one thread each"
        draw_speed_chart(panels, path, x_label="processes", title=title)
        written.append(path)
    return written


def _grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found
