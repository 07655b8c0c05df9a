"""tools/export_table.py: rows that stay, rows that come, and, taking long, rows of each table."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from svit_det.cli import export_ap, export_refused, export_table
from svit_det.cli.export import fixed_count_options
from svit_det.export.formats import FORMATS
from svit_det.policies import POLICY_REGISTRY

NUCLEI = Path(__file__).resolve().parents[2] / "datasets/nuclei"
PAGE = "before\n{}\n\n| policy | x |\n|---|---|\n| B | 1 |\n| B `z` | 2 |\n| D | 3 |\n\n{}\nafter\n"
MARKS = [export_table.MARKS.format(word, "parity") for word in ("begin", "end")]


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE.format(*MARKS))
    return path


def test_rows_of_other_policies_stay(page):
    kept = export_table.rows_of(page.read_text(), "parity", page)
    assert kept == ["| B | 1 |", "| B `z` | 2 |", "| D | 3 |"]
    new = export_table.merged(kept, {"C": ["| C | 4 |"], "D": ["| D | 5 |", "| D `y` | 6 |"]})
    assert new == ["| B | 1 |", "| B `z` | 2 |", "| C | 4 |", "| D | 5 |", "| D `y` | 6 |"]
    export_table.write_rows(page, "parity", ["| head |", *new])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "| D | 3 |" not in text
    assert "| head |\n| B | 1 |" in text


def test_bad_input(page, tmp_path):
    assert "no place for the table" in export_table.main(
        ["--file", str(page), "--tables", "open", "--image-folder", "datasets/nuclei/val"]
    )
    none = str(tmp_path / "none.md")
    assert export_table.main(["--file", none]).startswith(f"--file {none}: cannot be read")
    os.mkfifo(tmp_path / "pipe.md")  # no program waits for it
    pipe = str(tmp_path / "pipe.md")
    assert export_table.main(["--file", pipe]) == f"--file {pipe}: is no file."
    said = export_table.main(["--file", str(page), "--policies", "Nobody"])
    assert said.startswith("--policies") and "Nobody" in said
    args = ["--file", str(page), "--policies", "SViT", "--tables", "refused", "ap"]
    assert export_table.main(args) == (
        "--policies: --tables refused ap has no rows to choose by policy; name one of parity, "
        "budget, open in --tables, or leave --policies out."
    )


@pytest.fixture(scope="module")
def tiles():
    """Four tiles of the default set's validation part, which `make data` prepares."""
    found = sorted((NUCLEI / "val").glob("*.png"))[::10]
    if not found:
        pytest.skip("the default data set is not prepared: run `make data`")
    return found


def cells_of(row):
    return [cell.strip() for cell in row.strip("| ").split("|")]


NETWORK = "simple pyramid"


@pytest.fixture
def one_network(monkeypatch):
    """A page on one network; test_export.py exports every policy under both in every format."""
    monkeypatch.setattr(export_table, "NETWORKS", {NETWORK: export_table.NETWORKS[NETWORK]})


@pytest.mark.long
@pytest.mark.usefixtures("one_network")
@pytest.mark.parametrize("name", ["SViT", "AViT"])
def test_rows_of_the_table(page, tiles, name):
    """Every format and budget of a policy: the same tokens kept, and maps to 1e-4."""
    asked = ["--tables", "parity", "--policies", name, "--image-folder", str(tiles[0].parent)]
    assert export_table.main(["--file", str(page), *asked]) is None
    rows = [row for row in page.read_text().splitlines() if row.split()[1:2] == [name]]
    budgets = 1 + bool(POLICY_REGISTRY.get(name).Config.fixed_count)
    assert len(rows) == budgets
    for row in rows:
        for cell in cells_of(row)[-len(FORMATS) :]:
            assert float(cell) <= 1e-4, row


@pytest.mark.long
@pytest.mark.usefixtures("one_network")
@pytest.mark.parametrize(("name", "options"), [("EViT", 2), ("ATS", 1)])
def test_rows_of_budgets_and_of_no_topk(page, tiles, name, options):
    """EViT keeps a fixed number under --budget; of ATS there is --no-topk alone."""
    page.write_text(page.read_text().replace("export_table.py: parity", "export_table.py: budget"))
    asked = ["--tables", "budget", "--policies", name, "--image-folder", str(tiles[0].parent)]
    assert export_table.main(["--file", str(page), *asked]) is None
    rows = [cells_of(row) for row in export_table.rows_of(page.read_text(), "budget", page)]
    rows = [row for row in rows if row[0] == name]
    found = {row[2] for row in rows}
    assert found == {"`--no-topk`", *(["`--budget 0.5`"] if options == 2 else [])}
    assert len(rows) == options
    assert all(float(cell) <= 1e-4 for row in rows for cell in row[3:])


