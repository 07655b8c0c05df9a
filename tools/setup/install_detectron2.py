"""Install detectron2 into the Python that runs this script, unless detectron2 is already there.

detectron2 is not on the package index under its own name. The index does have the whole of its main
branch of November 2024 as `sal-detectron2`, in a wheel for Python 3.10 with a compiled extension
that no other Python loads. This project needs nothing from the extension: RoIAlign and NMS come
from torchvision, COCO evaluation from pycocotools. This script therefore fetches the wheel, checks
its hash, and repacks it as a plain Python wheel called detectron2. An official detectron2 that is
installed later replaces this one cleanly, because both distributions have the same name.

The script needs the standard library only: it runs before anything but pip is there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

REQUIREMENT = "sal-detectron2==0.7.2"
SOURCE_WHEEL = "sal_detectron2-0.7.2-cp310-none-any.whl"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"

NAME = "detectron2"
VERSION = "0.7.2+py3"  # a local version, which no release of detectron2 has
REPACKED_WHEEL = f"{NAME}-{VERSION}-py3-none-any.whl"

# detectron2 also works with numpy 2 (tested with 2.4), and only LazyConfig.to_py, which prints
# a config as code, needs black. With these requirements `pip check` would complain without need.
DROPPED_REQUIREMENTS = {"numpy", "black"}

DEFAULT_CACHE = Path(__file__).resolve().parents[2] / ".cache"
OFFICIAL = "git+https://github.com/facebookresearch/detectron2"


class InstallError(Exception):
    """An expected failure; its text is the sentence that the user reads."""


def say(line: str) -> None:
    """Print at once: pip, which this script starts, writes to the same place."""
    print(line, flush=True)


def find_existing(name: str = NAME) -> Path | None:
    """Return the folder of the installed package, or None. Nothing is imported."""
    spec = importlib.util.find_spec(name)
    # A bare folder of this name is found too, as a namespace package; its spec has no origin.
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def fetch_source(*, cache: Path, sha256: str = SOURCE_SHA256) -> Path:
    """Return the source wheel in `cache`, downloaded if it is missing; its hash is checked."""
    command = [sys.executable, str(Path(__file__).resolve().parent / "fetch_wheel.py")]
    command += [REQUIREMENT, "--file", SOURCE_WHEEL, "--sha256", sha256]
    command += ["--cache", str(cache), "--python-version", "3.10"]
    # pip's own lines on stdout are shown as progress; stderr holds the sentence of a failure.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise InstallError(done.stderr.strip())
    return cache / SOURCE_WHEEL


def repack(source: Path, folder: Path) -> Path:
    """Write the pure Python wheel made from `source` into `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / REPACKED_WHEEL
    handle, partial = tempfile.mkstemp(dir=folder, prefix="repack-", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as stream:
            try:
                _write_wheel(source, stream)
            except zipfile.BadZipFile as error:
                raise InstallError(f"{source} is not a wheel ({error}).") from error
        os.chmod(partial, 0o644)  # mkstemp makes a file for its owner only
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    return target


def _write_wheel(source: Path, stream: io.BufferedIOBase) -> None:
    record: list[tuple[str, str, str]] = []
    info_folder = f"{NAME}-{VERSION}.dist-info"
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        date = (1980, 1, 1, 0, 0, 0)
        for name, data, date in _kept_files(old, info_folder=info_folder):
            new.writestr(_entry(name, date), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append((name, f"sha256={digest}", str(len(data))))
        record_name = f"{info_folder}/RECORD"
        record.append((record_name, "", ""))  # RECORD cannot hold its own hash
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(record)
        new.writestr(_entry(record_name, date), text.getvalue())


def _entry(name: str, date: tuple[int, int, int, int, int, int]) -> zipfile.ZipInfo:
    # The dates come from the source, so that repacking twice gives the same bytes.
    entry = zipfile.ZipInfo(name, date)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _kept_files(
    old: zipfile.ZipFile, *, info_folder: str
) -> Iterator[tuple[str, bytes, tuple[int, int, int, int, int, int]]]:
    for item in old.infolist():
        top, _, rest = item.filename.partition("/")
        if item.is_dir() or top == "tools":
            continue  # detectron2's own scripts would claim the import name `tools`
        if re.fullmatch(r"_C(\..*)?\.so", rest) and top == NAME:
            continue
        name, data = item.filename, old.read(item)
        if top.endswith(".dist-info"):
            if rest == "RECORD":
                continue
            name = f"{info_folder}/{rest}"
            rewrite = {
                "METADATA": _rewrite_metadata,
                "WHEEL": _rewrite_wheel,
                "top_level.txt": lambda _: f"{NAME}\n",
            }.get(rest)
            if rewrite is not None:
                data = rewrite(data.decode("utf-8")).encode("utf-8")
        yield name, data, item.date_time


def _rewrite_metadata(text: str) -> str:
    head, blank, body = text.partition("\n\n")  # the body is a free description
    lines = []
    for line in head.splitlines():
        key, _, value = line.partition(": ")
        if key == "Name":
            line = f"Name: {NAME}"
        elif key == "Version":
            line = f"Version: {VERSION}"
        elif key == "Requires-Dist":
            required = re.match(r"[A-Za-z0-9._-]+", value)
            if required and required.group().lower() in DROPPED_REQUIREMENTS:
                continue
        lines.append(line)
    return "\n".join(lines) + (blank + body if blank else "\n")


def _rewrite_wheel(text: str) -> str:
    kept = [
        line for line in text.splitlines() if line and line.split(":")[0] not in _WHEEL_OWN_KEYS
    ]
    return "\n".join([*kept, *(f"{key}: {value}" for key, value in _WHEEL_OWN_KEYS.items()), ""])


_WHEEL_OWN_KEYS = {"Root-Is-Purelib": "true", "Tag": "py3-none-any"}


def pip_install(wheel: Path) -> None:
    """Install a wheel into the Python that runs this script, without its requirements."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or "nothing"
        raise InstallError(
            f"pip could not install {wheel.name} (the official way is `pip install "
            f"--no-build-isolation {OFFICIAL}`); it said: {said}"
        )


