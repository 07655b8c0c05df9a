"""A hook of mkdocs: pages that live outside docs/, and links that lead out of it.

CONTRIBUTING.md and its like stand where a reader of the repository looks for them. The site shows
them as pages of its own. A link to any other file of the repository leads to the repository where
mkdocs.yml names its address under `repo_url`, and becomes the file's name where it names none.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "configs/demo/WEIGHTS.md": "weights.md",
    "configs/digits/WEIGHTS.md": "weights_digits.md",
    "datasets/README.md": "datasets.md",
}
"""Where a page stands in the repository, and under docs/ in the site."""

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them, for a page whose links are those of the repository."""
    here = page.file.src_uri
    source = _in_repository(here)

    def relink(link: re.Match[str]) -> str:
        text, target = link.groups()
        parts = urlsplit(target)
        if parts.scheme or not parts.path:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), parts.path))
        inside = PAGES.get(path, path.removeprefix("docs/"))
        if path in PAGES or path.startswith("docs/"):
            there = posixpath.relpath(inside, posixpath.dirname(here) or ".")
            return f"[{text}]({there}{'#' * bool(parts.fragment)}{parts.fragment})"
        if not (ROOT / path).exists():
            return link[0]  # which a strict build refuses
        return f"[{text}]({config.repo_url}/blob/main/{path})" if config.repo_url else f"`{path}`"

    return LINK.sub(relink, markdown)


def _in_repository(page: str) -> str:
    """Where the source of a page of the site stands in the repository."""
    sources = {inside: path for path, inside in PAGES.items()}
    return sources.get(page, f"docs/{page}")
