#!/usr/bin/env python3
"""Train an image classifier whose blocks skip tokens, or evaluate one."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.train_classifier import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"train_classifier.py: {problem}")
