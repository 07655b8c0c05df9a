#!/usr/bin/env python3
"""Runs the shipped classifiers on digits: accuracy, cost, and the tokens that run."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("demo-classification"))
