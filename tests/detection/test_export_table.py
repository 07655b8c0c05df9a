"""tools/export_table.py: rows that stay, rows that come, and, taking long, the whole table."""

import cv2
import numpy as np
import pytest

from svit_det.cli import export_table
from svit_det.export.formats import FORMATS
from svit_det.policies import POLICY_REGISTRY

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
    said = export_table.main(["--file", str(page), "--policies", "Nobody"])
    assert said.startswith("--policies") and "Nobody" in said


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures of blobs, a little larger than the toy models'."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        coarse = np.random.default_rng(index).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, (100, 70)))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("name", ["SViT", "AViT"])
def test_rows_of_the_table(page, pictures, name):
    """Every network, format and budget of a policy: the same tokens kept, and maps to 1e-4.

    The other policies are exported under both networks in every format by test_export.py.
    """
    asked = ["--tables", "parity", "--policies", name, "--image-folder", str(pictures)]
    assert export_table.main(["--file", str(page), *asked]) is None
    rows = [row for row in page.read_text().splitlines() if row.split()[1:2] == [name]]
    budgets = 1 + bool(POLICY_REGISTRY.get(name).Config.fixed_count)
    assert len(rows) == budgets * len(export_table.NETWORKS)
    for row in rows:
        cells = [cell.strip() for cell in row.strip("| ").split("|")]
        for cell in cells[-len(FORMATS) :]:
            assert float(cell) <= 1e-4, row
