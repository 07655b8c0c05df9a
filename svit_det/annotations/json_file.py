"""Reading a COCO json as strictly as its later readers, with clearer errors than theirs."""

from __future__ import annotations

import gc
import json
import locale
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svit_det.errors import InputError, refuse_url


def read_json(path: str) -> Any:
    """The file's content.

    Raises InputError for a file that cannot be read, is not UTF-8 without a byte-order mark, is not
    json, is nested too deeply, or says the same key twice in one place.
    """
    refuse_url(path)
    text = _read_text(path)
    try:
        with _without_collector():
            return json.loads(text, object_pairs_hook=_once_each)
    except _TwiceError as error:
        raise InputError(
            f"{path}: says '{error}' twice in one place, and readers take one of the two; remove "
            "the other."
        ) from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be a COCO file.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not a json file ({error}).") from error
    except ValueError as error:  # Python's own words advise to let such numbers pass
        raise InputError(
            f"{path}: not a json file that can be used (a number of thousands of digits)."
        ) from error


def _read_text(path: str) -> str:
    if not os.path.isfile(path) and os.path.exists(path):
        raise InputError(f"{path}: a folder or a device, not a json file; name the file.")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        hint = "" if os.environ.get("DETECTRON2_DATASETS") else "; $DETECTRON2_DATASETS is not set"
        raise InputError(f"{path}: cannot be read ({error.strerror}){hint}.") from error
    except ValueError as error:  # for a name that no file can have
        raise InputError(f"{path}: cannot be read ({error}).") from error
    encoding = json.detect_encoding(content[:4])
    if encoding != "utf-8":
        named = {"utf-8-sig": "UTF-8 with a byte-order mark"}.get(encoding, encoding.upper()[:6])
        raise InputError(f"{path}: is encoded as {named}; save it as UTF-8 without such a mark.")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a json file in UTF-8 (byte {error.start:,} is no text); save it anew."
        ) from error
    own = locale.getpreferredencoding(False)
    if not text.isascii() and own.lower().replace("-", "") != "utf8":
        # pycocotools and detectron2 open the file in the encoding of the locale.
        raise InputError(
            f"{path}: holds UTF-8 that would be read as {own} here; set PYTHONUTF8=1 for Python."
        )
    return text


class _TwiceError(Exception):
    """A key is used twice in one object."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _TwiceError(next(name for name, count in counts.items() if count > 1))
    return entry


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the garbage collector, which would search millions of new lists again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
