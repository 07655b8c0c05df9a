"""tests/skips.py: what does not run is a failure unless it is listed, with and without workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = Path(__file__).with_name("skips.py")
CONFTEST = """
import importlib.util

def pytest_configure(config):
    spec = importlib.util.spec_from_file_location("skips", {path!r})
    skips = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(skips)
    skips.ALLOWED[:] = [skips.Skip("test_it.py", "no such machine", "why"),
                        skips.Skip("test_it.py", "only elsewhere", "why", here=False)]
    config.pluginmanager.register(skips)
"""
IMPORTS = "import pytest, unittest\n"
PASSES = "def test(): pass\n"
FAILS = "def test(): assert False\n"
WORKERS = ["0", pytest.param("2", marks=pytest.mark.long)]


@pytest.fixture
def outcome(tmp_path):
    """Factory: (exit status, what pytest printed) of a test file under a list of two lines."""

    def run(source, *options):
        (tmp_path / "conftest.py").write_text(CONFTEST.format(path=str(SKIPS)))
        (tmp_path / "test_it.py").write_text(IMPORTS + source)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "."],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize(
    ("source", "counted"),
    [
        ("def test(): pytest.skip('no such machine here')\n", "1 skipped"),
        (f"@pytest.mark.skip(reason='no such machine')\n{FAILS}", "1 skipped"),
        (f"pytest.skip('no such machine', allow_module_level=True)\n{FAILS}", "1 skipped"),
        (PASSES, "1 passed"),
    ],
)
def test_what_is_listed_may_be_skipped(outcome, source, counted):
    status, printed = outcome(source)
    # A module of which nothing is left counts as no tests at all (5), as pytest has it.
    assert status == (5 if "module_level" in source else 0), printed
    assert re.search(rf"=+ {counted} in ", printed)


@pytest.mark.parametrize("workers", WORKERS)
def test_everything_else_is_a_failure(outcome, workers):
    tests = {
        "unlisted": "def test_{}(): pytest.skip('too lazy')\n",
        "elsewhere": "def test_{}(): pytest.skip('only elsewhere')\n",
        "mark": "@pytest.mark.skipif(True, reason='too lazy')\ndef test_{}(): pass\n",
        "unittest": "def test_{}(): raise unittest.SkipTest('too lazy')\n",
        "fixture": "@pytest.fixture\ndef no(): pytest.skip('no')\ndef test_{}(no): pass\n",
        "import": "def test_{}(): pytest.importorskip('no_such_package')\n",
        "none_left": "@pytest.mark.parametrize('x', [])\ndef test_{}(x): pass\n",
        "fails": "@pytest.mark.xfail(reason='later')\ndef test_{}(): assert False\n",
        "passes": "@pytest.mark.xfail(reason='later')\ndef test_{}(): pass\n",
        "not_run": "@pytest.mark.xfail(run=False, reason='later')\ndef test_{}(): pass\n",
        "said": "def test_{}(): pytest.xfail('later')\n",
    }
    source = "".join(text.format(name) for name, text in tests.items())
    status, printed = outcome(f"{source}{PASSES}", "-n", workers)
    assert status == 1, printed
    # What ends before the test itself begins is an error in the words of pytest.
    assert "7 failed, 1 passed, 4 errors in" in printed
    assert "test_it.py::test_unlisted was skipped (too lazy), and tests/skips.py does" in printed
    assert "test_it.py::test_fails is marked as an expected failure (later): mend it" in printed


@pytest.mark.parametrize("workers", WORKERS)
def test_a_whole_file_that_is_skipped_is_an_error(outcome, workers):
    skip = "pytest.skip('too lazy', allow_module_level=True)\n"
    status, printed = outcome(f"{skip}{PASSES}", "-n", workers)
    assert status not in (0, 5), printed
    assert "test_it.py was skipped (too lazy)" in printed


def test_every_line_says_why(request):
    skips = next(
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(SKIPS)
    )
    for skip in skips.ALLOWED:
        assert skip.why.endswith(".") and skip.reason
        assert list(SKIPS.parent.parent.glob(f"{skip.tests}*")), f"{skip.tests} is gone"
