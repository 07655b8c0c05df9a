"""The documentation builds as a site without a warning, and a reader's browser asks nobody else."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]


def relinked(outside_pages, markdown, source, repo_url=None):
    page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
    return outside_pages.on_page_markdown(markdown, page, SimpleNamespace(repo_url=repo_url), None)


def test_links_between_pages(outside_pages):
    assert relinked(outside_pages, "[a](policies.md#svit)", "export.md") == "[a](policies.md#svit)"
    assert relinked(outside_pages, "[a](../CONTRIBUTING.md)", "export.md") == "[a](contributing.md)"
    assert relinked(outside_pages, "[a](docs/export.md)", "contributing.md") == "[a](export.md)"
    assert relinked(outside_pages, "[a](../docs/runs.md)", "benchmarks.md") == "[a](runs.md)"
    assert relinked(outside_pages, "[a](https://x.org/y)", "export.md") == "[a](https://x.org/y)"
    assert relinked(outside_pages, "![a](pictures/a.jpg)", "x.md") == "![a](pictures/a.jpg)"


def test_links_out_of_the_site(outside_pages):
    text = "[loop](../examples/own_loop.py)"
    assert relinked(outside_pages, text, "detectron2.md") == "`examples/own_loop.py`"
    linked = "[loop](https://x.org/blob/main/examples/own_loop.py)"
    assert relinked(outside_pages, text, "detectron2.md", "https://x.org") == linked
    missing = "[loop](../examples/nothing.py)"  # left for the strict build to refuse
    assert relinked(outside_pages, missing, "detectron2.md") == missing


def test_every_room_has_a_page_of_the_python_reference():
    rooms = {path.parent.name for path in ROOT.glob("svit_det/*/__init__.py")} - {"cli"}
    assert {path.stem for path in (ROOT / "docs/api").glob("*.md")} == rooms


def test_the_site(tmp_path):
    """Strictly, as CI has it: a broken link or an unknown name is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {re.sub(r"\.md$", ".html", page) for page in written} <= pages
    assert {"index.html", "contributing.html", "benchmarks.html", "datasets.html"} <= pages
    loaded = re.compile(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)|<link[^>]*(https?:[^"]*)')
    for page in pages:
        assert not loaded.search((tmp_path / page).read_text(encoding="utf-8")), page
    reference = (tmp_path / "api/policies.html").read_text(encoding="utf-8")
    assert 'id="svit_det.policies.svit.SViT"' in reference
