"""Which tests may be skipped, and why. Any other skip is a failure, and so is an expected failure.

A test that nobody runs looks as green as one that passes. So a skip counts only where this list
has its test and its reason; everywhere else, in collection too, it is reported as a failure. To
add a line here is to say that a machine exists on which the test cannot run, not that it is slow
(mark it `long`) or that it fails (mend it).
"""

import os
import shutil
import sys
from dataclasses import dataclass

import pytest
import torch


@dataclass(frozen=True)
class Skip:
    """The tests whose ids begin with `tests` may be skipped for reasons that begin with `reason`.

    `here` is false on a machine that has what the tests need: there they may not be skipped.
    """

    tests: str
    reason: str
    why: str
    here: bool = True


ALLOWED = [
    Skip(
        "tests/policies/test_promises.py",
        "there is no GPU",
        "Whether the host waits for a GPU shows on one only; without one the same law runs on "
        "tensors that have no values.",
        here=not torch.cuda.is_available(),
    ),
    Skip(
        "tests/detection/",
        "SVIT_COCO_TINY names no folder",
        "Photographs of COCO may not travel with this repository; whoever has some names them.",
        here=not os.environ.get("SVIT_COCO_TINY"),
    ),
    Skip(
        "tests/benchmark/test_tool.py",
        "only Linux tells the peak of one call",
        "The peak of the resident memory is reset through /proc, which other systems do not have.",
        here=sys.platform != "linux",
    ),
    Skip(
        "tests/benchmark/test_arms.py",
        "this system does not tell",
        "The same: without Linux's /proc there is no peak to compare with.",
        here=sys.platform != "linux",
    ),
    Skip(
        "tests/report/test_browser.py",
        "no Chromium with its driver is installed",
        "A browser comes with the system, not with the package; .ci/run installs it where it may.",
        here=not (
            shutil.which("chromedriver")
            and (shutil.which("chromium") or shutil.which("chromium-browser"))
        ),
    ),
    Skip(
        "tests/test_files.py",
        "this user may write everywhere",
        "No folder is closed to root, as whom containers often run, so that nothing is refused.",
    ),
]


def verdict(test: str, reason: str, *, expected_failure: bool = False) -> str | None:
    """What is wrong with a test that did not run, in a sentence; None where the list allows it."""
    if expected_failure:
        return f"{test} is marked as an expected failure ({reason}): mend it or remove it."
    for skip in ALLOWED:
        if skip.here and test.startswith(skip.tests) and reason.startswith(skip.reason):
            return None
    return f"{test} was skipped ({reason}), and tests/skips.py does not allow it on this machine."


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a report says skipped, without the "Skipped: " that pytest puts before it."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def fail_unless_allowed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that is not on the list, and any expected failure, into a failure."""
    expected_failure = hasattr(report, "wasxfail")  # whether it did fail or passed after all
    if report.skipped or expected_failure:
        reason = report.wasxfail if expected_failure else reason_of(report)
        problem = verdict(report.nodeid, reason, expected_failure=expected_failure)
        if problem is not None:
            if expected_failure:
                del report.wasxfail  # else pytest goes on counting it as expected
            report.outcome, report.longrepr = "failed", problem


# First and around the others: `xfail` marks are handled inside. Under pytest-xdist these run in the
# workers, so that what reaches the process that counts is a failure already.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    report = yield
    fail_unless_allowed(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report():
    report = yield
    fail_unless_allowed(report)
    return report
