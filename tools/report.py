#!/usr/bin/env python3
"""One HTML page about one or two models on your pictures."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.report import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"report.py: {problem}")
