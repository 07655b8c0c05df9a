#!/usr/bin/env python3
"""Dense against pruned, fairly timed: blocks, backbone, whole detector and training step."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys
from pathlib import Path

from svit_det.cli.benchmark import main

if __name__ == "__main__":
    problem = main(sys.argv[1:], program=Path(__file__).resolve())
    if problem:
        sys.exit(f"benchmark.py: {problem}")
