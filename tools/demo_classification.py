#!/usr/bin/env python3
"""The shipped classifiers at work on digits: accuracy, cost, and which tokens run."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("demo-classification"))
