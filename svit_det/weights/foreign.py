"""Checks of a file of weights before anything in it is read, and the reason of a refusal.

PyTorch's own message for a refusal advises to load the file without its guard; this message is not
passed on.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import zipfile
from collections import Counter
from pathlib import Path
from textwrap import shorten

from svit_det.errors import InputError

LONGEST_REASON = 120
"""Characters of a reader's own words; some list every kind of number that the format knows."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_MAKES_TENSORS = re.compile(rb"ctorch(?:\.\w+)?\n\w*Tensor\n")
"""A pickle that names a class of tensors, which PyTorch calls with whatever sizes stand there."""
_FILLS_MEMORY = re.compile(
    rb"c(?:builtins|__builtin__)\nbytearray\n"
    rb"|c_codecs\nencode\n"
    rb"|ctorch[.\n]_utils[.\n]_rebuild_device_tensor_from_cpu_tensor\n"
)
"""A pickle that names a function whose result may be far larger than its arguments in the file.

PyTorch calls each of them: the first takes a number of bytes, the second takes one text again and
again, and the third writes out a tensor that repeats one number. Weights need none of them.
"""
_WITH_ATTRIBUTES = b"ctorch._tensor\n_rebuild_from_type_v2\n"
"""The one function of PyTorch's that is given such a class: for tensors with own attributes."""


def check_file(path: str) -> None:
    """Raise InputError unless `path` is a file that may be handed to a reader of weights.

    A zip archive, PyTorch's own format, is refused if it holds a TorchScript program, is
    compressed, holds a name twice, or claims to unpack to more bytes than the file has: PyTorch
    compresses nothing, and would unpack the archive in memory. A pickle that makes tensors out of
    sizes alone is refused too, because such tensors hold whatever lay in the memory before, and so
    is a pickle that may fill the memory with values that are not in the file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else _reason(error)
        raise InputError(f"{path}: {said}.") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder, not a file of weights; name a file in it.")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: a device or a pipe, not a file of weights.")
    if path.endswith(".safetensors"):
        return
    archived = _is_archive(path)
    problem = _archive_problem(path) if archived else None
    if problem:
        raise InputError(f"{path}: {problem}; it was not unpacked.")
    problem = _pickle_problem(path, archived=archived)
    if problem:
        raise InputError(f"{path}: {problem}.")


def _is_archive(path: str) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # it raises for an archive in several parts, which is damaged here
        return True


def _archive_problem(path: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # zipfile may raise nearly anything for a damaged archive
        return "an archive that is cut short or damaged"
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, which is code; save the weights alone"
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "a compressed archive, which no training writes"
    if sum(entry.file_size for entry in entries) > Path(path).stat().st_size:
        return "an archive whose parts are larger than it"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        return f"an archive that holds '{twice[0]}' twice"
    return None


def _pickle_problem(path: str, *, archived: bool) -> str | None:
    """Why the pickle in the file is not handed to PyTorch's reader; None for no reason."""
    if archived:
        try:
            with zipfile.ZipFile(path) as archive:
                # PyTorch's reader finds the pickle in capital letters too.
                inner = [n for n in archive.namelist() if n.lower().endswith("/data.pkl")]
                found = [_calls_problem(archive.read(name)) for name in inner]
                return next(filter(None, found), None)
        except Exception:  # as above; PyTorch's reader refuses such an archive
            return None
    if not os.path.getsize(path):
        return None  # an empty file cannot be mapped, and holds nothing
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return _calls_problem(content)


def _calls_problem(pickled: bytes | mmap.mmap) -> str | None:
    if _FILLS_MEMORY.search(pickled):
        return (
            "makes bytes, NumPy's values or copies of tensors by calling a function, which may "
            "take any amount of memory; it was not executed. Save the weights alone"
        )
    if _MAKES_TENSORS.search(pickled) and pickled.find(_WITH_ATTRIBUTES) < 0:
        return (
            "makes tensors by calling their class, which may leave them without stored numbers; "
            "save the weights anew from the program that wrote them"
        )
    return None


def refusal(path: str, error: BaseException) -> InputError:
    """The error to raise where a reader of weights raised `error`."""
    return InputError(
        f"{path}: not a file of plain weights ({_reason(error)}); it was not executed. Give a "
        ".safetensors file or a .pth that holds tensors only."
    )


def _reason(error: BaseException) -> str:
    asked = _GLOBAL.search(str(error))
    if asked:
        return f"it asks for {asked.group(1)}, which is code or an object of Python's"
    if type(error).__module__.startswith("safetensors"):
        return shorten(str(error).rstrip("."), LONGEST_REASON, placeholder=" ...")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if "Weights only" in str(error) or "weights_only" in str(error):
        return "it asks for more than tensors and plain values"
    return "it is damaged, cut short, or something else altogether"
