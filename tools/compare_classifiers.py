#!/usr/bin/env python3
"""Every policy fine-tuned alike from one dense classifier, several seeds each, in one table."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys
from pathlib import Path

from svit_det.cli.compare_classifiers import main

if __name__ == "__main__":
    problem = main(sys.argv[1:], program=Path(__file__).resolve().parent / "train_classifier.py")
    if problem:
        sys.exit(f"compare_classifiers.py: {problem}")
