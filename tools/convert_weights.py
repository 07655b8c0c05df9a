#!/usr/bin/env python3
"""Weights with other people's names, as a checkpoint that a config of ours starts from."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("convert"))
