"""The documentation's first page is a notebook, and what it shows is what its cells do."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def outputs(cell):
    """What a cell wrote, and the kinds of what it showed."""
    texts = [each.text for each in cell.outputs if each.output_type == "stream"]
    shown = [sorted(each.data) for each in cell.outputs if each.output_type == "execute_result"]
    return "".join(texts), shown


def test_the_notebook_shows_what_it_does():
    kept = nbformat.read(DOCS / "index.ipynb", as_version=4)
    fresh = nbformat.read(DOCS / "index.ipynb", as_version=4)
    resources = {"metadata": {"path": str(DOCS)}}
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources=resources).execute()
    assert sum(cell.cell_type == "code" for cell in fresh.cells) == 6
    for before, after in zip(kept.cells, fresh.cells, strict=True):
        if before.cell_type != "code":
            continue
        (said, shown), (says, shows) = outputs(before), outputs(after)
        assert not any(each.output_type == "error" for each in after.outputs)
        assert shown == shows
        # Another processor rounds otherwise, which may move a token or a detection.
        assert NUMBER.sub("#", said) == NUMBER.sub("#", says)
        numbers = [list(map(float, NUMBER.findall(text))) for text in (said, says)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1.01)
