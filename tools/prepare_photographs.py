#!/usr/bin/env python3
"""Make the set of photographs: 210 in 8 groups, in ImageNet's layout."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("prepare-photographs"))
