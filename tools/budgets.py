#!/usr/bin/env python3
"""How closely a trained model meets the budgets of TEST_KEEP_RATIO: see svit_det/cli/budgets.py."""

from __future__ import annotations

import sys

from svit_det.startup import prepare_process

prepare_process()

from svit_det.cli.budgets import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"budgets.py: {problem}")
