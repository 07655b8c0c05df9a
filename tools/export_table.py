#!/usr/bin/env python3
"""The tables of docs/export.md: which policies export, how far from the model, the shipped AP."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("export-table"))
