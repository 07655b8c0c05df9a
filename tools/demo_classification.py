#!/usr/bin/env python3
"""The shipped classifiers at work on digits: accuracy, cost, and which tokens run."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.demo_classification import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"demo_classification.py: {problem}")
