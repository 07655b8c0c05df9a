#!/usr/bin/env python3
"""What the class token attends to in each block, a dense classifier above a pruned one."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.attention_figure import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"attention_figure.py: {problem}")
