#!/usr/bin/env python3
"""The layouts of the supplementary's tables 1 and 2, for any list of trained classifiers."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.classification_tables import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"classification_tables.py: {problem}")
