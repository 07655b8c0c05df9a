"""The table of docs/policies.md: fresh, and true of policies whose answers are known."""

import re
from pathlib import Path

import pytest

from svit_det.cli import policy_table
from svit_det.cli.policy_table import BEGIN, END, HEADS, capabilities, main
from svit_det.policies import POLICY_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "policies.md"


def test_the_table_is_fresh():
    assert main(["--check"]) is None


def pictures_of(page):
    """The names of the pictures that a page shows."""
    found = re.findall(
        r"!\[[^]]*\]\((?:docs/)?pictures/([^)]*)\)", page.read_text(encoding="utf-8")
    )
    return set(found)


def test_every_picture_is_there_and_used():
    own = {f"{Path(module).stem}.jpg" for module in (ROOT / "svit_det/policies").glob("*.py")}
    there = {path.name for path in PAGE.parent.glob("pictures/*") if path.suffix != ".md"}
    assert own & there <= pictures_of(PAGE)
    pages = [*PAGE.parent.glob("*.md"), ROOT / "README.md"]
    # The notebook reads nuclei.png.
    assert set().union(*map(pictures_of, pages)) | {"nuclei.png"} == there


def test_every_policy_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for name in POLICY_REGISTRY.names():
        kind = POLICY_REGISTRY.get(name)
        file = f"`svit_det/policies/{Path(kind.__module__.replace('.', '/')).name}.py`"
        assert kind.takes_any_key or name == "Dense" or file in page, name


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("Dense", {"count known beforehand", "trains packed"}),
        (
            "Random",
            {
                "count known beforehand",
                "brings tokens back",
                "trains packed",
                "other budget at inference",
            },
        ),
        ("SViT", {"brings tokens back", "other budget at inference"}),
        ("ATS", {"class token", "trains packed", "other budget at inference"}),
        ("DynamicViT", {"count known beforehand", "other budget at inference"}),
        ("SPViT", {"adds tokens", "other budget at inference"}),
        ("AViT", {"trains packed"}),
    ],
)
def test_what_is_known_is_found(name, can):
    found = {head for head, yes in zip(HEADS[1:], capabilities(name), strict=True) if yes}
    assert found == can


def test_a_stale_page_is_named_and_mended(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n")
    monkeypatch.setattr(policy_table, "rows", lambda: iter(["| new |"]))
    assert "not fresh" in main(["--check", "--file", str(page)])
    assert main(["--file", str(page)]) is None
    assert page.read_text() == f"head\n{BEGIN}\n\n| new |\n\n{END}\ntail\n"
    assert main(["--check", "--file", str(page)]) is None


def test_a_page_without_a_place_is_refused(tmp_path):
    (tmp_path / "page.md").write_text(f"{END} the wrong way round {BEGIN}")
    assert "has no place for the table" in main(["--file", str(tmp_path / "page.md")])
    assert "cannot be read" in main(["--file", str(tmp_path / "none.md")])
