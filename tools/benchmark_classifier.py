#!/usr/bin/env python3
"""Images per second of a classifier over batch sizes, in every way of running unequal lengths."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("benchmark-classifier"))
