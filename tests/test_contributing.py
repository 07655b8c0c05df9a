"""CONTRIBUTING.md, followed to the letter in a copy of the repository: a policy that works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("svit_det", "configs", "tests", "tools", "docs", "pyproject.toml", "CONTRIBUTING.md")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npz")


def steps(heading):
    """What each code block under a heading is, and what the text before it says it is for.

    A file's path, the first in the text since the block before, or "bash"; then the block.
    """
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)^## ", text, re.M | re.S).group(1)
    _, *numbered = re.split(r"^\d\. ", section, flags=re.M)
    for step in numbered:
        ((language, block),) = re.findall(r"```(\w+)\n(.*?)```", step, re.S)
        yield "bash" if language == "bash" else step.split("`")[1], dedent(block)


def contents(folder):
    """Every file by its path, but not what Python leaves."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The repository without data and weights."""
    folder = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_a_policy_by_the_book(copied):
    before, named = contents(copied), set()
    for what, block in steps("Add a token policy"):
        if what != "bash":
            assert not (copied / what).exists(), what
            (copied / what).write_text(block, encoding="utf-8")
            named.add(what)
            continue
        for command in block.splitlines():
            program, *arguments = command.split()
            assert program == "python"
            status, said = run(copied, *arguments)
            assert status == 0, said
    after = contents(copied)
    touched = {path for path in after if after[path] != before.get(path)}
    assert touched == named | {"docs/config_keys.md", "docs/policies.md"} and len(named) == 3
    assert set(before) <= set(after)
    assert "## MODEL.TOKEN_POLICY.MY_METHOD" in after["docs/config_keys.md"].decode()
    assert "| MyMethod | yes |" in after["docs/policies.md"].decode()

    folders = ["tests/policies", "tests/detection/test_configs.py"]
    fresh = "tests/detection/test_config_keys.py::test_the_table_is_fresh"
    options = ["-q", "-p", "no:cacheprovider", "-k", "MyMethod or my_method or table_is_fresh"]
    status, said = run(copied, "-m", "pytest", *folders, fresh, *options)
    assert status == 0, said
    laws = int(re.search(r"(\d+) passed", said).group(1))
    assert laws > 60, said  # bare and under two wrappers

    status, said = run(copied, "-m", "pytest", "tests/test_architecture.py", "-q")
    assert status == 0, said


def test_the_steps_are_all_there():
    found = [what for what, _ in steps("Add a token policy")]
    assert found == [
        "svit_det/policies/my_method.py",
        "configs/plain_my_method_t.yaml",
        "tests/policies/test_my_method.py",
        "bash",
    ]
