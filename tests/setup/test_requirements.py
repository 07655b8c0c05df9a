"""Every package of the tested environment is pinned by hash."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(name):
    """Versions by normalised name."""
    found = PIN.findall((ROOT / name).read_text())
    return {re.sub("[-_.]+", "-", package).lower(): version for package, version in found}


def test_the_lock_has_every_line_of_the_requirements():
    """The command at its head makes it anew."""
    wanted, locked = pins("requirements.txt"), pins("requirements.lock")
    assert wanted and {name: locked.get(name) for name in wanted} == wanted


def test_every_package_of_the_lock_has_hashes():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\S)", text)
    packages = [entry for entry in entries if PIN.match(entry)]
    assert len(packages) == len(pins("requirements.lock"))
    assert [entry[:40] for entry in packages if "--hash=sha256:" not in entry] == []


def test_no_machine_is_named_in_the_lock():
    text = (ROOT / "requirements.lock").read_text()
    assert "file:" not in text and "--find-links" not in text and "index-url" not in text


def test_requirements_are_versions_and_nothing_else():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert not line.partition("#")[0].strip() or PIN.match(line), line
