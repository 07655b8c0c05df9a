"""Pages of the documentation that hold a table between two marks, which a command writes."""

from __future__ import annotations

from pathlib import Path

from svit_det.errors import InputError
from svit_det.files import write_whole


def read_page(path: Path) -> str:
    """The text of the page. Raises InputError where it cannot be read."""
    if path.exists() and not path.is_file():  # reading a pipe would wait without end
        raise InputError(f"--file {path}: is no file.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"--file {path}: cannot be read ({reason}).") from error


def write_page(path: Path, text: str) -> None:
    """Write the page, whole or not at all."""
    with write_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def split_page(page: str, begin: str, end: str, path: Path) -> tuple[str, str, str]:
    """The page's text up to the first mark, between the two marks, and from the second mark on.

    The first text ends with its mark, and the third begins with its mark. Raises InputError for a
    page without the marks.
    """
    head, begun, rest = page.partition(begin)
    middle, ended, tail = rest.partition(end)
    if not begun or not ended:
        raise InputError(f"{path} has no place for the table: put '{begin}' and '{end}' there.")
    return head + begin, middle, end + tail


def with_table(page: str, begin: str, end: str, table: str, path: Path) -> str:
    """The page with another table between its two marks."""
    head, _, tail = split_page(page, begin, end, path)
    return f"{head}\n\n{table}\n\n{tail}"
