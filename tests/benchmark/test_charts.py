"""Throughput and charts: which files there are, and what lies where in them."""

import cv2
import numpy as np
import pytest

from svit_det.cli.benchmark_charts import draw_charts
from svit_det.errors import InputError
from svit_det.visualization.speed_charts import SpeedLine, SpeedPanel, draw_speed_chart

BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)


def spread(median):
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def row(policy="SViT", grid=(4, 4), batch=1, speed_up=1.5, part="blocks"):
    return {
        "part": part,
        "policy": policy,
        "token_grid": list(grid),
        "batch_size": batch,
        "speed_up": spread(speed_up),
        "bound": 2.0,
        "eta": spread(speed_up / 2),
    }


def marked(path, colour):
    """(rows, columns) of the pixels of a colour, the legend below left out."""
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    picture = picture[: int(0.85 * len(picture))]
    return np.nonzero(abs(picture - colour).sum(axis=-1) < 12)


def test_charts_over_tokens_and_over_batch_sizes(tmp_path):
    rows = [
        row(policy, grid, batch)
        for policy in ("SViT", "ATS")
        for grid in ((4, 4), (8, 8))
        for batch in (1, 4)
    ]
    written = draw_charts({"rows": rows}, tmp_path)
    assert sorted(path.name for path in written) == [
        "blocks_over_batch_16_tokens.png",
        "blocks_over_batch_64_tokens.png",
        "blocks_over_tokens_batch_1.png",
        "blocks_over_tokens_batch_4.png",
    ]
    for path in written:
        assert all(len(marked(path, colour)[0]) for colour in (BLUE, ORANGE))
        assert not len(marked(path, GREEN)[0])


def test_one_value_makes_no_chart(tmp_path):
    assert draw_charts({"rows": [row(), row("ATS")]}, tmp_path) == []
    (path,) = draw_charts({"rows": [row(), row(batch=2), row(part="detector")]}, tmp_path)
    assert path.name == "blocks_over_batch_16_tokens.png"


def test_the_faster_line_lies_higher_and_its_bound_above_it(tmp_path):
    path = tmp_path / "chart.png"
    slow = SpeedLine(x=[256, 1024], y=[1.1, 1.2], low=[1.1, 1.2], high=[1.1, 1.2])
    fast = SpeedLine(x=[256, 1024], y=[2, 3], low=[1.9, 2.9], high=[2.1, 3.1], bound=[4, 4])
    panel = SpeedPanel(label="speed-up", lines={"slow": slow, "fast": fast}, reference=1.0)
    draw_speed_chart([panel], path, x_label="tokens", title="blocks")
    blue, orange = (marked(path, colour)[0] for colour in (BLUE, ORANGE))
    assert orange.max() < blue.min()
    # The bound is dashed: within its own row there are gaps.
    columns = np.sort(marked(path, ORANGE)[1][orange <= orange.min() + 1])
    assert columns.max() - columns.min() > len(np.unique(columns)) * 1.2


def test_error_bars_reach_from_quartile_to_quartile(tmp_path):
    heights = []
    for number, reach in enumerate((0.01, 0.5)):
        path = tmp_path / f"{number}.png"
        line = SpeedLine(x=[1, 4], y=[2, 2], low=[2 - reach] * 2, high=[2 + reach] * 2)
        # The others keep the axis the same.
        edge = SpeedLine(x=[1, 4], y=[1, 3], low=[1, 3], high=[1, 3])
        panel = SpeedPanel(label="x", lines={"edge": edge, "line": line})
        draw_speed_chart([panel], path, x_label="batch", title="")
        rows = marked(path, ORANGE)[0]
        heights.append(rows.max() - rows.min())
    assert heights[1] > 3 * heights[0]


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="needs a panel"):
        draw_speed_chart([], tmp_path / "x.png", x_label="", title="")
    line = SpeedLine(x=[1], y=[1], low=[1], high=[1])
    (tmp_path / "x.png").mkdir()
    with pytest.raises(InputError, match=r"x\.png"):
        panel = SpeedPanel(label="", lines={"a": line})
        draw_speed_chart([panel], tmp_path / "x.png", x_label="", title="")


def test_throughput_by_batch_size(tiny):
    ran = tiny(
        *("--parts", "blocks", "training", "--tokens", "2", "4", "--batch-sizes", "1", "2"),
        *("--policies", "SViT", "ATS", "--throughput", "--plot"),
    )
    found = ran.results["throughput"]
    places = [(row["part"], row["batch_size"]) for row in found]
    assert places == [("blocks", 1), ("blocks", 2), ("training", 1), ("training", 2)]
    for each in found:
        rates = each["images_per_second"]
        assert set(rates) == {"dense", "dense_class_token", "SViT", "ATS"}
        for arm, (seconds,) in each["raw_seconds_per_batch"].items():
            assert rates[arm] == {"mean": each["batch_size"] / seconds, "std": 0.0}
    assert ran.results["rows"] == ran.results["processes"] == []
    assert "Images per second, mean and standard deviation" in ran.printed
    charts = sorted(path.name for path in ran.folder.glob("*.png"))
    assert charts == ["blocks_throughput_8_tokens.png", "training_throughput_8_tokens.png"]


def test_plot_of_a_run(tiny):
    ran = tiny("--parts", "blocks", "--grids", "2x2", "4x4", "--batch-sizes", "1", "--plot")
    assert [path.name for path in ran.folder.glob("*.png")] == ["blocks_over_tokens_batch_1.png"]
    assert f"Chart: {ran.folder}/blocks_over_tokens_batch_1.png" in ran.printed
    assert [row["token_grid"] for row in ran.results["rows"]] == [[2, 2], [4, 4]]
    assert ran.results["token_grid"] == [2, 2]


def test_charts_of_processes(tmp_path):
    def load(processes):
        rates = {"dense": spread(3.0), "pruned": spread(4.0)}
        own = {"processes": processes, "images_per_second": rates, "speed_up": spread(4 / 3)}
        return row() | own

    (path,) = draw_charts({"rows": [], "processes": [load(1), load(2)]}, tmp_path)
    assert path.name == "blocks_processes_16_tokens_batch_1.png"
