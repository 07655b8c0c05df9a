#!/usr/bin/env python3
"""Draw the detections of a trained detector, and the tokens that its blocks kept."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("visualize"))
