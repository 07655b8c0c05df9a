"""One pinned Debian package: downloaded with apt without an administrator's rights, and read.

Nothing is installed, and nothing of the package is executed. A .deb is an `ar` archive around a
compressed tar, so that reading one needs no dpkg.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import pwd
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from svit_det.errors import InputError
from svit_det.files import make_folder

_AR_MAGIC = b"!<arch>\n"
_AR_HEAD = 60
"""Bytes of the head before each member: the first 16 hold its name, 10 from byte 48 its size."""


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """A package file, named exactly: its hash fixes every byte."""

    name: str
    version: str
    architecture: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of the package's file."""
        return f"{self.name}_{self.version}_{self.architecture}.deb"


def fetch_package(package: DebianPackage, cache: Path) -> Path:
    """The path `cache`/FILE; apt downloads the file unless it is there with the right hash.

    Raises InputError where there is no apt, where apt does not know the version, and where the
    downloaded file has another hash; then nothing new lies in the cache.
    """
    place = cache / package.file
    if place.is_file() and _sha256(place) == package.sha256:
        return place
    by_hand = f"put {package.file} into {cache} by hand"
    if shutil.which("apt-get") is None:
        raise InputError(
            f"This machine has no apt-get to download Debian's {package.name} {package.version} "
            f"with; {by_hand}, and start again."
        )
    make_folder(cache)
    # The folder lies in the cache, so that os.replace is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        # When an administrator runs apt, it downloads as the user _apt, who may not write here.
        command = ["apt-get", "-o", f"APT::Sandbox::User={_user()}", "download"]
        command.append(f"{package.name}={package.version}")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = Path(folder) / package.file
        if done.returncode != 0 or not found.is_file():
            raise InputError(
                f"apt-get could not download {package.name} {package.version} (an apt that never "
                f"ran `apt-get update` knows no packages, and another release of Debian has other "
                f"versions; {by_hand} then); it said: {_last_error(done.stderr)}"
            )
        digest = _sha256(found)
        if digest != package.sha256:
            raise InputError(
                f"{package.file} as downloaded has sha256 {digest}, not {package.sha256}: it is "
                "not the tested file, so it was deleted and nothing was done with it."
            )
        os.replace(found, place)
    return place


def read_package(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The wanted files of a .deb, by their paths inside it, such as usr/share/NAME.

    Raises InputError for a file that is no .deb, and for a path that the .deb does not have.
    """
    names = set(wanted)
    try:
        tar = lzma.decompress(_member(path.read_bytes(), "data.tar.xz"))
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            members = {each.name.removeprefix("./"): each for each in archive if each.isfile()}
            streams = {name: archive.extractfile(members[name]) for name in names & set(members)}
            found = {name: stream.read() for name, stream in streams.items() if stream}
    except (OSError, ValueError, lzma.LZMAError, tarfile.TarError) as error:
        raise InputError(f"{path}: not a Debian package that can be read ({error}).") from error
    missing = sorted(names - set(found))
    if missing:
        raise InputError(f"{path}: no {missing[0]} in it; this is another package.")
    return found


def _member(archive: bytes, name: str) -> bytes:
    """One member of an ar archive."""
    if not archive.startswith(_AR_MAGIC):
        raise ValueError("no ar archive")
    place = len(_AR_MAGIC)
    while place + _AR_HEAD <= len(archive):
        head = archive[place : place + _AR_HEAD]
        size = int(head[48:58])
        start = place + _AR_HEAD
        if head[:16].decode("ascii").rstrip().rstrip("/") == name:
            return archive[start : start + size]
        place = start + size + size % 2  # members begin at even places
    raise ValueError(f"no {name} in it")


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")] or lines
    return errors[-1] if errors else "nothing"