def install(
    *, cache: Path = DEFAULT_CACHE, site: Path | None = None, sha256: str = SOURCE_SHA256
) -> None:
    """Make `import detectron2` work in this Python; an installed detectron2 stays.

    Raises InstallError where the installation fails.
    """
    # A pip that is killed half-way leaves a folder that looks installed, and the marker file.
    marker = (site or Path(sysconfig.get_path("purelib"))) / ".detectron2-install-unfinished"
    existing = find_existing()
    if existing is not None and not marker.exists():
        say(f"detectron2 is already there and is kept: {existing}")
        return
    say(f"Getting detectron2 as {REQUIREMENT} (7 MB); the official one is kept if you have it")
    source = fetch_source(cache=cache, sha256=sha256)
    with tempfile.TemporaryDirectory(dir=cache, prefix="repack-") as folder:
        wheel = repack(source, Path(folder))
        say(f"Installing the repacked {wheel.name}")
        marker.touch()
        pip_install(wheel)
        marker.unlink()
    importlib.invalidate_caches()
    if find_existing() is None:
        raise InstallError(f"pip installed {REPACKED_WHEEL}, but {sys.executable} cannot find it.")
    say(f"detectron2 {VERSION} is installed: {find_existing()}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="where the downloaded wheel is kept"
    )
    parser.add_argument(
        "--repack-only",
        type=Path,
        metavar="DIR",
        help="only write the repacked wheel into DIR; install nothing",
    )
    args = parser.parse_args(argv)
    try:
        if args.repack_only is not None:
            print(repack(fetch_source(cache=args.cache), args.repack_only))
        else:
            install(cache=args.cache)
    except (InstallError, OSError) as error:  # the text of an OSError names the file
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("install_detectron2: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
