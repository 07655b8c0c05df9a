#!/usr/bin/env python3
"""Dense against pruned, fairly timed: blocks, backbone, whole detector and training step."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("benchmark"))
