#!/usr/bin/env python3
"""One HTML page about one or two models on your pictures."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("report"))
