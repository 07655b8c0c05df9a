#!/usr/bin/env python3
"""Weights with the names of other projects, as a checkpoint that a config of this project loads."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("convert"))