@pytest.fixture
def pictures(tiles):
    return [export_table.picture(path) for path in tiles[:2]]


@pytest.mark.long
def test_a_row_of_open_sizes(pictures):
    (row,) = export_table.open_rows("Dense", pictures, networks=(NETWORK,))
    policy, network, kept, *cells = cells_of(row)
    assert (policy, network, kept) == ("Dense", NETWORK, "fixed number")
    assert len(cells) == len(FORMATS) and all(float(cell) <= 1e-4 for cell in cells)


@pytest.mark.long
def test_a_cell_says_why_there_is_no_file(pictures):
    """torch cannot save a fixed count of an open size, which is rounded."""
    model = export_table.toy_model("SViT", fixed_count_options("SViT"), NETWORK, pictures)
    cell = export_table.cell_or_reason(model, "pt2", pictures, dynamic_size=True)
    assert cell.startswith("no: torch.export cannot save this model") and "|" not in cell


WITHOUT = ("AViT", "AttentionProbe", "Dense")
"""The policies without a budget."""
BY_IMAGE = ("ATS", "AdaViT", "IARED2", "SPViT")
"""The policies that have one, and no number of tokens that is the same in every picture."""


@pytest.mark.long
def test_what_is_refused_stands_there_with_its_reason(page):
    """Every row is a sentence of the tool itself: nothing in the table is exported after all."""
    marks = [export_table.MARKS.format(word, "refused") for word in ("begin", "end")]
    page.write_text("\n\n".join(marks))
    assert export_table.main(["--file", str(page), "--tables", "refused"]) is None
    rows = [cells_of(row) for row in export_table.rows_of(page.read_text(), "refused", page)]
    assert all(reason.endswith(".") and str(NUCLEI.parents[1]) not in reason for *_, reason in rows)
    found = {(what, of): reason for what, of, reason in rows}
    for what, of, words in (
        ("the mode `sample`", "SViT", "draws numbers"),
        ("`--budget 0.5`", "ATS", "depends on the image"),
        *(("`--budget 0.5`", of, f"--budget 0.5: {of} has no budget to set.") for of in WITHOUT),
        ("`--batch 2`", "SPViT", "depends on the image"),
        ("the whole detector", "Cascade R-CNN", "CascadeROIHeads"),
        ("the whole detector", "RetinaNet", "TokenRetinaNet"),
        ("`--dynamic-size`", "ATS", "does not export as one graph"),
        ("`--opset 23`", "whole detectors", "RoiAlign"),
    ):
        assert words in found[what, of]
    assert all(export_refused.TAKEN not in reason for reason in found.values())
    assert {of for what, of in found if what == "`--budget 0.5`"} == {*WITHOUT, *BY_IMAGE}


@pytest.fixture
def few(tiles, tmp_path):
    """Overrides that train and test on the tiles alone."""
    content = json.loads((NUCLEI / "annotations/val.json").read_text())
    names = {path.name for path in tiles}
    images = [each for each in content["images"] if each["file_name"] in names]
    ids = {each["id"] for each in images}
    annotations = [each for each in content["annotations"] if each["image_id"] in ids]
    path = tmp_path / "few.json"
    path.write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    sets = str([["few", str(path), str(tiles[0].parent)]])
    return ["DATASETS.COCO_FORMAT", sets, "DATASETS.TRAIN", "('few',)", "DATASETS.TEST", "('few',)"]


@pytest.mark.long
def test_a_row_of_average_precision(few):
    """float32 files find what the model finds; on four tiles, less precise ones nearly so."""
    head, _, row = export_ap.ap_rows(["dense"], few)
    columns = ["model", *FORMATS, "onnx, int8", "openvino, bfloat16"]
    assert cells_of(head)[1:] == columns
    name, *cells = cells_of(row)
    assert name == "demo/dense" and len(cells) == len(columns)
    model, *files = (np.array(cell.split(" / "), float) for cell in cells)
    assert model.shape == (2,) and model.min() > 50
    for column, found in zip(columns[1:], files, strict=True):
        most = 0.1 if column in FORMATS else 6
        assert np.abs(found - model).max() <= most, (column, found, model)
