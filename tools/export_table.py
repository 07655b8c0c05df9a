#!/usr/bin/env python3
"""The tables of docs/export.md: what exports, how far it is from the model, the shipped AP."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.export_table import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"export_table.py: {problem}")
