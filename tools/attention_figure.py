#!/usr/bin/env python3
"""What the class token attends to in each block, a dense classifier above a pruned one."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("attention-figure"))
