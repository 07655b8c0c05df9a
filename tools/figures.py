#!/usr/bin/env python3
"""The figures of the supplementary on your pictures: attention, re-use, usage."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.figures import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"figures.py: {problem}")
