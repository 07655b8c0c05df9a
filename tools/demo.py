#!/usr/bin/env python3
"""Runs the shipped models on the default set's validation tiles."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("demo"))
